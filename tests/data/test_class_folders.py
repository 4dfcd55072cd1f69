"""Directory layouts of one folder per class: splits, depth, links, and mistakes in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mdistiller_ext.errors import ConfigError, CorruptFileError, MissingFileError
from tests.support.images import create, files_of, make_dtd, make_food101, write_classes, write_image


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
    def scandir(folder: str, scan: Any = os.scandir) -> Any:
        if os.path.basename(folder) == "b":
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
