"""The data room: what loaders promise, what the glyphs are, how CIFAR-100 arrives, and what goes wrong in one line."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdistiller_ext.data import InMemoryDataset, InMemoryLoader, cifar100, create_loaders
from mdistiller_ext.data.augment import Augment, crop_flip, random_crop, random_crop_flip
from mdistiller_ext.data.base import balanced_choice, check_split
from mdistiller_ext.data.cifar100 import CIFAR100
from mdistiller_ext.data.glyphs import CHARACTERS, FACES, Glyphs, draw_glyphs
from mdistiller_ext.errors import ConfigError, CorruptFileError, MissingFileError, UnknownNameError
from mdistiller_ext.registry import DATASETS

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def random_images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 32, 32), generator=generator).byte()


def make_loader(count: int = 100, seed: int = 0, augment: Augment | None = random_crop_flip) -> InMemoryLoader:
    """A shuffled loader whose labels tell the images apart."""
    return InMemoryLoader(
        random_images(count),
        torch.arange(count),
        batch_size=32,
        mean=MEAN,
        std=STD,
        augment=augment,
        shuffle=True,
        seed=seed,
    )


def epoch_of(loader: InMemoryLoader, epoch: int) -> tuple[Tensor, Tensor]:
    loader.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


# ---------------------------------------------------------------------------------------------------------- loader


def test_an_epoch_is_a_pure_function_of_seed_and_epoch() -> None:
    first = epoch_of(make_loader(), 3)
    loader = make_loader()
    epoch_of(loader, 7)
    torch.manual_seed(123)
    again = epoch_of(loader, 3)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize(("seed", "epoch"), [(0, 4), (1, 3), (3, 0), (2**32, 3)])
def test_other_seeds_and_epochs_differ_in_order_and_in_crops(seed: int, epoch: int) -> None:
    images, labels = epoch_of(make_loader(), 3)
    other_images, other_labels = epoch_of(make_loader(seed=seed), epoch)
    assert not torch.equal(labels, other_labels)
    assert not torch.equal(images[labels.argsort()], other_images[other_labels.argsort()])


def test_no_global_generator_is_touched() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002 - the legacy state is the point
    epoch_of(make_loader(), 1)
    draw_glyphs(100, seed=0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


def test_every_image_comes_once_and_the_last_batch_is_kept() -> None:
    loader = make_loader(100, augment=None)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [32, 32, 32, 4]
    assert (len(loader), loader.num_images, loader.image_shape, loader.batch_size) == (4, 100, (3, 32, 32), 32)
    images, labels = epoch_of(loader, 0)
    assert torch.equal(labels.sort().values, torch.arange(100))
    plain = InMemoryLoader(loader.images, loader.labels, batch_size=100, mean=MEAN, std=STD)
    assert torch.equal(images, next(iter(plain))[0][labels])


def test_without_shuffle_the_order_is_the_files() -> None:
    loader = InMemoryLoader(random_images(10), torch.arange(10), batch_size=4, mean=MEAN, std=STD)
    assert torch.equal(epoch_of(loader, 5)[1], torch.arange(10))


@pytest.mark.parametrize("gathered", [32, 1024])
@pytest.mark.parametrize("augment", [None, random_crop_flip])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_several_processes_share_an_epoch(
    monkeypatch: pytest.MonkeyPatch, world_size: int, augment: Augment | None, gathered: int
) -> None:
    monkeypatch.setattr("mdistiller_ext.data.loader._GATHERED", gathered)
    make = functools.partial(
        InMemoryLoader, random_images(97), torch.arange(97), batch_size=32, mean=MEAN, std=STD, augment=augment
    )
    for shuffle in (True, False):
        alone = make(shuffle=shuffle)
        alone.set_epoch(2)
        whole = list(alone)
        assert [len(labels) for _, labels in whole] == [32, 32, 32, 1]
        for rank in range(world_size):
            loader = make(shuffle=shuffle, rank=rank, world_size=world_size)
            assert (len(loader), loader.num_images) == (4, 97)
            for first_batch in range(5):
                loader.set_epoch(2, first_batch)
                for (images, labels), (all_images, all_labels) in zip(loader, whole[first_batch:], strict=True):
                    assert torch.equal(images, all_images[rank::world_size])
                    assert torch.equal(labels, all_labels[rank::world_size])
                if first_batch < 4:
                    assert images.shape == (1 if rank == 0 else 0, 3, 32, 32)


def test_normalisation_equals_torchvision() -> None:
    from torchvision import transforms

    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    images = random_images(8)
    ours = next(iter(InMemoryLoader(images, torch.arange(8), batch_size=8, mean=MEAN, std=STD)))[0]
    theirs = torch.stack([reference(image.permute(1, 2, 0).numpy()) for image in images])
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        InMemoryLoader(random_images(1), torch.arange(1), batch_size=0, mean=MEAN, std=STD)


# ------------------------------------------------------------------------------------------------------- crop, flip


@pytest.mark.parametrize(("height", "width", "padding"), [(32, 32, 4), (8, 6, 2), (5, 5, 0)])
def test_crop_flip_equals_one_image_at_a_time(height: int, width: int, padding: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50, 3, height, width), generator=generator).byte()
    top, left = torch.randint(2 * padding + 1, (2, 50), generator=generator)
    flip = torch.rand(50, generator=generator) < 0.5
    expected = []
    for image, y, x, mirrored in zip(images, top, left, flip, strict=True):
        padded = torch.zeros(3, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + height, padding : padding + width] = image
        window = padded[:, y : y + height, x : x + width]
        expected.append(window.flip(2) if mirrored else window)
    assert torch.equal(crop_flip(images, top, left, flip, padding), torch.stack(expected))


@pytest.mark.parametrize("augment", [random_crop, random_crop_flip])
def test_offsets_are_uniform_and_flips_even(augment: Augment) -> None:
    count = 20_000
    # Two marked pixels, one above the other in brightness, tell offset and flip from the augmented image alone.
    images = torch.zeros(count, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 15, 15], images[:, :, 15, 16] = 1, 2
    out = augment(images, torch.Generator().manual_seed(0)).flatten(1)
    bright, dim = (out == 2).int().argmax(1), (out == 1).int().argmax(1)
    flip = bright < dim
    assert int((out.sum(1) == 3).sum()) == count  # no pixel of these can leave the window
    row, column = dim // 32, torch.where(flip, 31 - dim % 32, dim % 32)
    cells = torch.bincount((row - 11) * 9 + (column - 11), minlength=81)
    assert len(cells) == 81
    expected = count / 81
    chi_square = float(((cells - expected) ** 2 / expected).sum())
    assert chi_square < 140  # 80 degrees of freedom: mean 80, and 140 is exceeded once in 20,000 times
    assert abs(float(flip.float().mean()) - (0.5 if augment is random_crop_flip else 0)) < 0.015


# ----------------------------------------------------------------------------------------------------------- glyphs


def test_glyphs_are_deterministic_balanced_and_new_for_every_seed() -> None:
    images, labels = draw_glyphs(400, seed=0)
    again, labels_again = draw_glyphs(400, seed=0)
    other, _ = draw_glyphs(400, seed=1)
    assert (images.dtype, images.shape, labels.dtype) == (torch.uint8, (400, 3, 32, 32), torch.int64)
    assert torch.equal(images, again)
    assert torch.equal(labels, labels_again)
    assert torch.bincount(labels).tolist() == [4] * 100
    assert not torch.equal(images, other)


def test_there_are_100_characters_and_every_face_has_them() -> None:
    import matplotlib
    from matplotlib.ft2font import FT2Font

    assert len(set(CHARACTERS)) == len(CHARACTERS) == Glyphs.num_classes == 100
    for face in FACES:
        characters = FT2Font(f"{matplotlib.get_data_path()}/fonts/ttf/{face}.ttf").get_charmap()
        assert all(ord(character) in characters for character in CHARACTERS), face


def test_glyphs_are_cached_and_a_damaged_cache_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = create_loaders("glyphs", root=tmp_path, batch_size=500, test_batch_size=500)
    assert (first[0].num_images, first[1].num_images) == (10_000, 2_000)
    files = sorted((tmp_path / "glyphs").iterdir())
    assert [file.suffix for file in files] == [".pt", ".pt"]  # and no temporary file is left

    pixels = first[0].images.float().div(255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(pixels.mean(1), torch.tensor(Glyphs.mean), atol=1e-3, rtol=0)
    torch.testing.assert_close(pixels.std(1), torch.tensor(Glyphs.std), atol=1e-3, rtol=0)

    whole = files[1].read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no archive at all"):
        files[1].write_bytes(damaged)
        healed = Glyphs().load(tmp_path)
        assert torch.equal(healed[1][0], first[1].images)
        assert files[1].read_bytes() == whole

    def fail(count: int, seed: int) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr("mdistiller_ext.data.glyphs.draw_glyphs", fail)
    (images, labels), _ = Glyphs().load(tmp_path)
    assert torch.equal(images, first[0].images)
    assert torch.equal(labels, first[0].labels)


def test_glyphs_need_no_writable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdistiller_ext.data.glyphs.draw_glyphs", lambda count, seed: draw_glyphs(100, seed))
    (tmp_path / "file").touch()
    (images, _), _ = Glyphs().load(tmp_path / "file")  # no folder can be made below a file, whoever asks
    assert len(images) == 100


# --------------------------------------------------------------------------------------------------- create_loaders


class Squares(InMemoryDataset):
    """A user's data set: 3 classes, 4 + 2 images of each, no augmentation."""

    num_classes = 3
    mean = std = (0.5, 0.5, 0.5)

    def load(self, root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
        return (random_images(12), labels), (random_images(6, seed=1), labels[::2])


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(DATASETS._entries, "squares", Squares)
    return "squares"


def test_a_users_data_set(squares: str) -> None:
    train, test = create_loaders(squares, batch_size=5, test_batch_size=4)
    assert (train.num_images, len(train), test.num_images, len(test)) == (12, 3, 6, 2)
    _, labels = epoch_of(train, 1)
    assert labels.tolist() != train.labels.tolist()
    assert labels.sort().values.tolist() == train.labels.tolist()


def test_limit_keeps_a_balanced_choice(squares: str) -> None:
    train, test = create_loaders(squares, batch_size=5, test_batch_size=4, limit=5)
    assert train.labels.tolist() == test.labels.tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(train.images, random_images(12)[[0, 4, 8, 1, 5]])
    labels = torch.tensor([2, 2, 2, 0])  # class 1 is empty, class 0 runs out
    assert balanced_choice(labels, 3).tolist() == [3, 0, 1]
    assert balanced_choice(labels, 9).tolist() == [3, 0, 1, 2]


def test_mistakes_are_named(squares: str) -> None:
    create = functools.partial(create_loaders, batch_size=4, test_batch_size=4)
    with pytest.raises(ConfigError, match=r"limit of images must be 0 \(all\) or more, got -1"):
        create(squares, limit=-1)
    with pytest.raises(UnknownNameError, match="did you mean 'glyphs'"):
        create("glyph")
    with pytest.raises(ConfigError, match=r"image size \(DATASET.IMAGE_SIZE\) must be at most 4096 pixels, got 4097"):
        create(squares, image_size=4097)


@pytest.mark.parametrize(
    "values",
    [
        *("abc", 0.5, (0.5, 0.5), (0.5, "0.5", 0.5), (0.5, True, 0.5), [[0.5], [0.5], [0.5]]),
        *((0.5, torch.nan, 0.5), (0.5, 0.5, torch.inf), (0.5, 0.5, 10**40)),
    ],
    ids=str,
)
def test_what_is_no_mean_or_deviation_is_refused(squares: str, values: Any) -> None:
    create = functools.partial(create_loaders, squares, batch_size=4, test_batch_size=4)
    for name in ("mean", "std"):
        with pytest.raises(
            ConfigError, match=r"^mean and std must be three numbers each, on the scale 0..1, std above 0, got "
        ):
            create(**{name: values})
    create(mean=[0, 0.5, 1], std=np.float32([0.5, 0.5, 0.5]).tolist())


@pytest.mark.parametrize("strong", ["cutout", 3, {"cutout"}])
def test_strong_augmentations_are_a_list_of_names(squares: str, strong: Any) -> None:
    with pytest.raises(ConfigError, match=r"are a list of names, such as \[cutout\]; got "):
        create_loaders(squares, batch_size=4, test_batch_size=4, strong=strong)
    with pytest.raises(UnknownNameError, match="unknown augmentation '3'"):
        create_loaders(squares, batch_size=4, test_batch_size=4, strong=[3])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 8, 8), torch.arange(2), r"images must be uint8 \[N, 3, H, W\], got float32 \[2, 3, 8, 8\]"),
        (torch.zeros(2, 8, 8, 3).byte(), torch.arange(2), r"got uint8 \[2, 8, 8, 3\]"),
        (torch.zeros(2, 3, 8, 8).byte(), torch.arange(3), r"labels must be int64 \[2\].*got int64 \[3\]"),
        (torch.zeros(2, 3, 8, 8).byte(), torch.ones(2), r"labels must be int64 \[2\].*got float32 \[2\]"),
        (torch.zeros(2, 3, 8, 8).byte(), torch.tensor([1, 5]), r"labels must lie in 0..4 \(num_classes\), got 1..5"),
        (torch.zeros(0, 3, 8, 8).byte(), torch.arange(0), "no images"),
    ],
)
def test_splits_that_do_not_fit_are_refused(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_split((images, labels), 5, "data set 'mine' (train)")


# -------------------------------------------------------------------------------------------------------- CIFAR-100


def pickle_as_python2(entry: dict[str, object]) -> bytes:
    """Protocol 2 with dtype's flags as integers, as the real files have them; some numpy versions stumble over that."""
    data = pickle.dumps(entry, protocol=2)
    assert data.count(b"\x89\x88\x87") == ("data" in entry)
    return data.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


class Archive:
    """A small CIFAR-100 in the real format: the archive's bytes and what is in it."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.pixels = {name: rng.integers(256, size=(n, 3072), dtype=np.uint8) for name, n in (("train", 20), ("test", 10))}
        self.labels = {name: rng.integers(100, size=len(rows)).tolist() for name, rows in self.pixels.items()}
        self.md5 = {}
        source = folder / "cifar-100-python"
        source.mkdir(parents=True)
        entries: dict[str, dict[str, object]] = {
            name: {"data": rows, "fine_labels": self.labels[name]} for name, rows in self.pixels.items()
        }
        entries["meta"] = {"fine_label_names": [str(n) for n in range(100)]}
        for name, entry in entries.items():
            data = pickle_as_python2(entry)
            (source / name).write_bytes(data)
            self.md5[name] = hashlib.md5(data).hexdigest()
        self.path = folder / "cifar-100-python.tar.gz"
        with tarfile.open(self.path, "w:gz") as tar:
            tar.add(source, "cifar-100-python")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Such an archive, which is now taken for the real one; its address leads nowhere."""
    from torchvision import datasets

    archive = Archive(tmp_path / "server")
    monkeypatch.setattr(cifar100, "MD5", hashlib.md5(archive.path.read_bytes()).hexdigest())
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", archive.md5["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", archive.md5["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": archive.md5["meta"]})
    with socket.socket() as free:  # a port that nobody listens on
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(cifar100, "URL", f"http://127.0.0.1:{free.getsockname()[1]}/{archive.path.name}")
    return archive


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Serves a folder on this machine under CIFAR-100's address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    servers: list[http.server.ThreadingHTTPServer] = []

    def start(folder: Path) -> None:
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cifar-100-python.tar.gz"
        monkeypatch.setattr(cifar100, "URL", url)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_holds(root: Path, archive: Archive) -> None:
    for (images, labels), name in zip(CIFAR100().load(root), ("train", "test"), strict=True):
        assert np.array_equal(images.numpy(), archive.pixels[name].reshape(-1, 3, 32, 32))
        assert images.is_contiguous()
        assert labels.tolist() == archive.labels[name]
    alone = CIFAR100()
    for tensor, expected in zip(alone.load_test(root), (images, labels), strict=True):
        assert torch.equal(tensor, expected)
    assert alone.classes == [str(n) for n in range(100)]


def test_cifar100_is_downloaded_once(tmp_path: Path, archive: Archive, serve: Callable[[Path], None]) -> None:
    serve(archive.path.parent)
    assert_holds(tmp_path, archive)
    archive.path.unlink()  # from here on the server has nothing to give
    assert_holds(tmp_path, archive)
    train, test = create_loaders("cifar100", root=tmp_path, batch_size=8, test_batch_size=4)
    assert (train.num_images, test.num_images, train.augment) == (20, 10, random_crop_flip)


def test_an_archive_fetched_by_hand_is_unpacked(tmp_path: Path, archive: Archive) -> None:
    (tmp_path / "mine").mkdir()
    archive.path.rename(tmp_path / "mine" / archive.path.name)
    assert_holds(tmp_path / "mine", archive)


def test_missing_and_unreachable_is_one_line_with_the_remedy(tmp_path: Path, archive: Archive) -> None:
    with pytest.raises(MissingFileError) as caught:
        CIFAR100().load(tmp_path / "data")
    message = str(caught.value)
    assert "\n" not in message
    assert f"not in {tmp_path}/data/cifar-100-python" in message
    assert "refused" in message
    assert f"curl -C - -L -o {tmp_path}/data/cifar-100-python.tar.gz http://127.0.0.1" in message


def test_half_a_download_is_no_data(tmp_path: Path, archive: Archive, serve: Callable[[Path], None]) -> None:
    half = tmp_path / "half"
    half.mkdir()
    data = archive.path.read_bytes()
    (half / archive.path.name).write_bytes(data[: len(data) // 2])
    serve(half)
    for _ in range(2):
        with pytest.raises(CorruptFileError, match=r"not in .*data/cifar-100-python: what came from .* MD5 hash .* not match"):
            CIFAR100().load(tmp_path / "data")
    serve(archive.path.parent)
    assert_holds(tmp_path / "data", archive)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_damaged_file_is_named(tmp_path: Path, archive: Archive, serve: Callable[[Path], None], name: str) -> None:
    serve(archive.path.parent)
    CIFAR100().load(tmp_path)
    damaged = tmp_path / "cifar-100-python" / name
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(CorruptFileError, match=f"{damaged} is damaged .* delete it and start again"):
        CIFAR100().load(tmp_path)
    damaged.unlink()
    assert_holds(tmp_path, archive)
