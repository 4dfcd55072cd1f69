"""What may be done to a network that only infers, such as a frozen teacher, so that it infers faster.

Batch norm folds into the convolution before it, and weights may be bfloat16: the network gives the same logits, within
rounding. It can no longer be trained or saved.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

# Of the largest logit: what folding may change. It reorders a few roundings of 1e-7; a wrong fold changes everything.
_TOLERANCE = 1e-3


class InferenceNetwork(nn.Module):
    """A network of the zoo's contract whose batch norms are folded; logits are float32 whatever it computes in.

    Args:
        model: a network in eval mode; it is left as it was.
        images: a batch ``[N, 3, H, W]`` to try it with, on its device.
        dtype: what it computes in; None leaves the weights as they are.
    """

    def __init__(self, model: nn.Module, images: Tensor, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network = fold_batch_norm(model, images).requires_grad_(False).eval()
        self.dtype = dtype
        if dtype is not None:
            self.network.to(dtype)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Logits ``[N, C]`` and features of images ``[N, 3, H, W]``."""
        logits, features = self.network(images if self.dtype is None else images.to(self.dtype))
        return logits.to(images.dtype), features


def fold_batch_norm(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network in eval mode with each batch norm folded into the convolution before it, where there is one.

    The copy is tried on ``images``; a network that cannot be traced, or gives another result, is returned as it was.
    """
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        before = model(images)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.fx's thoughts on what it traces
                folded = fuse(model)
            after = folded(images)
        except Exception:  # tracing runs a network's own code on stand-ins for tensors: anything may happen
            return model
    return folded if _same(before, after) else model


def _same(before: Any, after: Any) -> bool:
    """Whether two outputs agree, in structure too: a hook that makes an output what it is, is lost by tracing."""
    if isinstance(before, Tensor):
        if not isinstance(after, Tensor) or before.shape != after.shape:
            return False
        return bool((before - after).abs().max() <= _TOLERANCE * before.abs().max().clamp(min=1e-6))
    if isinstance(before, dict):
        return isinstance(after, dict) and before.keys() == after.keys() and all(_same(before[k], after[k]) for k in before)
    if isinstance(before, tuple | list):
        same_length = isinstance(after, tuple | list) and len(before) == len(after)
        return same_length and all(_same(a, b) for a, b in zip(before, after, strict=True))
    return bool(before == after)
