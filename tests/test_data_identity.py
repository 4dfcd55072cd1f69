"""Class names, counts and hashes of the data: what changes them, and what runs, teachers and evaluations say about it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_program
from runs import assert_one_line_error
from test_cli_data import FILES, assert_notes
from test_image_folder import create, make_cub200, write_classes, write_image

from mdistiller_ext import checkpoint
from mdistiller_ext.data import DataIdentity, create_loaders, create_test_loader
from mdistiller_ext.data.identity import SplitIdentity
from mdistiller_ext.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")


def write_tree(root: Path) -> Path:
    write_classes(root / "train", dict.fromkeys(("bird", "cat", "dog"), 4))
    write_classes(root / "val", dict.fromkeys(("bird", "cat", "dog"), 2))
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree")


def identity(root: Path, name: str = "folder") -> DataIdentity:
    train, test = create(name, root=root)
    assert train.identity is test.identity
    assert train.identity is not None
    return train.identity


def rename_class(root: Path, old: str = "bird", new: str = "parrot") -> None:
    for part in root.iterdir():
        (part / old).rename(part / new)


def add_training_image(root: Path) -> None:
    write_image(root / "train/cat/009.jpg")


def rename_test_image(root: Path) -> None:
    (root / "val/cat/000.jpg").rename(root / "val/cat/100.jpg")


def move_test_image(root: Path) -> None:
    """Of as many images in all, one is of another class."""
    (root / "val/cat/001.jpg").rename(root / "val/dog/002.jpg")


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (rename_class, "missing classes bird; new classes parrot"),
    (lambda root: [shutil.rmtree(root / part / "cat") for part in ("train", "val")], "missing classes cat"),
    (add_training_image, "train images 12 -> 13"),
    (rename_test_image, "test images 6, but not the same (SHA-256 "),
    (move_test_image, "test images 6, but not the same (SHA-256 "),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_every_change_of_a_tree_is_named(tree: Path, change: Callable[[Path], None], said: str) -> None:
    before = identity(tree)
    assert before.classes == ("bird", "cat", "dog")
    assert before.changes(identity(tree)) == []
    change(tree)
    assert "; ".join(before.changes(identity(tree))).startswith(said)


def test_neither_the_place_nor_a_limit_is_a_change(tree: Path, tmp_path: Path) -> None:
    before = identity(tree)
    tree.rename(tmp_path / "elsewhere")
    assert identity(tmp_path / "elsewhere") == before
    limited, _ = create("folder", root=tmp_path / "elsewhere", limit=3)
    assert limited.num_images == 3
    assert limited.identity == before


def test_data_in_memory_are_told_apart_by_their_bytes(glyphs_root: Path) -> None:
    train, test = create_loaders("glyphs", root=glyphs_root, batch_size=8, test_batch_size=8, limit=8)
    known = train.identity
    assert known is not None
    assert known is test.identity
    assert known.train is not None
    assert (known.classes[:3], known.train.images, known.test.images) == (("0", "1", "2"), 10_000, 2_000)  # type: ignore[index]

    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    other = images.clone()
    other[1, 2, 3, 3] = 1
    same, pixel, label = (
        SplitIdentity.of_tensors(split) for split in ((images, labels), (other, labels), (images, 1 - labels))
    )
    assert len({same, pixel, label}) == 3
    assert same == SplitIdentity.of_tensors((images.clone(), labels.clone()))


def test_the_order_of_classes_counts_and_none_are_compared_with_none() -> None:
    split = SplitIdentity(1, "hash")
    ab, ba, unnamed = (DataIdentity(classes, split) for classes in (("a", "b"), ("b", "a"), None))
    assert ab.changes(ba) == ["the same classes in another order"]
    assert ab.changes(unnamed) == unnamed.changes(ab) == []


def test_a_checkpoint_carries_it_and_anything_else_under_its_key_is_none(tmp_path: Path) -> None:
    known = DataIdentity(("a", "\udcff"), SplitIdentity(2, "x"), SplitIdentity(3, "y"))  # a name that is no UTF-8
    for identity in (known, DataIdentity(None, SplitIdentity(2, "x"))):
        checkpoint.save(tmp_path / "f", {"data": identity.plain()})
        assert DataIdentity.from_plain(checkpoint.load(tmp_path / "f")["data"]) == identity
    plain = known.plain()
    wrong: list[Any] = [
        None,
        "cifar100",
        {},
        [plain],
        plain | {"classes": "ab"},
        plain | {"classes": (1, 2)},
        plain | {"more": 1},
    ]
    wrong += [plain | {"test": None}, plain | {"test": {"images": "2", "sha256": "x"}}, plain | {"test": {"images": 2}}]
    assert [DataIdentity.from_plain(value) for value in wrong] == [None] * len(wrong)


# ---- the test split alone -----------------------------------------------------------------------------------------


def write_single(root: Path) -> Path:
    write_classes(root, {"bird": 5, "cat": 5})
    return root


def write_archive(root: Path) -> Path:
    make_cub200(root / "CUB_200_2011")
    return root


@pytest.mark.parametrize(
    ("name", "write", "train"),
    [
        ("folder", write_tree, "train"),
        ("imagenet", write_tree, "train"),
        ("folder", write_single, None),
        ("folder", write_archive, None),
    ],
)
def test_the_test_loader_alone_is_that_of_both(
    tmp_path: Path, name: str, write: Callable[[Path], Path], train: str | None
) -> None:
    root = write(tmp_path / "data")
    count = 3 if write is write_tree else 2
    options: dict[str, Any] = {"root": root, "num_classes": count, "image_size": 32, "num_workers": 0}
    _, both = create_loaders(name, batch_size=2, test_batch_size=4, **options)
    if train is not None:
        shutil.rmtree(root / train)  # nor is it looked for
    alone = create_test_loader(name, batch_size=4, **options)
    assert (alone.num_classes, alone.num_images, len(alone)) == (both.num_classes, both.num_images, len(both))
    for batch, expected in zip(alone, both, strict=True):
        assert torch.equal(batch[0], expected[0])
        assert torch.equal(batch[1], expected[1])
    assert alone.identity is not None
    assert both.identity is not None
    assert both.identity.changes(alone.identity) == []
    assert alone.identity == DataIdentity(both.identity.classes, both.identity.test)


def test_the_test_split_of_data_in_memory_is_read_alone(glyphs_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, both = create_loaders("glyphs", root=glyphs_root, batch_size=8, test_batch_size=8)
    monkeypatch.setattr("mdistiller_ext.data.glyphs.Glyphs.load", None)
    alone = create_test_loader("glyphs", root=glyphs_root, batch_size=8)
    assert torch.equal(alone.images, both.images)  # type: ignore[union-attr]
    assert alone.identity == DataIdentity(both.identity.classes, both.identity.test)  # type: ignore[union-attr]


@pytest.mark.parametrize("num_classes", [0, 1])
def test_data_of_one_class_are_refused(tmp_path: Path, num_classes: int) -> None:
    write_classes(tmp_path / "train", {"cat": 2})
    write_classes(tmp_path / "val", {"cat": 1})
    with pytest.raises(ConfigError, match=f"'folder' in {tmp_path} has only the class cat; a classifier needs two"):
        create("folder", root=tmp_path, num_classes=num_classes)


# ---- runs ---------------------------------------------------------------------------------------------------------

NETWORK = "torchvision/shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Any]]:
    """A tree, the folder of a run on it, and the run's arguments."""
    prefix = tmp_path_factory.mktemp("trained")
    arguments = [*FILES, "DATASET.TYPE", "folder", "DISTILLER.STUDENT", NETWORK, "LOG.PREFIX", prefix, "SOLVER.EPOCHS", 2]
    root = write_tree(prefix / "tree")
    arguments += ["DATASET.ROOT", root]
    finished = run_program("train.py", *arguments, "LOG.SAVE_CHECKPOINT_FREQ", 1)
    assert (finished.status, finished.err) == (0, "")
    return root, prefix / "p/run", arguments


def changed(trained: tuple[Path, Path, list[Any]], tmp_path: Path, change: Callable[[Path], Any]) -> list[Any]:
    """The setting of DATASET.ROOT that names a changed copy of the tree."""
    root = tmp_path / "changed"
    shutil.copytree(trained[0], root)
    change(root)
    return ["DATASET.ROOT", root]


def test_every_file_of_a_run_carries_the_identity_and_the_folder_the_classes(trained: tuple[Path, Path, list[Any]]) -> None:
    root, folder, _ = trained
    expected = identity(root)
    files = ["latest", "previous", "best", "epoch_1", "student_latest", "student_best", "student_1"]
    assert [DataIdentity.from_plain(checkpoint.load(folder / name)["data"]) for name in files] == [expected] * len(files)
    assert (folder / "classes.txt").read_text() == "bird\ncat\ndog\n"


def test_evaluation_on_other_classes_is_refused(trained: tuple[Path, Path, list[Any]], tmp_path: Path) -> None:
    settings = changed(trained, tmp_path, rename_class)
    for asked in (["-c", trained[1]], ["-c", trained[1] / "best", "-m", NETWORK]):
        refused = run_program("eval.py", *asked, *settings)
        assert_one_line_error(refused, str(trained[1]), "missing classes bird; new classes parrot", "DATASET.ROOT")


def test_evaluation_on_other_test_images_is_noted(trained: tuple[Path, Path, list[Any]], tmp_path: Path) -> None:
    settings = changed(trained, tmp_path, lambda root: (root / "val/cat/001.jpg").unlink())
    shutil.rmtree(tmp_path / "changed/train")
    evaluated = run_program("eval.py", "-c", trained[1], *settings)
    assert evaluated.status == 0, evaluated.err
    assert_notes(evaluated.err, f"{trained[1]} was trained with another test set: test images 6 -> 5")
    same = run_program("eval.py", "-c", trained[1])
    assert (same.status, same.err) == (0, "")


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_a_run_does_not_go_on_with_other_data(
    trained: tuple[Path, Path, list[Any]], tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    _, folder, arguments = trained
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    refused = run_program("train.py", "--resume", *arguments, *changed(trained, tmp_path, change))
    assert_one_line_error(refused, f"the run in {folder} began with ({said}", "put those back, or start a new run")
    assert {file: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_a_run_goes_on_where_its_data_have_moved(trained: tuple[Path, Path, list[Any]], tmp_path: Path) -> None:
    resumed = run_program("train.py", "--resume", *trained[2], *changed(trained, tmp_path, lambda root: None))
    assert (resumed.status, resumed.err) == (0, "")


def test_a_teacher_of_other_classes_is_refused_and_one_of_other_images_is_not(
    trained: tuple[Path, Path, list[Any]], tmp_path: Path
) -> None:
    _, folder, arguments = trained
    arguments = [*arguments, *changed(trained, tmp_path, add_training_image), "LOG.PREFIX", tmp_path]
    teacher = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", NETWORK, "DISTILLER.TEACHER_CKPT", folder]
    taught = run_program("train.py", *arguments, *teacher)
    assert (taught.status, taught.err) == (0, "")
    rename_class(tmp_path / "changed")
    refused = run_program("train.py", *arguments, *teacher, "EXPERIMENT.NAME", "other")
    assert_one_line_error(refused, f"{folder}/student_latest", "missing classes bird; new classes parrot")
    started = run_program("train.py", *arguments, "DISTILLER.STUDENT_CKPT", folder)  # what it starts from it may unlearn
    assert (started.status, "earlier run" in started.out) == (0, True), started.err
