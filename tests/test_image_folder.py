"""Image files: the layouts that are understood, what the loader with worker processes promises, and mistakes in one line."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from mdistiller_ext.data import ImageFolderDataset, WorkerLoader, create_loaders, create_test_loader, dataset_entry
from mdistiller_ext.data.augment import STRONG
from mdistiller_ext.data.base import Samples, check_samples
from mdistiller_ext.data.image_files import read_image
from mdistiller_ext.data.image_transforms import training_transform
from mdistiller_ext.data.loader import mix_seeds
from mdistiller_ext.errors import ConfigError, ConfigWarning, CorruptFileError, MissingFileError, UnknownNameError
from mdistiller_ext.registry import DATASETS

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # machines of one core
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),  # Python 3.12 on fork
]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

create = functools.partial(create_loaders, batch_size=4, test_batch_size=4, num_workers=0, image_size=32)


def write_image(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> None:
    """Noise that follows from the path's last two parts, so that no two images are the same."""
    seed = int.from_bytes(hashlib.sha256("/".join(path.parts[-2:]).encode()).digest()[:4], "big")
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def write_classes(folder: Path, counts: dict[str, int], suffix: str = ".jpg") -> None:
    for name, count in counts.items():
        for i in range(count):
            write_image(folder / name / f"{i:03}{suffix}")


def files_of(loader: WorkerLoader) -> list[str]:
    """The last two parts of the loader's paths."""
    paths = [Path(path.decode()) for path in loader._pool.dataset.paths]  # type: ignore[attr-defined]
    return ["/".join(path.parts[-2:]) for path in paths]


def epoch_of(loader: Iterable[tuple[Tensor, Tensor]], epoch: int = 0) -> tuple[Tensor, Tensor]:
    loader.set_epoch(epoch)  # type: ignore[attr-defined]
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """3 classes, 5 + 2 images of each, in train/ and val/."""
    write_classes(tmp_path / "train", dict.fromkeys("abc", 5))
    write_classes(tmp_path / "val", dict.fromkeys("abc", 2))
    return tmp_path


# ---------------------------------------------------------------------------------------------------------- loader


def test_a_loader_says_what_it_yields(tree: Path) -> None:
    train, test = create("folder", root=tree)
    assert (train.num_images, len(train), train.num_classes, train.image_shape) == (15, 4, 3, (3, 32, 32))
    assert (test.num_images, len(test), test.num_classes, test.image_shape) == (6, 2, 3, (3, 32, 32))
    batches = list(train)
    assert [images.shape for images, _ in batches] == [(4, 3, 32, 32)] * 3 + [(3, 3, 32, 32)]
    assert {(images.dtype, labels.dtype) for images, labels in batches} == {(torch.float32, torch.int64)}
    assert epoch_of(train)[1].sort().values.tolist() == sorted([0, 1, 2] * 5)
    assert epoch_of(test, 5)[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_an_epoch_is_the_same_with_and_without_workers(tree: Path) -> None:
    alone, _ = create("folder", root=tree, seed=3)
    helped, helped_test = create("folder", root=tree, seed=3, num_workers=2)
    first = [epoch_of(alone, epoch) for epoch in (1, 2)]
    next(iter(helped))  # a pass that is broken off leaves nothing behind
    for epoch in (2, 1):  # in whatever order, from the workers that stay
        images, labels = epoch_of(helped, epoch)
        assert torch.equal(images, first[epoch - 1][0])
        assert torch.equal(labels, first[epoch - 1][1])
    assert not torch.equal(first[0][1], first[1][1])
    assert epoch_of(helped_test)[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_what_an_image_becomes_depends_on_neither_batch_size_nor_order(tree: Path) -> None:
    def by_file(**options: Any) -> dict[str, Tensor]:
        loader, _ = create("folder", root=tree, **options)
        images, _ = epoch_of(loader, 1)
        order = [index for indices, _ in loader._keys for index in indices]  # type: ignore[union-attr]
        return dict(zip([files_of(loader)[index] for index in order], images, strict=True))  # type: ignore[arg-type]

    usual, other, new = by_file(), by_file(batch_size=7), by_file(seed=1)
    assert usual.keys() == other.keys() == new.keys()
    assert all(torch.equal(usual[file], other[file]) for file in usual)
    assert not any(torch.equal(usual[file], new[file]) for file in usual)


def test_no_global_generator_is_touched(tree: Path) -> None:
    for workers in (0, 1):
        train, test = create("folder", root=tree, strong=STRONG, num_workers=workers)
        state = torch.get_rng_state()
        epoch_of(train, 1)
        epoch_of(test, 1)
        assert torch.equal(state, torch.get_rng_state())


def test_images_equal_a_pipeline_of_torchvisions_written_by_hand(tree: Path) -> None:
    train, test = create("folder", root=tree, image_size=28, seed=5)
    files = [tree / "train" / name for name in files_of(train)]  # type: ignore[arg-type]
    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(28),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    epoch_seed = mix_seeds(5, 2)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(epoch_seed)).tolist()
    expected = []
    for index in order:
        torch.manual_seed(mix_seeds(epoch_seed, index))
        expected.append(pipeline(Image.open(files[index])))
    torch.testing.assert_close(epoch_of(train, 2)[0], torch.stack(expected), rtol=0, atol=2e-6)

    pipeline = v2.Compose([v2.Resize(32), v2.CenterCrop(28), *pipeline.transforms[2:]])
    expected = [pipeline(Image.open(tree / "val" / name)) for name in files_of(test)]  # type: ignore[arg-type]
    torch.testing.assert_close(epoch_of(test)[0], torch.stack(expected), rtol=0, atol=2e-6)


def test_mean_and_std_can_be_given(tree: Path) -> None:
    _, usual = create("folder", root=tree)
    _, test = create("folder", root=tree, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    pixels = epoch_of(usual)[0] * std + mean
    torch.testing.assert_close(epoch_of(test)[0], (pixels - 0.5) / 0.25, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (3, 2), (4, 0)])
def test_several_processes_share_an_epoch(tree: Path, world_size: int, workers: int) -> None:
    sizes = {"batch_size": 7, "test_batch_size": 5}  # the last batches are of one image, in training and in the test
    ranks = [
        create("folder", root=tree, num_workers=workers, rank=r, world_size=world_size, **sizes) for r in range(world_size)
    ]
    for which, alone in enumerate(create("folder", root=tree, **sizes)):
        alone.set_epoch(2)
        whole = list(alone)
        assert len(whole[-1][1]) == 1
        for rank, loaders in enumerate(ranks):
            loader = loaders[which]
            assert (len(loader), loader.num_images) == (len(alone), alone.num_images)
            for first_batch in range(len(whole) + 1):
                loader.set_epoch(2, first_batch)
                for (images, labels), (all_images, all_labels) in zip(loader, whole[first_batch:], strict=True):
                    assert torch.equal(images, all_images[rank::world_size])
                    assert torch.equal(labels, all_labels[rank::world_size])
                if first_batch < len(whole):
                    assert images.shape == (1 if rank == 0 else 0, 3, 32, 32)
            loader.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1"])
def test_every_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode in ("L", "CMYK") else "x.png")
    write_image(path, mode)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_line_that_names_it(tree: Path, workers: int) -> None:
    damaged = tree / "train/b/002.jpg"
    whole = damaged.read_bytes()
    train, _ = create("folder", root=tree, num_workers=workers)
    for content in (b"", whole[: len(whole) // 2], b"no image at all"):
        damaged.write_bytes(content)
        with pytest.raises(CorruptFileError) as caught:
            list(train)
        assert str(caught.value).startswith(f"{damaged} is no readable image (")
        assert "\n" not in str(caught.value)
    damaged.unlink()
    with pytest.raises(MissingFileError, match=f"{damaged} is gone"):
        list(train)
    train.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [ValueError("one\ntwo"), EOFError(), IndexError("bytes"), MemoryError()])
def test_whatever_a_decoder_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    write_image(tmp_path / "x.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    for content in (None, (tmp_path / "x.png").read_bytes()):
        with pytest.raises(CorruptFileError, match=rf"^{tmp_path}/x\.png is no readable image \(") as caught:
            read_image(tmp_path / "x.png", content)
        assert "\n" not in str(caught.value)


def test_a_closed_loader_has_no_workers_and_can_start_others(tree: Path) -> None:
    train, _ = create("folder", root=tree, num_workers=1)
    expected = epoch_of(train, 1)[1]
    (worker,) = multiprocessing.active_children()
    train.close()  # type: ignore[union-attr]
    assert not worker.is_alive()
    train.close()  # type: ignore[union-attr]
    assert torch.equal(epoch_of(train, 1)[1], expected)
    train.close()  # type: ignore[union-attr]
    assert not multiprocessing.active_children()


# ---------------------------------------------------------------------------------------------- strong augmentation


@pytest.mark.parametrize("strong", [(name,) for name in STRONG] + [("autoaugment", "cutout"), ("cutout", "randaugment")])
def test_strong_augmentations_follow_crop_and_flip(strong: Sequence[str]) -> None:
    image = Image.fromarray(np.full((30, 40, 3), (200, 100, 50), np.uint8))
    images = []
    for seed in range(20):
        torch.manual_seed(seed)
        images.append(training_transform(32, strong)(image))
    stacked = torch.stack(images)
    plain = training_transform(32)(image)
    assert (stacked.dtype, stacked.shape) == (torch.uint8, (20, 3, 32, 32))
    changed = (stacked != plain).flatten(1).any(1)
    assert 1 <= int(changed.sum()) <= (13 if strong == ("erasing",) else 20)
    if strong == ("cutout",):
        holes = (stacked == 0).all(1).sum((1, 2))
        assert changed.all()
        assert int(holes.min()) >= 8 * 8
        assert int(holes.max()) <= 16 * 16


def test_the_order_of_strong_augmentations_is_kept() -> None:
    steps = training_transform(32, ["erasing", "autoaugment"]).transforms  # type: ignore[attr-defined]
    assert [type(step).__name__ for step in steps[2:]] == ["PILToTensor", "RandomErasing", "AutoAugment"]
    steps = training_transform(32, ["autoaugment", "erasing"]).transforms  # type: ignore[attr-defined]
    assert [type(step).__name__ for step in steps[2:]] == ["AutoAugment", "PILToTensor", "RandomErasing"]


# ---------------------------------------------------------------------------------------------------------- folder


@pytest.mark.parametrize("test_folder", ["val", "test", "valid"])
def test_train_and_a_test_folder(tmp_path: Path, test_folder: str) -> None:
    write_classes(tmp_path / "train", {"b": 1, "a": 2}, suffix=".JPEG")
    write_classes(tmp_path / test_folder, {"a": 1, "b": 1}, suffix=".Png")
    write_image(tmp_path / "train/b/deep/er.jpg")
    (tmp_path / "train/a/._000.jpg").write_bytes(b"what macOS leaves")
    (tmp_path / "train/a/readme.txt").touch()
    (tmp_path / "train/.cache").mkdir()
    train, test = create("folder", root=tmp_path)
    assert files_of(train) == ["a/000.JPEG", "a/001.JPEG", "b/000.JPEG", "deep/er.jpg"]
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert files_of(test) == ["a/000.Png", "b/000.Png"]


@pytest.mark.parametrize("folder", ["256_ObjectCategories", "."])
def test_a_tree_without_a_split_is_split_by_names_alone(tmp_path: Path, folder: str) -> None:
    counts = {"001.ak47": 10, "002.flag": 4, "003.single": 1}
    write_classes(tmp_path / folder, counts)
    train, test = create("folder", root=tmp_path, num_classes=3)
    assert torch.bincount(train.labels).tolist() == [8, 3, 1]
    assert torch.bincount(test.labels).tolist() == [2, 1]
    # Pinned: the test set of a tree is the same everywhere and for ever.
    assert files_of(test) == ["001.ak47/004.jpg", "001.ak47/007.jpg", "002.flag/000.jpg"]
    _, half = create("folder", root=tmp_path, test_fraction=0.5)
    assert torch.bincount(half.labels).tolist() == [5, 2]
    assert set(files_of(test)) < set(files_of(half))
    assert not set(files_of(half)) & set(files_of(create("folder", root=tmp_path, test_fraction=0.5)[0]))


def test_folders_that_cannot_be_understood(tmp_path: Path) -> None:
    with pytest.raises(
        MissingFileError, match=f"{tmp_path}/absent is not a folder; point DATASET.ROOT at one that holds train/"
    ):
        create("folder", root=tmp_path / "absent")
    with pytest.raises(
        MissingFileError, match=f"in {tmp_path} are laid out in no way that is understood.*CUB-200.*Caltech-256"
    ):
        create("folder", root=tmp_path)
    write_classes(tmp_path / "train", {"a": 1, "b": 1})
    with pytest.raises(MissingFileError, match=f"no val/, test/ or valid/ beside it.*point DATASET.ROOT at {tmp_path}/train"):
        create("folder", root=tmp_path)
    write_classes(tmp_path / "val", {"a": 1, "c": 1, "d": 1})
    with pytest.raises(
        CorruptFileError, match=r"train \(2\) and .*val \(3\) are not the same: b only in train/; c, d only in val/"
    ):
        create("folder", root=tmp_path)
    (tmp_path / "val").rename(tmp_path / "old")
    write_classes(tmp_path / "val", {"a": 1})
    (tmp_path / "val/b").mkdir()
    with pytest.raises(MissingFileError, match=f"class folder {tmp_path}/val/b holds no images"):
        create("folder", root=tmp_path)


@pytest.mark.parametrize(
    ("images", "folders", "message"),
    [
        (["a/1.jpg", "a/2.jpg", "b/1.jpg"], ["c"], "class folder {root}/c holds no images"),
        (["a/1.jpg", "a/2.jpg", "b/1.jpg"], ["c/inner"], "class folder {root}/c holds no images"),
        (["a/1.jpg", "b/1.jpg"], [], "every class folder in {root} holds one image; each class needs 2 images"),
    ],
)
def test_what_a_tree_without_a_split_lacks_is_named(
    tmp_path: Path, images: list[str], folders: list[str], message: str
) -> None:
    for image in images:
        write_image(tmp_path / image)
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(MissingFileError, match=message.format(root=tmp_path)):
        create("folder", root=tmp_path)


def test_a_tree_without_a_split_is_read_at_any_depth(tmp_path: Path) -> None:
    for image in ("a/1.jpg", "a/in/2.jpg", "b/in/1.jpg", "b/in/deep/2.jpg"):
        write_image(tmp_path / "some" / image)
    for image in ("a/images/1.jpg", "a/images/2.jpg", "b/images/1.jpg", "b/images/deep/2.jpg"):
        write_image(tmp_path / "all" / image)
    for root in (tmp_path / "some", tmp_path / "all"):
        train, test = create("folder", root=root)
        assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [0, 1])
    with pytest.raises(MissingFileError, match="laid out in no way that is understood"):  # two data sets, not two classes
        create("folder", root=tmp_path)


def test_links_are_followed_but_not_in_circles(tree: Path) -> None:
    (tree / "elsewhere").mkdir()
    write_image(tree / "elsewhere/more.jpg")
    (tree / "train/a/link").symlink_to(tree / "elsewhere")
    (tree / "train/b/link.jpg").symlink_to(tree / "elsewhere/more.jpg")
    before = [*(f"a/{i:03}.jpg" for i in range(5)), "link/more.jpg", *(f"b/{i:03}.jpg" for i in range(5)), "b/link.jpg"]
    for target in (".", "..", tree / "train", tree, "link"):
        link = tree / "train/a/circle"
        link.symlink_to(target)
        (tree / "elsewhere/back").symlink_to(tree / "train/a")
        assert files_of(create("folder", root=tree)[0])[:12] == before
        link.unlink()
        (tree / "elsewhere/back").unlink()


def test_only_files_are_images(tree: Path) -> None:
    before = files_of(create("folder", root=tree)[0])
    os.mkfifo(tree / "train/a/pipe.jpg")
    (tree / "train/a/dir.png").mkdir()
    assert files_of(create("folder", root=tree)[0]) == before
    assert files_of(create("folder", root=tree / "train", test_fraction=0.01)[0])
    write_image(tree / "train/a/dir.png/x.jpg")
    assert files_of(create("folder", root=tree)[0]) == [*before[:5], "dir.png/x.jpg", *before[5:]]


@pytest.mark.parametrize("name", ["a/gone.jpg", "a/gone", "gone", "a/itself"])
def test_a_link_that_leads_nowhere_is_named_at_once(tree: Path, name: str) -> None:
    link = tree / "train" / name
    link.symlink_to(link if link.name == "itself" else tree / "nothing")
    for root in (tree, tree / "train"):
        with pytest.raises(MissingFileError, match=f"^{link} is a link that leads nowhere"):
            create("folder", root=root)


def test_a_folder_that_cannot_be_read_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(folder: Path, scan: Any = os.scandir) -> Any:
        if folder.name == "b":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(MissingFileError, match=f"^folder {tree}/train/b cannot be read: Permission denied$"):
        create("folder", root=tree)


def test_several_data_sets_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    make_dtd(tmp_path / "dtd")
    make_food101(tmp_path / "food-101")
    with pytest.raises(ConfigError, match=r"holds several data sets \(Food-101, DTD\); point DATASET.ROOT at one of them"):
        create("folder", root=tmp_path)


# -------------------------------------------------------------------------------------------------------- ImageNet


@pytest.mark.parametrize("folder", ["imagenet", "."])
def test_imagenet(tmp_path: Path, folder: str) -> None:
    write_classes(tmp_path / folder / "train", {"n02": 2, "n01": 3}, suffix=".JPEG")
    write_classes(tmp_path / folder / "val", {"n01": 1, "n02": 1}, suffix=".JPEG")
    train, test = create("imagenet", root=tmp_path, num_classes=2, image_size=0)
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert files_of(test) == ["n01/000.JPEG", "n02/000.JPEG"]
    assert train.image_shape == (3, 224, 224)
    with pytest.warns(ConfigWarning, match=rf"'imagenet' in {tmp_path} has 2 of 1000 classes.*DATASET.NUM_CLASSES 2"):
        train, _ = create("imagenet", root=tmp_path)
    assert train.num_classes == 1000  # a teacher of ImageNet still fits


def test_a_flat_validation_folder_is_explained(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"n01": 1, "n02": 1})
    write_image(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    write_image(tmp_path / "val/ILSVRC2012_val_00000002.JPEG")
    message = rf"{tmp_path}/val holds 2 images and no class folders.*cd {tmp_path}/val && curl -L https:\S+valprep.sh \| bash"
    with pytest.raises(MissingFileError, match=message):
        create("imagenet", root=tmp_path)
    with pytest.raises(MissingFileError, match="Sort them into folders named as those of train/: one folder per class"):
        create("folder", root=tmp_path)


def test_missing_imagenet_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=rf"train/ in {tmp_path}/imagenet and {tmp_path}\. .*image-net.org"):
        create("imagenet", root=tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(MissingFileError, match=f"{tmp_path}/val is missing"):
        create("imagenet", root=tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(MissingFileError, match=f"{tmp_path}/train has no class folders"):
        create("imagenet", root=tmp_path)


# ------------------------------------------------------------------------------------------- GDKD's transfer data sets


def make_cub200(folder: Path) -> None:
    """2 birds, 3 images of each; which of them train follows from the split file alone."""
    names = [f"{bird}/{bird[4:]}_{i:04}.jpg" for bird in ("001.Albatross", "002.Jay") for i in range(3)]
    for name in names:
        write_image(folder / "images" / name)
    tables = {
        "classes.txt": ["001.Albatross", "002.Jay"],
        "images.txt": names,
        "image_class_labels.txt": ["1", "1", "1", "2", "2", "2"],
        "train_test_split.txt": ["0", "1", "0", "1", "1", "0"],
    }
    for name, rows in tables.items():
        (folder / name).write_text("".join(f"{i} {row}\n" for i, row in enumerate(rows, 1)))


def make_food101(folder: Path) -> None:
    write_classes(folder / "images", {"apple_pie": 2, "waffles": 3})
    (folder / "meta").mkdir()
    (folder / "meta/classes.txt").write_text("apple_pie\nwaffles\n")
    (folder / "meta/train.txt").write_text("apple_pie/001\nwaffles/000\nwaffles/002\n")
    (folder / "meta/test.txt").write_text("apple_pie/000\nwaffles/001\n")


def make_dtd(folder: Path) -> None:
    write_classes(folder / "images", {"banded": 3, "zigzagged": 3})
    (folder / "labels").mkdir()
    for split, i in (("train", 2), ("val", 0), ("test", 1)):
        (folder / f"labels/{split}1.txt").write_text(f"banded/{i:03}.jpg\nzigzagged/{i:03}.jpg\n")


ARCHIVES = {
    "cub2011": (
        make_cub200,
        ["cub2011/CUB_200_2011", "CUB_200_2011", "."],
        ["001.Albatross/Albatross_0001.jpg", "002.Jay/Jay_0000.jpg", "002.Jay/Jay_0001.jpg"],
        ["001.Albatross/Albatross_0000.jpg", "001.Albatross/Albatross_0002.jpg", "002.Jay/Jay_0002.jpg"],
        [0, 1, 1],
        [0, 0, 1],
        200,
    ),
    "food101": (
        make_food101,
        ["food101/food-101", "food-101", "."],
        ["apple_pie/001.jpg", "waffles/000.jpg", "waffles/002.jpg"],
        ["apple_pie/000.jpg", "waffles/001.jpg"],
        [0, 1, 1],
        [0, 1],
        101,
    ),
    "dtd": (
        make_dtd,
        ["dtd/dtd", "dtd", "."],
        ["banded/002.jpg", "zigzagged/002.jpg"],
        ["banded/001.jpg", "zigzagged/001.jpg"],
        [0, 1],
        [0, 1],
        47,
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_as_they_unpack(tmp_path: Path, name: str) -> None:
    make, folders, train_files, test_files, train_labels, test_labels, num_classes = ARCHIVES[name]
    for i, folder in enumerate(folders):
        make(tmp_path / str(i) / folder)
        roots = [(name, tmp_path / str(i))] + ([("folder", tmp_path / str(i))] if i else [])
        for dataset, root in roots:
            train, test = create(dataset, root=root, num_classes=2)
            assert (files_of(train), files_of(test)) == (train_files, test_files)
            assert (train.labels.tolist(), test.labels.tolist()) == (train_labels, test_labels)
    with pytest.warns(ConfigWarning, match=f"has 2 of {num_classes} classes"):
        create(name, root=tmp_path / "0")
    with pytest.raises(ConfigError, match="has 2 classes, not 1"):
        create(name, root=tmp_path / "0", num_classes=1)
    entry = dataset_entry(name)
    assert (entry.zoo, entry.num_classes, entry.students_start) == ("imagenet", num_classes, "pretrained")
    assert entry.teachers.format(lower="resnet34") == f"download_ckpts/{name}_teachers/resnet34/student_100.pth"
    with pytest.raises(MissingFileError, match=rf"is not there: looked for .* in {tmp_path}/absent/\S+ and .*Get it from http"):
        create(name, root=tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("cub2011", "classes.txt", "2 002.Jay\n", "classes must be numbered 1, 2, 3"),
        ("cub2011", "images.txt", "one image\n", "'one image' is not a number and a word"),
        ("cub2011", "train_test_split.txt", "1 1\n", "do not number the same images"),
        ("cub2011", "image_class_labels.txt", "".join(f"{i} 3\n" for i in range(1, 7)), "give image 1 class 3, split 0"),
        ("food101", "meta/test.txt", "pizza/000\n", "test.txt: 'pizza/000' is of none of the 2 classes"),
        ("dtd", "labels/train1.txt", "\xff", "is no text file"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, name: str, file: str, content: str, message: str) -> None:
    ARCHIVES[name][0](tmp_path)
    (tmp_path / file).write_text(content, encoding="latin-1")
    with pytest.raises(CorruptFileError, match=message):
        create(name, root=tmp_path, num_classes=2)


def test_listed_images_that_are_missing_are_counted(tmp_path: Path) -> None:
    make_dtd(tmp_path)
    (tmp_path / "images/banded/001.jpg").unlink()
    with pytest.raises(MissingFileError, match=f"1 of 2 listed images are missing, such as {tmp_path}/images/banded/001.jpg"):
        create("dtd", root=tmp_path, num_classes=2)


def test_tiny_imagenet_at_224(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-imagenet-200"
    wnids = [f"n{i:08}" for i in range(200)]
    annotations = []
    for i, wnid in enumerate(wnids):
        write_image(folder / f"train/{wnid}/images/{wnid}_0.JPEG", size=(64, 64))
        write_image(folder / f"val/images/val_{199 - i}.JPEG", size=(64, 64))
        annotations.append(f"val_{199 - i}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (folder / "wnids.txt").write_text("\n".join(reversed(wnids)))
    (folder / "val/val_annotations.txt").write_text("".join(annotations))
    train, test = create("tiny-imagenet", root=tmp_path, image_size=0, limit=3)
    assert (train.num_classes, train.image_shape, dataset_entry("tiny-imagenet").zoo) == (200, (3, 224, 224), "imagenet")
    assert files_of(test) == ["images/val_199.JPEG", "images/val_198.JPEG", "images/val_197.JPEG"]
    assert train.labels.tolist() == test.labels.tolist() == [0, 1, 2]
    shutil.rmtree(folder / "train")
    alone = create_test_loader("tiny-imagenet", root=tmp_path, batch_size=4, num_workers=0, limit=3)
    assert (files_of(alone), alone.image_shape) == (files_of(test), (3, 224, 224))  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------- create_loaders


def test_limit_keeps_a_balanced_choice(tree: Path) -> None:
    train, test = create("folder", root=tree, limit=5)
    assert train.labels.tolist() == test.labels.tolist() == [0, 1, 2, 0, 1]
    assert files_of(train) == ["a/000.jpg", "b/000.jpg", "c/000.jpg", "a/001.jpg", "b/001.jpg"]
    assert train.num_classes == 3


def test_a_users_data_set_of_image_files(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(ImageFolderDataset):
        image_size = 16

        def samples(self, root: Path, test_fraction: float) -> tuple[Samples, Samples, list[str]]:
            files = sorted(root.glob("train/*/*.jpg"))
            return [(file, i % 2) for i, file in enumerate(files)], [(files[0], 1)], ["even", "odd"]

    monkeypatch.setitem(DATASETS._entries, "mine", Mine)
    train, test = create("mine", root=tree, image_size=0)
    assert (train.num_classes, train.num_images, test.num_images, train.image_shape) == (2, 15, 1, (3, 16, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 4}, r"has 3 classes, not 4$"),
        ({"num_classes": -1}, "must be 0 .* or more, got -1, 32"),
        ({"image_size": -8}, "must be 0 .* or more, got 0, -8"),
        ({"mean": (0.5,)}, r"must be three numbers each, .*, std above 0, got \(0.5,\) and"),
        ({"std": (0.5, 0.5, 0.0)}, r"std above 0, got .* and \(0.5, 0.5, 0.0\)"),
        ({"test_fraction": 1.0}, "must lie between 0 and 1, got 1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be 0 .* or more, got -1"),
    ],
)
def test_settings_that_cannot_be_used(tree: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create("folder", root=tree, **options)


def test_an_unknown_augmentation_is_answered_with_a_suggestion(tmp_path: Path) -> None:
    for name in ("folder", "glyphs"):  # before any file is looked for
        with pytest.raises(UnknownNameError, match="unknown augmentation 'cutoff'; did you mean 'cutout'"):
            create(name, root=tmp_path, strong=["cutoff"])


def test_data_in_memory_take_the_same_settings_or_say_why_not(glyphs_root: Path) -> None:
    in_memory = functools.partial(create_loaders, "glyphs", root=glyphs_root, batch_size=50, test_batch_size=50, limit=50)
    plain, test = in_memory()
    assert (plain.num_classes, test.num_classes) == (100, 100)
    strong, _ = in_memory(strong=["cutout"], num_classes=100, image_size=32, num_workers=3)
    assert not torch.equal(epoch_of(plain, 1)[0], epoch_of(strong, 1)[0])
    assert torch.equal(epoch_of(plain, 1)[1], epoch_of(strong, 1)[1])
    grey, _ = in_memory(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert float(epoch_of(grey)[0].abs().max()) <= 1
    with pytest.raises(ConfigError, match="data set 'glyphs' has 100 classes, not 10"):
        in_memory(num_classes=10)
    with pytest.raises(ConfigError, match=r"images of 32x32 pixels and is kept in memory.* to 64x64"):
        in_memory(image_size=64)


@pytest.mark.parametrize(
    ("samples", "message"),
    [([], r"\(train\): no images"), ([(Path("x"), 0), (Path("y"), 2)], r"labels must lie in 0..1 .*, got 2 of y")],
)
def test_samples_that_do_not_fit_are_refused(samples: Samples, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_samples(samples, 2, "data set 'mine' (train)")
