"""Transforms of image files with strong augmentations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from mdistiller_ext.data.augment import STRONG
from mdistiller_ext.data.image_transforms import training_transform


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
