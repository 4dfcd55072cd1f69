"""Hessians of losses at a student."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext.analyze.hessian import DistillationLoss, hessian, largest_eigenvalues, trace_samples
from mdistiller_ext.analyze.landscape import Neighbourhood, Place
from mdistiller_ext.analyze.weight_space import random_directions, weights_of
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.losses import kd_loss


class HalfSquare(nn.Module):
    """Half of the squared distance, mean over the images."""

    reduction = "mean"

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits - targets).square().sum(dim=1).mean() / 2


class Linear(nn.Linear):
    """A linear network ``[N, 4] -> [N, 3]`` with the output of those of the zoo."""

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return super().forward(images), {}


class Net(nn.Module):
    """A small convolutional network with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0), nn.Linear(4, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.fc(self.norm(self.conv(images)).tanh().mean(dim=(2, 3))), {}


def quadratic() -> tuple[Linear, list[tuple[Tensor, Tensor]], Tensor]:
    """A linear network, its batches of unequal size, and the Hessian of ``HalfSquare``."""
    images, targets = torch.randn(10, 4, dtype=torch.float64), torch.randn(10, 3, dtype=torch.float64)
    exact = torch.kron(torch.eye(3), images.T @ images / 10)
    return Linear(4, 3, bias=False).double(), list(zip(images.split(7), targets.split(7), strict=True)), exact


def test_of_a_quadratic_eigenvalues_and_trace_are_known() -> None:
    model, batches, exact = quadratic()
    operator = hessian(model, HalfSquare(), batches)
    assert torch.allclose(operator @ torch.eye(12, dtype=torch.float64), exact)
    expected = torch.linalg.eigvalsh(exact).flip(0)
    # every eigenvalue is there three times, of which Lanczos iterations from one vector need not find all
    assert largest_eigenvalues(operator, 1, seed=0)[0] == pytest.approx(float(expected[0]), rel=1e-3)
    samples = torch.tensor(trace_samples(operator, 400, seed=0))
    assert abs(samples.mean() - exact.trace()) < 4 * samples.std() / 20
    assert trace_samples(operator, 3, seed=5) == trace_samples(operator, 3, seed=5)


def test_in_units_of_filters_it_is_scaled_on_both_sides_and_its_trace_is_the_landscape() -> None:
    model, batches, exact = quadratic()
    centre = weights_of(model)
    sizes = (model.weight.detach().norm(dim=1) / 2).repeat_interleave(4)  # root mean square of four weights
    scaled = sizes[:, None] * exact * sizes
    found = hessian(model, HalfSquare(), batches, "filters") @ torch.eye(12, dtype=torch.float64)
    assert torch.allclose(found, scaled)

    def loss(at: nn.Module) -> dict[str, float]:
        moved = (at.weight - centre["weight"]).detach().flatten()
        return {"task": float(moved @ exact @ moved / 2)}

    around = Neighbourhood(model, random_directions(centre, 500, seed=0), loss)
    increases = torch.tensor([around(Place(number, 1.0))["task"] for number in range(500)])
    assert abs(increases.mean() - scaled.trace() / 2) < 4 * increases.std() / 500**0.5


def test_scaling_a_filter_before_batch_norm_changes_only_the_hessian_by_the_weights() -> None:
    model = Net().double().eval()
    same = copy.deepcopy(model)
    with torch.no_grad():
        for part in (same.conv.weight, same.conv.bias, same.norm.running_mean):
            part *= 3
        same.norm.running_var *= 9
    images, teacher = torch.randn(6, 3, 5, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    assert torch.allclose(model(images)[0], same(images)[0])
    for loss, targets in ((nn.CrossEntropyLoss(), torch.arange(6) % 3), (DistillationLoss(4.0), teacher)):
        by_weights, by_filters = (
            [largest_eigenvalues(hessian(net, loss, [(images, targets)], how), 2, seed=0) for net in (model, same)]
            for how in ("weights", "filters")
        )
        assert by_filters[0] == pytest.approx(by_filters[1], rel=1e-3)
        assert by_weights[0] != pytest.approx(by_weights[1], rel=1e-2)


def test_of_the_distillation_loss_it_agrees_with_autograd() -> None:
    model = Net().double().eval()
    images, teacher = torch.randn(6, 3, 5, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    vector = torch.randn(sum(parameter.numel() for parameter in model.parameters()), dtype=torch.float64)
    logits = model(images)[0]
    gradient = torch.autograd.grad(kd_loss(logits, teacher, temperature=4.0), list(model.parameters()), create_graph=True)
    product = torch.cat([part.flatten() for part in gradient]) @ vector
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(product, list(model.parameters()))])
    assert torch.allclose(hessian(model, DistillationLoss(4.0), [(images, teacher)]) @ vector, expected)


def test_curvlinops_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops", None)  # as if it were not installed
    network, batches, _ = quadratic()
    with pytest.raises(ConfigError, match=r"needs the package curvlinops: pip install .*\[analysis\]"):
        hessian(network, nn.MSELoss(), batches)
