"""Dataloader workers that die or hang, passes left in the middle, and images that cannot be read."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mdistiller_ext.build import build_loaders
from mdistiller_ext.config import load_config
from mdistiller_ext.data import WorkerLoader, worker_loader, worker_pool
from mdistiller_ext.data.image_files import Pixels
from mdistiller_ext.data.image_transforms import Transform, evaluation_transform
from mdistiller_ext.errors import (
    ConfigError,
    ConfigWarning,
    CorruptFileError,
    DataWorkerError,
    MissingFileError,
    Note,
    TrainingError,
)
from tests.support.images import STD, create, write_image

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # machines of one core
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),  # Python 3.12 on fork
]

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many workers as are asked for, also on machines of one core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


@pytest.fixture(autouse=True)
def no_worker_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also notice quickly that one has died, and not by a handler that another test's DataLoader installed."""
    monkeypatch.setattr(worker_pool, "_POLL", 0.2)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    kill(multiprocessing.active_children())


def batches_of(loader: WorkerLoader, epoch: int = 0, first_batch: int = 0) -> Batches:
    loader.set_epoch(epoch, first_batch)
    return list(loader)


def assert_same(batches: Batches, expected: Batches) -> None:
    assert [labels.tolist() for _, labels in batches] == [labels.tolist() for _, labels in expected]
    assert all(torch.equal(images, others) for (images, _), (others, _) in zip(batches, expected, strict=True))


def notes_of(notes: pytest.WarningsRecorder) -> list[str]:
    return sorted(str(note.message) for note in notes)


def loaders_of(root: Path, **options: Any) -> list[WorkerLoader]:
    """The training loader and the test loader."""
    return [loader for loader in create("folder", root=root, seed=3, **options) if isinstance(loader, WorkerLoader)]


def loader_of(root: Path, **options: Any) -> WorkerLoader:
    return loaders_of(root, **options)[0]


# --------------------------------------------------------------------------------------------------------- workers


class Deadly:
    """A transform that ends its worker, by a signal or an exit status, or hangs, at an image 41 pixels wide."""

    def __init__(self, how: int = -signal.SIGKILL) -> None:
        self.transform, self.how = evaluation_transform(32), how

    def __call__(self, pixels: Pixels, generator: random.Random) -> Tensor:
        if pixels.shape[1] == 41 and get_worker_info() is not None:
            if self.how == HANG:
                time.sleep(3)  # and not for ever: DataLoader waits 5 s for its workers before it ends them
            if self.how > 0:
                os._exit(self.how)
            os.kill(os.getpid(), -self.how)
        return self.transform(pixels, generator)


HANG = 0


def deadly_loader(folder: Path, transform: Transform, deadly: int = 6, workers: int = 2, **options: Any) -> WorkerLoader:
    """10 images, one of them deadly, in 5 batches."""
    paths = [folder / f"{i}.png" for i in range(10)]
    for i, path in enumerate(paths):
        write_image(path, size=(41 if i == deadly else 40, 30))
    samples = [(path, i) for i, path in enumerate(paths)]
    settings = {"image_size": 32, "num_classes": 10, "batch_size": 2, "mean": STD, "std": STD, "num_workers": workers}
    return WorkerLoader(samples, transform, **{**settings, **options})


def kill(workers: list[Any]) -> None:
    for worker in workers:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("victims", [1, 2])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_killed_worker_raises_where_a_batch_is_waited_for_and_a_new_pass_goes_on_exactly(
    tree: Path, victims: int, after: int
) -> None:
    expected = batches_of(loader_of(tree), 2)
    loader = loader_of(tree, num_workers=2)
    loader.set_epoch(2)
    batches: Batches = []

    def two_passes() -> None:
        """The second one notices a death after the first one's last batch had come."""
        for batch in itertools.chain(loader, loader):
            batches.append(batch)
            if len(batches) == after:
                kill(multiprocessing.active_children()[:victims])  # torch's handler would raise here, in a training step

    message = r"^a dataloader worker died \(pid \d+: SIGKILL(, pid \d+: SIGKILL)?\)\. .*/dev/shm.*DATASET\.NUM_WORKERS; 0 reads"
    with pytest.raises(DataWorkerError, match=message) as caught:
        two_passes()
    assert str(caught.value).count("pid") == victims
    assert not multiprocessing.active_children()
    assert_same(batches, expected[: len(batches)])
    assert len(batches) >= after
    assert_same(batches_of(loader, 2, len(batches)), expected[len(batches) :])
    assert_same(batches_of(loader, 2), expected)
    loader.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("how", "said"), [(-signal.SIGKILL, "SIGKILL"), (-signal.SIGBUS, "SIGBUS"), (3, "exit status 3")])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_while_it_is_waited_for_is_one_line(tmp_path: Path, workers: int, how: int, said: str) -> None:
    transform = Deadly(how)
    expected = batches_of(deadly_loader(tmp_path, transform, workers=0))
    loader = deadly_loader(tmp_path, transform, workers=workers)
    batches: Batches = []
    with pytest.raises(TrainingError, match=rf"^a dataloader worker died \(pid \d+: {said}\)\. ") as caught:
        batches.extend(loader)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()
    loader = deadly_loader(tmp_path, evaluation_transform(32), workers=workers)
    assert_same(batches_of(loader), expected)
    loader.close()


def test_a_worker_that_hangs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = iter(deadly_loader(tmp_path, Deadly(HANG), workers=1))
    batches: Batches = [next(loader)]  # the worker is started by then, which takes a while on a busy machine
    monkeypatch.setattr(worker_pool, "_TIMEOUT", 1.5)
    with pytest.raises(TrainingError, match=r"^dataloader workers delivered no batch for 1\.5 seconds\. .*DATASET\.NUM"):
        batches.extend(loader)
    assert len(batches) == 3
    assert not multiprocessing.active_children()


def test_a_loader_whose_worker_is_dead_can_be_closed(tree: Path) -> None:
    loader = loader_of(tree, num_workers=2)
    next(iter(loader))
    kill(multiprocessing.active_children()[:1])
    loader.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_a_transform_is_no_death(tmp_path: Path, workers: int) -> None:
    def mistaken(pixels: Pixels, generator: random.Random) -> Tensor:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    loader = deadly_loader(tmp_path, mistaken, workers=workers)
    with pytest.raises(RuntimeError, match="is killed by signal"):  # and no Note, which would be an error here
        list(loader)


def test_a_worker_leaves_ctrl_c_to_the_process_that_trains(tree: Path) -> None:
    loader = loader_of(tree, num_workers=2)
    running = iter(loader)
    batches = [next(running), next(running)]  # one from each, so that both have started
    workers = multiprocessing.active_children()
    for worker in workers:
        os.kill(worker.pid or 0, signal.SIGINT)
    assert_same([*batches, *running], batches_of(loader_of(tree)))
    workers[0].join(0.3)
    assert [worker.is_alive() for worker in workers] == [True, True]
    loader.close()


def test_a_batch_without_shared_memory_is_one_line_with_the_remedy(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", full)  # the workers are forked with it
    loader = loader_of(tree, num_workers=1)
    message = r"a dataloader worker cannot hand over a batch of 0\.0 MiB: .*No space left on device.*DATASET\.NUM_WORKERS"
    with pytest.raises(TrainingError, match=message):
        list(loader)
    loader.close()
    assert len(list(loader_of(tree))) == 4  # in this process none is needed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_left_in_the_middle_is_followed_by_the_right_batches(tree: Path, workers: int) -> None:
    alone = loader_of(tree)
    expected = {epoch: batches_of(alone, epoch) for epoch in (1, 2)}
    loader = loader_of(tree, num_workers=workers)
    for epoch, left_after, first_batch in [(1, 1, 2), (1, 3, 0), (2, 2, 1), (1, 1, 4)]:
        loader.set_epoch(1)
        for number, _ in enumerate(loader, 1):
            if number == left_after:
                break
        assert_same(batches_of(loader, epoch, first_batch), expected[epoch][first_batch:])
    loader.set_epoch(1)
    held = iter(loader)
    next(held)  # not even collected
    assert_same(batches_of(loader, 2, 1), expected[2][1:])
    loader.close()


# ---------------------------------------------------------------------------------------------------------- images


def spoil(path: Path, kind: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(content[: len(content) // 2] if kind == "half" else b"")


KINDS = ["half", "empty", "gone", "folder"]
TRAIN_BAD = {7: "b/002", 8: "b/003", 14: "c/004"}  # the next readable ones are 9 and, round the end, 0
TEST_BAD = {1: "a/001", 4: "c/000", 5: "c/001"}  # nothing is left of the second batch of four


def spoil_all(root: Path, kind: str) -> None:
    for part, bad in (("train", TRAIN_BAD), ("val", TEST_BAD)):
        for name in bad.values():
            spoil(root / part / f"{name}.jpg", kind)


def assert_named(notes: pytest.WarningsRecorder, folder: Path, bad: dict[int, str], kind: str) -> None:
    said = "is gone; " if kind == "gone" else "is no readable image ("
    for note, name in zip(notes_of(notes), sorted(bad.values()), strict=True):
        assert note.startswith(f"skipped: {folder}/{name}.jpg {said}")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_an_unreadable_image_stops(tree: Path, kind: str, workers: int) -> None:
    for options in ({}, {"on_error": "stop"}):
        train, test = loaders_of(tree, num_workers=workers, **options)
        if not options:
            spoil_all(tree, kind)
        for loader, part, bad in ((train, "train", TRAIN_BAD), (test, "val", TEST_BAD)):
            error, said = (MissingFileError, "is gone") if kind == "gone" else (CorruptFileError, r"is no readable image \(")
            with pytest.raises(error, match=rf"^{tree}/{part}/({'|'.join(bad.values())})\.jpg {said}"):
                list(loader)
        train.close()
        test.close()
        if kind in ("gone", "folder"):
            break  # from now on they are not even listed


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_an_unreadable_image_is_skipped_and_named_once(tree: Path, kind: str, workers: int) -> None:
    train, test = loaders_of(tree, on_error="skip", num_workers=workers)
    epochs = (2, 1)
    clean, clean_test = [batches_of(train, epoch) for epoch in epochs], batches_of(test)
    spoil_all(tree, kind)
    with pytest.warns(Note) as notes:
        passes = [batches_of(train, epoch) for epoch in epochs]
    assert_named(notes, tree / "train", TRAIN_BAD, kind)
    with pytest.warns(Note) as notes:
        test_passes = [batches_of(test) for _ in range(2)]
    assert_named(notes, tree / "val", TEST_BAD, kind)

    for epoch, batches, undisturbed in zip(epochs, passes, clean, strict=True):
        train.set_epoch(epoch)
        order = [index for indices, _ in train._keys for index in indices]
        image_of = dict(zip(order, torch.cat([images for images, _ in undisturbed]), strict=True))
        shown = [{7: 9, 8: 9, 14: 0}.get(index, index) for index in order]
        assert [len(labels) for _, labels in batches] == [4, 4, 4, 3]
        assert torch.cat([labels for _, labels in batches]).tolist() == [index // 5 for index in shown]
        assert torch.equal(torch.cat([images for images, _ in batches]), torch.stack([image_of[index] for index in shown]))
    for batches in test_passes:
        assert [labels.tolist() for _, labels in batches] == [[0, 1, 1], []]
        assert torch.equal(batches[0][0], clean_test[0][0][[0, 2, 3]])
        assert batches[1][0].shape == (0, 3, 32, 32)
    train.close()
    test.close()


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (3, 0), (4, 0), (3, 1)])
def test_several_processes_skip_the_same_images(tree: Path, world_size: int, workers: int) -> None:
    alone = loaders_of(tree, on_error="skip")
    ranks = [
        loaders_of(tree, on_error="skip", num_workers=workers, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    spoil_all(tree, "empty")
    expected, expected_test = (batches_of(loader, 1) for loader in alone)
    for rank, (train, _) in enumerate(ranks):
        theirs = [(images[rank::world_size], labels[rank::world_size]) for images, labels in expected]
        assert_same(batches_of(train, 1), theirs)
    shares = [batches_of(test, 1) for _, test in ranks]
    for number, (images, labels) in enumerate(expected_test):
        parts = [share[number] for share in shares]
        found = {image.numpy().tobytes(): int(label) for part in parts for image, label in zip(*part, strict=True)}
        assert found == {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
        assert sum(len(labels) for _, labels in parts) == len(labels)
    for loaders in ranks:
        for loader in loaders:
            loader.close()


@pytest.mark.parametrize(("workers", "world_size"), [(0, 1), (2, 1), (0, 3)])
def test_where_no_image_can_be_read_the_first_is_named(tree: Path, workers: int, world_size: int) -> None:
    loaders = loaders_of(tree, on_error="skip", num_workers=workers, rank=world_size - 1, world_size=world_size)
    for path in tree.glob("*/*/*.jpg"):
        path.write_bytes(b"")
    for loader, part, count in zip(loaders, ("train", "val"), (15, 6), strict=True):
        message = rf"^none of {count} images in a row can be read: {tree}/{part}/./00.\.jpg is no readable image \("
        with pytest.raises(CorruptFileError, match=message):  # and no Notes, which would be errors
            list(loader)
        loader.close()


@pytest.mark.filterwarnings("ignore:skipped")
def test_too_many_unreadable_images_in_a_row_are_no_accident(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = loaders_of(tree, on_error="skip")
    spoil_all(tree, "gone")
    monkeypatch.setattr(worker_loader, "_IN_A_ROW", 2)
    for loader in loaders:
        with pytest.raises(MissingFileError, match=r"^none of 2 images in a row can be read: "):
            list(loader)


@pytest.mark.parametrize("name", ["folder", "glyphs"])
def test_what_to_do_at_an_unreadable_image_is_one_of_two_words(tmp_path: Path, name: str) -> None:
    message = r"^on_error \(DATASET.ON_ERROR\) must be stop or skip, got 'ignore'$"
    with pytest.raises(ConfigError, match=message):  # before any file is looked for
        create(name, root=tmp_path / "absent", on_error="ignore")
    with pytest.raises(ConfigError, match=message):
        deadly_loader(tmp_path, Deadly(), on_error="ignore")


def test_the_setting_reaches_the_loaders(tree: Path) -> None:
    (tree / "train/b/002.jpg").write_bytes(b"")
    settings = ["DATASET.TYPE", "folder", "DATASET.ROOT", str(tree), "DATASET.IMAGE_SIZE", 32, "DATASET.NUM_WORKERS", 0]
    with pytest.raises(CorruptFileError):
        list(build_loaders(load_config(None, settings), torch.device("cpu"))[0])
    loader, _ = build_loaders(load_config(None, [*settings, "DATASET.ON_ERROR", "skip"]), torch.device("cpu"))
    with pytest.warns(Note, match=rf"^skipped: {tree}/train/b/002\.jpg is no readable image"):
        ((_, labels),) = loader
    assert len(labels) == 15
    with pytest.warns(ConfigWarning, match=r"without effect in this run: DATASET.ON_ERROR \(glyphs is kept in memory\)"):
        load_config(None, ["DATASET.TYPE", "glyphs", "DATASET.ON_ERROR", "skip"])
