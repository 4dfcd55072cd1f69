"""Listings of folders that are kept between runs: never another result than listing anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext.data import folder_listing
from mdistiller_ext.data.class_folders import read_split_folders
from mdistiller_ext.data.folder_listing import ListingCache, kept_listings, list_folder
from mdistiller_ext.errors import MissingFileError, Note


@pytest.fixture
def old_tree(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A tree that is worth keeping, and whose folders count as settled, new as they are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_listing, "_WORTH_KEEPING", 1)
    monkeypatch.setattr(folder_listing, "_SETTLED", -1)
    return tree


def found(tree: Path, enabled: bool = True) -> Any:
    with kept_listings(tree, enabled=enabled):
        return read_split_folders(tree / "train", tree / "val", "")


def scans(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> list[str]:
    """Names of the folders that an action lists."""
    seen: list[str] = []

    def scan(folder: str) -> Any:
        seen.append(Path(folder).name)
        return os_scandir(folder)

    os_scandir = os.scandir
    with monkeypatch.context() as patched:
        patched.setattr(folder_listing.os, "scandir", scan)
        action()
    return sorted(seen)


def test_a_tree_is_listed_once(old_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = found(old_tree, enabled=False)
    assert scans(monkeypatch, lambda: found(old_tree)) == ["a", "a", "b", "b", "c", "c", "train", "val"]
    assert scans(monkeypatch, lambda: found(old_tree)) == []
    assert found(old_tree) == expected
    assert scans(monkeypatch, lambda: found(old_tree, enabled=False)) != []


def test_a_changed_folder_is_listed_again(old_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add() -> None:
        (old_tree / "train/b/new.jpg").touch()

    def remove() -> None:
        (old_tree / "train/b/new.jpg").unlink()

    def rename() -> None:
        (old_tree / "train/b/000.jpg").rename(old_tree / "train/b/other.jpg")

    def restore_time() -> None:
        status = (old_tree / "train/b").stat()
        (old_tree / "train/b/third.jpg").touch()
        os.utime(old_tree / "train/b", ns=(status.st_atime_ns, status.st_mtime_ns))

    def replace() -> None:
        (old_tree / "train/b").rename(old_tree.with_name("away"))
        (old_tree / "train/b").mkdir()
        (old_tree / "train/b/only.jpg").touch()

    for change in (add, remove, rename, restore_time, replace):
        found(old_tree)
        change()
        listed = scans(monkeypatch, lambda: found(old_tree))
        assert set(listed) == ({"train", "b"} if change is replace else {"b"}), change.__name__
        assert found(old_tree) == found(old_tree, enabled=False), change.__name__


def test_a_folder_with_links_is_not_kept(old_tree: Path) -> None:
    link = old_tree / "train/b/link.jpg"
    link.symlink_to(old_tree / "val/b/000.jpg")
    found(old_tree)
    (old_tree / "val/b/000.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"train/b/link.jpg is a link that leads nowhere"):
        found(old_tree)


def test_a_folder_changed_a_moment_ago_is_not_kept(old_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_listing, "_SETTLED", 60)
    for _ in range(2):
        assert set(scans(monkeypatch, lambda: found(old_tree))) == {"a", "b", "c", "train", "val"}


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: content.replace(b"000.jpg", b"00x.jpg"), bytes]
)
def test_a_damaged_file_is_replaced(old_tree: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]) -> None:
    expected = found(old_tree)
    path = ListingCache(old_tree).path
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert found(old_tree) == expected
    assert path.read_bytes() == whole
    assert scans(monkeypatch, lambda: found(old_tree)) == []


def test_few_images_are_not_kept_and_a_folder_that_cannot_be_written_is_a_note(
    old_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_listing, "_WORTH_KEEPING", 22)  # there are 21
    found(old_tree)
    assert not ListingCache(old_tree).path.exists()
    monkeypatch.setattr(folder_listing, "_WORTH_KEEPING", 21)
    ListingCache(old_tree).path.parent.parent.mkdir(parents=True)
    ListingCache(old_tree).path.parent.touch()
    with pytest.warns(Note, match="names of image files are not kept for the next run"):
        found(old_tree)


def test_a_folder_that_is_gone_is_an_error_also_if_it_was_kept(old_tree: Path) -> None:
    found(old_tree)
    for file in (old_tree / "val/c").iterdir():
        file.unlink()
    (old_tree / "val/c").rmdir()
    with kept_listings(old_tree), pytest.raises(MissingFileError, match=r"val/c cannot be read"):
        list_folder(old_tree / "val/c")
