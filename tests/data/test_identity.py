"""Class names, counts and hashes of data sets, and what changes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mdistiller_ext import checkpoint
from mdistiller_ext.data import DataIdentity, create_loaders, create_plain_loader
from mdistiller_ext.data.identity import SplitIdentity
from mdistiller_ext.errors import ConfigError
from tests.support.images import create, make_cub200, write_classes
from tests.support.trees import CHANGES, identity_of, write_tree

pytestmark = pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree")


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_every_change_of_a_tree_is_named(tree: Path, change: Callable[[Path], None], said: str) -> None:
    before = identity_of(tree)
    assert before.classes == ("bird", "cat", "dog")
    assert before.changes(identity_of(tree)) == []
    change(tree)
    assert "; ".join(before.changes(identity_of(tree))).startswith(said)


def test_neither_the_place_nor_a_limit_is_a_change(tree: Path, tmp_path: Path) -> None:
    before = identity_of(tree)
    tree.rename(tmp_path / "elsewhere")
    assert identity_of(tmp_path / "elsewhere") == before
    limited, _ = create("folder", root=tmp_path / "elsewhere", limit=3)
    assert limited.num_images == 3
    assert limited.identity == before


def test_data_in_memory_are_told_apart_by_their_bytes(glyphs_root: Path) -> None:
    train, test = create_loaders("glyphs", root=glyphs_root, batch_size=8, test_batch_size=8, limit=8)
    known = train.identity
    assert known is not None
    assert known is test.identity
    assert known.train is not None
    assert (known.classes[:3], known.train.images, known.test.images) == (("0", "1", "2"), 2_500, 500)  # type: ignore[index]

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
    alone = create_plain_loader(name, batch_size=4, **options)
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
    alone = create_plain_loader("glyphs", root=glyphs_root, batch_size=8)
    assert torch.equal(alone.images, both.images)  # type: ignore[union-attr]
    assert alone.identity == DataIdentity(both.identity.classes, both.identity.test)  # type: ignore[union-attr]


@pytest.mark.parametrize("num_classes", [0, 1])
def test_data_of_one_class_are_refused(tmp_path: Path, num_classes: int) -> None:
    write_classes(tmp_path / "train", {"cat": 2})
    write_classes(tmp_path / "val", {"cat": 1})
    with pytest.raises(ConfigError, match=f"'folder' in {tmp_path} has only the class cat; a classifier needs two"):
        create("folder", root=tmp_path, num_classes=num_classes)
