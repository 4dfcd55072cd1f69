"""Checks of what a data set returns: images, labels and samples that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdistiller_ext.data.base import Samples, check_samples, check_split
from mdistiller_ext.errors import ConfigError


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


@pytest.mark.parametrize(
    ("samples", "message"),
    [([], r"\(train\): no images"), ([(Path("x"), 0), (Path("y"), 2)], r"labels must lie in 0..1 .*, got 2 of y")],
)
def test_samples_that_do_not_fit_are_refused(samples: Samples, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_samples(samples, 2, "data set 'mine' (train)")
