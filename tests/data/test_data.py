"""``create_loaders``: settings that all data sets share, and mistakes in one line."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdistiller_ext.data import (
    InMemoryDataset,
    create_loaders,
    create_plain_loader,
)
from mdistiller_ext.data.base import balanced_choice
from mdistiller_ext.data.reading import hold_out
from mdistiller_ext.errors import ConfigError, ConfigWarning, UnknownNameError
from mdistiller_ext.registry import DATASETS
from tests.support.images import create, epoch_of, files_of, random_images, write_classes


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


def test_views_of_an_image_in_memory_are_augmented_independently(glyphs_root: Path) -> None:
    options: dict[str, Any] = {"root": glyphs_root, "batch_size": 32, "test_batch_size": 32, "limit": 64}
    train, test = create_loaders("glyphs", views=("weak", "strong"), with_index=True, **options)
    images, labels, index = next(iter(train))
    assert images.shape == (32, 2, 3, 32, 32)
    assert torch.equal(train.labels[index], labels)
    assert next(iter(test))[0].shape == (32, 3, 32, 32)
    same, _ = create_loaders("glyphs", views=("weak", "weak"), **options)
    first, second = next(iter(same))[0].unbind(1)
    assert not torch.equal(first, second)  # crops of their own


def test_an_unknown_view_is_answered_by_the_nearest(glyphs_root: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown view 'stong'; did you mean 'strong'\? Known: weak, strong$"):
        create_loaders("glyphs", root=glyphs_root, batch_size=32, test_batch_size=32, views=("weak", "stong"))


# ---- a held-out part of the training images ---------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.1, 0.25, 1 / 3, 0.5])
def test_held_out_images_are_a_fixed_share_of_each_class_and_not_trained_on(fraction: float) -> None:
    labels = torch.randint(3, (400,), generator=torch.Generator().manual_seed(0))
    with pytest.warns(ConfigWarning, match="not on the test images"):
        kept, held_out = hold_out(labels, fraction)
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(400))
    for label in range(3):
        share, count = int((labels[held_out] == label).sum()), int((labels == label).sum())
        assert share == int(count * fraction)
        positions = (labels == label).nonzero().squeeze(1)
        assert held_out[labels[held_out] == label].min() > positions[int(1 / fraction) - 2]  # spaced, not the first ones


@pytest.mark.filterwarnings("ignore:DATASET.VALIDATION")
def test_validation_tests_on_training_images_alone(glyphs_root: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 500, "test_batch_size": 500}
    whole, _ = create_loaders("glyphs", root=glyphs_root, **options)
    train, test = create_loaders("glyphs", root=glyphs_root, validation=0.2, **options)
    assert (train.num_images, test.num_images) == (2_000, 500)
    rows = [set(map(bytes, images.flatten(1).numpy())) for images in (whole.images, train.images, test.images)]  # type: ignore[union-attr]
    assert rows[1] | rows[2] == rows[0]
    assert not rows[1] & rows[2]
    again = create_plain_loader("glyphs", root=glyphs_root, validation=0.2, batch_size=500)  # as eval.py makes it
    assert torch.equal(again.images, test.images)  # type: ignore[union-attr]

    write_classes(tmp_path / "train", {"cat": 8, "dog": 4})
    write_classes(tmp_path / "val", {"cat": 1, "dog": 1})
    train, test = create("folder", root=tmp_path, validation=0.25)
    assert files_of(test) == ["cat/003.jpg", "cat/007.jpg", "dog/003.jpg"]  # type: ignore[arg-type]
    assert set(files_of(train)) == {
        str(path.relative_to(tmp_path / "train")) for path in (tmp_path / "train").rglob("*.jpg")
    } - {  # type: ignore[arg-type]
        *files_of(test)  # type: ignore[arg-type]
    }


@pytest.mark.parametrize(
    ("fraction", "message"), [(1.0, "at least 0 and less than 1"), (-0.1, "at least 0"), (1e-9, "leaves none")]
)
@pytest.mark.filterwarnings("ignore:DATASET.VALIDATION")
def test_a_validation_part_that_cannot_be_is_refused(glyphs_root: Path, fraction: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_loaders("glyphs", root=glyphs_root, batch_size=1, test_batch_size=1, validation=fraction)
