"""The Hessian of a loss at a student, as a linear operator: its largest eigenvalues and its trace."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from ..errors import ConfigError
from ..extras import optional
from ..losses import kd_loss
from .weight_space import Weights, filter_norms, weights_of

if TYPE_CHECKING:
    from curvlinops import HessianLinearOperator

Coordinates = Literal["weights", "filters"]
_TOLERANCE = 1e-2  # of eigenvectors; the error of an eigenvalue is of the order of its square


class DistillationLoss(nn.Module):
    """KD's loss of logits ``[N, C]`` and the teacher's logits ``[N, C]``."""

    reduction = "mean"

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return kd_loss(logits, teacher_logits, temperature=self.temperature)


class _Around(nn.Module):
    """Logits of a network at ``weights + scale * offset``, where the offsets are the parameters and zero.

    The Hessian by the offsets is ``D H D`` with the Hessian H by the weights and the diagonal matrix D of the scales.
    """

    def __init__(self, network: nn.Module, scales: Weights) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.names = list(scales)
        self.weights, self.scales = weights_of(network), scales
        self.offsets = nn.ParameterList(torch.zeros_like(self.weights[name]) for name in scales)

    def forward(self, images: Tensor) -> Tensor:
        moved = {
            name: self.weights[name] + self.scales[name] * offset for name, offset in zip(self.names, self.offsets, strict=True)
        }
        logits: Tensor = functional_call(self.network, moved, (images,))[0]
        return logits


def hessian(
    network: nn.Module, loss: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], coordinates: Coordinates = "weights"
) -> HessianLinearOperator:
    """Hessian of the mean loss over all images, in eval mode.

    Args:
        network: gives logits first; frozen by this call.
        loss: of logits and targets; with the attribute ``reduction = "mean"``.
        batches: images ``[N, 3, H, W]`` and targets.
        coordinates: ``weights``: by all parameters. ``filters``: by the filters of convolutions and linear layers, each in
            units of the root mean square of its weights. The latter's eigenvalues and trace are the same for networks that
            compute the same with scaled filters, and half of its trace is the mean increase of the loss at distance 1 along
            filter-normalised random directions, to second order.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of TorchScript, which the libraries and torch's own rules use
        curvlinops = optional("curvlinops", "analysis")
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # the first one loads these rules

    weights = weights_of(network)
    if coordinates == "weights":
        scales = {name: torch.ones_like(weight) for name, weight in weights.items()}
    else:
        norms = filter_norms(weights)
        scales = {name: norms[name] / weight[0].numel() ** 0.5 for name, weight in weights.items() if weight.dim() > 1}
    around = _Around(network.eval(), scales)
    operator: HessianLinearOperator = curvlinops.HessianLinearOperator(
        around, loss, tuple(around.offsets), list(batches), check_deterministic=False
    )
    return operator


def largest_eigenvalues(operator: HessianLinearOperator, count: int, seed: int) -> list[float]:
    """The algebraically largest eigenvalues, in falling order, by Lanczos iterations (ARPACK).

    Raises ConfigError for as many eigenvalues as coordinates or more, and where the iterations do not converge.
    """
    size = operator.shape[1]
    if count >= size:
        raise ConfigError(f"the Hessian has {size} coordinates: ask for fewer than {count} eigenvalues")
    start = np.random.default_rng(seed).standard_normal(size)
    try:
        found = eigsh(operator.to_scipy(), k=count, which="LA", v0=start, tol=_TOLERANCE, return_eigenvectors=False)
    except ArpackNoConvergence as error:
        raise ConfigError(f"the largest {count} eigenvalues did not converge: ask for fewer, or compute in float64") from error
    return sorted(map(float, found), reverse=True)


def trace_samples(operator: HessianLinearOperator, count: int, seed: int) -> list[float]:
    """Estimates of the trace, each from one random vector of signs (Hutchinson, 1989)."""
    hutchinson_trace = optional("curvlinops", "analysis").hutchinson_trace
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return [float(hutchinson_trace(operator, num_matvecs=1)) for _ in range(count)]
