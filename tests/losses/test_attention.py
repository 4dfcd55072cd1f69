"""CAT-KD's loss: zero, invariances, gradients, extremes."""

from __future__ import annotations

import pytest
import torch

from mdistiller_ext.losses import cat_loss


def maps(seed: int, size: int = 4) -> torch.Tensor:
    return torch.randn(3, 5, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("normalize", [True, False])
def test_equal_maps_have_no_loss_and_others_have(normalize: bool) -> None:
    assert cat_loss(maps(0), maps(0), resolution=2, normalize=normalize) == 0
    assert cat_loss(maps(0), maps(1), resolution=2, normalize=normalize) > 0.01


def test_normalised_maps_have_no_scale_of_their_own() -> None:
    scale = torch.rand(3, 5, 1, 1, dtype=torch.float64) + 0.5
    torch.testing.assert_close(
        cat_loss(scale * maps(0), maps(1), resolution=2, normalize=True),
        cat_loss(maps(0), maps(1), resolution=2, normalize=True),
    )


def test_only_means_over_the_pooled_cells_count_and_sizes_may_differ() -> None:
    pooled = maps(1).view(3, 5, 2, 2, 2, 2).mean(dim=(3, 5))
    assert cat_loss(maps(1), pooled, resolution=2, normalize=False) < 1e-30
    upsampled = pooled.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert cat_loss(upsampled, maps(1), resolution=2, normalize=False) < 1e-30


@pytest.mark.parametrize("normalize", [True, False])
def test_gradcheck(normalize: bool) -> None:
    student = maps(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cat_loss(x, maps(1), resolution=2, normalize=normalize), student)


@pytest.mark.parametrize("extreme", [torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 1e4), torch.full((2, 3, 4, 4), -1e4)])
def test_extreme_maps_have_finite_gradients(extreme: torch.Tensor) -> None:
    student = extreme.clone().requires_grad_()
    cat_loss(student, -extreme, resolution=2, normalize=True).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
