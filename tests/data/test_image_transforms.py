"""Transforms of image files: crops, sizes, strong augmentations."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop, v2

from mdistiller_ext.data.augment import STRONG
from mdistiller_ext.data.image_transforms import evaluation_transform, random_crop_box, strong_steps, training_transform


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (100, 700), (700, 100), (1, 1), (2, 1)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    image = torch.empty(1).expand(3, height, width)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)])
    ours = np.array([random_crop_box(height, width, random.Random(seed << 32 | 1)) for seed in range(2000)])
    for their_values, our_values in zip(theirs.T, ours.T, strict=True):
        assert ks_2samp(their_values, our_values, method="asymp").pvalue > 1e-3
    top, left, h, w = ours.T
    assert (np.minimum(top, left) >= 0).all()
    assert ((top + h <= height) & (left + w <= width)).all()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (501, 333), (224, 224), (30, 1000), (3, 2)])
def test_the_evaluation_resizes_and_crops_as_torchvision(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    expected = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])(Image.fromarray(pixels))
    image = evaluation_transform(224)(pixels, random.Random())
    assert int((image.int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize("strong", [(name,) for name in STRONG] + [("autoaugment", "cutout"), ("cutout", "randaugment")])
def test_strong_augmentations_follow_crop_and_flip(strong: Sequence[str]) -> None:
    pixels = np.full((30, 40, 3), (200, 100, 50), np.uint8)
    stacked = torch.stack([training_transform(32, strong)(pixels, random.Random(seed)) for seed in range(20)])
    plain = training_transform(32)(pixels, random.Random(0))
    assert (stacked.dtype, stacked.shape) == (torch.uint8, (20, 3, 32, 32))
    changed = (stacked != plain).flatten(1).any(1)
    assert 1 <= int(changed.sum()) <= (13 if strong == ("erasing",) else 20)
    if strong == ("cutout",):
        holes = (stacked == 0).all(1).sum((1, 2))
        assert changed.all()
        assert int(holes.min()) >= 8 * 8
        assert int(holes.max()) <= 16 * 16


def test_the_order_of_strong_augmentations_is_kept() -> None:
    def names(strong: Sequence[str]) -> list[str]:
        return [getattr(step, "__name__", type(step).__name__) for step in strong_steps(strong)]

    assert names(["erasing", "autoaugment"]) == ["RandomErasing", "_to_pil", "AutoAugment", "PILToTensor"]
    assert names(["autoaugment", "erasing"]) == ["_to_pil", "AutoAugment", "PILToTensor", "RandomErasing"]
    assert names([]) == []
