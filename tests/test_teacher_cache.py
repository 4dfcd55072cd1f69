"""The cache of the teacher's logits: same results, no second run of the teacher, nothing half-written is believed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext.acceleration import accelerate
from mdistiller_ext.build import build_trainer, caches_teacher
from mdistiller_ext.config import load_config
from mdistiller_ext.data import InMemoryLoader, random_crop, random_crop_flip
from mdistiller_ext.errors import ConfigError, CorruptFileError
from mdistiller_ext.models import create_model
from mdistiller_ext.registry import DISTILLERS
from mdistiller_ext.teacher_cache import CachedTeacherLoader, LogitTable, cached_teacher_loader
from tests.support.images import random_images

CLASSES, CPU = 7, torch.device("cpu")
WEIGHTS = torch.randn(3 * 32 * 32, CLASSES, generator=torch.Generator().manual_seed(1))


class Teacher:
    """A linear network that counts the images it is given."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return images.flatten(1) @ WEIGHTS


def make_loader(**options: object) -> InMemoryLoader:
    labels = torch.arange(40) % CLASSES
    return InMemoryLoader(
        random_images(40),
        labels,
        batch_size=9,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        shuffle=True,
        with_index=True,
        **{"augment": random_crop, "with_view": True, **options},  # type: ignore[arg-type]
    )


def make_cached(
    folder: Path, mode: str = "disk", dtype: str = "float32", **options: object
) -> tuple[CachedTeacherLoader, Teacher]:
    teacher = Teacher()
    about = {"name": "data-net", "teacher_sha256": "0"}
    loader = make_loader(**options)
    return cached_teacher_loader(loader, teacher, mode=mode, dtype=dtype, folder=folder, about=about), teacher


# ---- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_row_is_known_once_it_is_written_whole(dtype: torch.dtype) -> None:
    table = LogitTable.empty(6, CLASSES, dtype, CPU)
    rows = torch.tensor([4, 1])
    logits = torch.stack([torch.randn(CLASSES), torch.zeros(CLASSES)])  # zeros are what an empty row holds
    assert not table.known(torch.arange(6)).any()
    table.write(rows, logits)
    assert table.known(torch.arange(6)).tolist() == [False, True, False, False, True, False]
    torch.testing.assert_close(table.logits[rows].float(), logits, atol=0 if dtype == torch.float32 else 1e-2, rtol=0)

    for entry in range(CLASSES):  # a kill between the two, or a damaged disk: any changed number
        damaged = LogitTable(table.logits.clone(), table.sums)
        damaged.logits[4, entry] += 0.01
        assert damaged.known(rows).tolist() == [False, True]


# ---- the loader -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [random_crop, random_crop_flip])
@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_batches_hold_the_teachers_logits_and_the_teacher_runs_once_a_view(
    tmp_path: Path, mode: str, augment: Callable[..., Tensor]
) -> None:
    cached, teacher = make_cached(tmp_path, mode, augment=augment)
    plain = make_loader(augment=augment, with_view=False)
    seen: set[tuple[int, int]] = set()
    for epoch in range(3):
        cached.set_epoch(epoch)
        plain.set_epoch(epoch)
        cached.loader.set_epoch(epoch)
        views = [view for *_, view in cached.loader]
        before, unseen = teacher.images, 0
        for (images, labels, index, logits), expected, view in zip(cached, plain, views, strict=True):
            for part, its in zip((images, labels, index), expected, strict=True):
                assert torch.equal(part, its)
            torch.testing.assert_close(logits, images.flatten(1) @ WEIGHTS)
            new = set(zip(index.tolist(), view.tolist(), strict=True)) - seen
            unseen += -(-len(new) // 16) * 16  # the teacher's batches are padded
            seen |= new
        assert teacher.images - before == unseen
    cached.set_epoch(2)
    before = teacher.images
    list(cached)
    assert teacher.images == before


def test_processes_and_runs_share_the_files_and_their_bits(tmp_path: Path) -> None:
    (first, teacher), (second, second_teacher) = make_cached(tmp_path), make_cached(tmp_path)
    batches = list(first)
    for theirs, ours in zip(batches, second, strict=True):  # opened before the other one was filled
        assert torch.equal(theirs[3], ours[3])
    assert (teacher.images, second_teacher.images) == (5 * 16, 0)
    assert len(list(tmp_path.iterdir())) == 1  # and no temporary file

    # What a row holds does not depend on who asked for it first: here other batches, of another seed and rank.
    other, _ = make_cached(tmp_path / "other", seed=5, rank=1, world_size=2)
    for epoch in range(40):
        other.set_epoch(epoch)
        list(other)
    rows = torch.arange(40 * 81)
    tables = [next(folder.glob("data-net-*")) for folder in (tmp_path, tmp_path / "other")]
    one, two = (LogitTable.on_disk(table, {}, 40 * 81, CLASSES, torch.float32) for table in tables)
    both = one.known(rows) & two.known(rows)
    assert both.sum() > 5
    assert torch.equal(one.logits[both], two.logits[both])


def test_filling_ahead_leaves_nothing_for_the_teacher(tmp_path: Path) -> None:
    cached, teacher = make_cached(tmp_path)
    list(cached)
    cached.fill()
    before = teacher.images
    assert before >= 40 * 81
    for epoch in range(5):
        cached.set_epoch(epoch)
        list(cached)
    again, _ = make_cached(tmp_path)
    again.fill()
    assert teacher.images == before
    assert bool(
        LogitTable.on_disk(next(tmp_path.iterdir()), {}, 40 * 81, CLASSES, torch.float32).known(torch.arange(3240)).all()
    )


def test_other_teachers_data_augmentations_and_precisions_have_other_files(tmp_path: Path) -> None:
    loader = make_loader()
    for options in ({}, {"dtype": "float16"}, {"teacher": "1"}, {"augment": random_crop_flip}, {"mean": (0.4, 0.5, 0.5)}):
        loader = make_loader(augment=options.get("augment", random_crop))
        loader.mean = options.get("mean", loader.mean)  # type: ignore[assignment]
        about = {"name": "data-net", "teacher_sha256": options.get("teacher", "0")}
        dtype = str(options.get("dtype", "float32"))
        cached_teacher_loader(loader, Teacher(), mode="disk", dtype=dtype, folder=tmp_path, about=about)
    assert len(list(tmp_path.iterdir())) == 5


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_before_training_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"No space left on device\. Free some space, .*TEACHER_CACHE to memory or off"):
        make_cached(tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_two_processes_that_make_the_files_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, _ = make_cached(tmp_path)
    list(cached)
    before = {file.name: file.read_bytes() for file in next(tmp_path.iterdir()).iterdir()}
    answers = iter([False])  # what the second process saw before the first one had made them
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: next(answers, None) is None and is_dir(path))
    make_cached(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_damaged_files_are_named(tmp_path: Path) -> None:
    make_cached(tmp_path)
    folder = next(tmp_path.iterdir())
    whole = (folder / "logits.npy").read_bytes()
    for damaged in (b"", b"no array at all", whole.replace(b"(3240, 7)", b"(7, 3240)")):
        (folder / "logits.npy").write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=r"data-net-\w+ .*delete it"):
            make_cached(tmp_path)


def test_too_little_memory_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"needs 4000000\d*\.\d GB on cpu"):
        LogitTable.empty(10**13, 100, torch.float32, CPU)


# ---- runs -----------------------------------------------------------------------------------------------------------


def train(glyphs_root: Path, *overrides: object) -> list[dict[str, float]]:
    data = ["DATASET.ROOT", str(glyphs_root), "DATASET.LIMIT", 100, "SOLVER.EPOCHS", 2, "SOLVER.LR", 0.01]
    trainer = build_trainer(load_config("configs/glyphs/kd/res20_res8.yaml", [*data, *overrides]))
    trainer.train()
    return trainer.history


@pytest.mark.parametrize("options", [(), ("DISTILLER.TYPE", "PRKD"), ("DISTILLER.TYPE", "DEEPKD", "SOLVER.TRAINER", "deepkd")])
def test_a_run_has_the_losses_of_one_without_the_cache(glyphs_root: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    disk = ("DISTILLER.TEACHER_CACHE", "disk", "DISTILLER.TEACHER_CACHE_FOLDER", str(tmp_path))
    without, first, full = (train(glyphs_root, *options, *cache) for cache in ((), disk, disk))
    half = train(glyphs_root, *options, *disk, "DISTILLER.TEACHER_CACHE_DTYPE", "float16")
    assert first == full  # bit for bit
    for row, cached, rounded in zip(without, first, half, strict=True):
        assert row.keys() == cached.keys()
        for name in (name for name in row if "/" in name):
            assert cached[name] == pytest.approx(row[name], rel=1e-5), name
            assert rounded[name] == pytest.approx(row[name], rel=5e-3), name


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            ("DISTILLER.TYPE", "AT"),
            "reads the features 'feats' of the teacher, and DISTILLER.TEACHER_CACHE keeps its logits alone",
        ),
        (("DISTILLER.TYPE", "CATKD"), "keeps its logits alone"),
        (("DISTILLER.TYPE", "MLKD"), "the method uses the views weak, strong"),
        (("DATASET.STRONG", "[cutout]"), r"DATASET.STRONG cutout has no finite number of views of an image. Set it to off"),
        (("DISTILLER.TEACHER_CACHE", "ram"), "must be one of off, memory, disk, not 'ram'"),
        (("DISTILLER.TEACHER_CACHE_DTYPE", "bf16"), "must be float32 or float16, not 'bf16'"),
    ],
)
def test_what_cannot_be_cached_is_refused_with_the_reason(glyphs_root: Path, settings: tuple[str, ...], reason: str) -> None:
    teacher = ("DISTILLER.TEACHER_CKPT", "teachers/glyphs/resnet20.pth")
    with pytest.raises(ConfigError, match=reason):
        train(glyphs_root, "DISTILLER.TEACHER_CACHE", "memory", *teacher, *settings)


@pytest.mark.parametrize(
    ("dataset", "reason"), [("tiny_imagenet", "a rotation by any angle"), ("folder", "read from image files")]
)
def test_augmentations_with_endless_views_are_refused(dataset: str, reason: str) -> None:
    config = load_config(None, ["DATASET.TYPE", dataset, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_CACHE", "disk"])
    with pytest.raises(ConfigError, match=rf"TEACHER_CACHE disk is not possible: .*{reason}.*\. Set it to off"):
        caches_teacher(config)


def test_a_student_alone_needs_no_cache_and_yaml_may_say_off(glyphs_root: Path, tmp_path: Path) -> None:
    file = tmp_path / "off.yaml"
    file.write_text("DISTILLER: {TEACHER_CACHE: off}\n")  # false, to yaml 1.1
    assert load_config(file).DISTILLER.TEACHER_CACHE == "off"
    alone = ("DISTILLER.TYPE", "NONE", "SOLVER.EPOCHS", 1)
    assert train(glyphs_root, *alone) == train(glyphs_root, *alone, "DISTILLER.TEACHER_CACHE", "memory")


def test_a_cache_that_may_only_be_read_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = make_cached(tmp_path)
    first.fill()
    load = np.load

    def read_only(path: Path, mmap_mode: str) -> np.ndarray:
        if mmap_mode == "r+":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return load(path, mmap_mode=mmap_mode)

    monkeypatch.setattr(np, "load", read_only)
    cached, teacher = make_cached(tmp_path)
    list(cached)
    assert teacher.images == 0


def test_methods_with_hooks_on_the_teacher_are_refused() -> None:
    class Hooked(DISTILLERS.get("KD")):  # type: ignore[misc]
        def __init__(self, student: nn.Module, teacher: nn.Module, **settings: Any) -> None:
            super().__init__(student, teacher, **settings)
            teacher.layer3.register_forward_hook(lambda *_: None)

    distiller = Hooked(create_model("resnet8"), create_model("resnet8"))
    distiller.teacher_is_cached = True
    with pytest.raises(
        ConfigError, match=r"forward hooks on the teacher's layer3, .*TEACHER_CACHE has its logits: set it to off"
    ):
        accelerate(distiller, (3, 32, 32), fold_teacher=False)
