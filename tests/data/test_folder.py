"""Folders of image files as a data set: limit, a user's own class, settings that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext.data import ImageFolderDataset
from mdistiller_ext.data.base import Samples
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.registry import DATASETS
from tests.support.images import create, files_of


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
