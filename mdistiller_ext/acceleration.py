"""Copies of a frozen network that infer faster, and the choice between network and copy.

Batch norm folds into the convolution before it, and weights may be bfloat16: the copy gives the same logits, within rounding.
It can be neither trained nor saved, and calls no forward hook of the network.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

# Of the largest logit: what folding may change. It reorders a few roundings of 1e-7; a wrong fold changes everything.
_TOLERANCE = 1e-3


class InferenceNetwork(nn.Module):
    """A frozen network prepared for inference; logits have the images' dtype whatever it computes in.

    Args:
        model: a network in eval mode, without gradients; it is left as it is.
        images: a batch ``[N, 3, H, W]`` to try it with, on its device.
        dtype: what to compute in; None leaves the weights as they are.
        fold: fold batch norms, where that can be done.
    """

    def __init__(self, model: nn.Module, images: Tensor, dtype: torch.dtype | None = None, *, fold: bool = True) -> None:
        super().__init__()
        network = fold_batch_norm(model, images) if fold else model
        if dtype is not None:
            network = (copy.deepcopy(model) if network is model else network).to(dtype)
        self.network = network.requires_grad_(False).eval()
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Logits ``[N, C]`` and features of images ``[N, 3, H, W]``."""
        logits, features = self.network(images if self.dtype is None else images.to(self.dtype))
        return logits.to(images.dtype), features


class InferencePath:
    """A frozen network and its InferenceNetwork, which runs in its place unless forward hooks have been added to the network.

    No module itself: a distiller that keeps it has neither in its ``state_dict()`` nor in its ``named_parameters()``.
    """

    def __init__(self, model: nn.Module, accelerated: InferenceNetwork) -> None:
        self.model = model
        self.accelerated = accelerated
        self._modules = list(model.named_modules())
        self._hooks = forward_hooks(self._modules).keys()

    def network(self) -> nn.Module:
        """What to call now."""
        return self.accelerated if forward_hooks(self._modules).keys() == self._hooks else self.model


def forward_hooks(modules: Iterable[tuple[str, nn.Module]]) -> dict[int, str]:
    """The forward hooks and forward pre-hooks of named modules: identifier -> name of the module.

    torch has no public way to ask a module for its hooks: its private dictionaries are read here and nowhere else.
    """
    return {hook: name for name, module in modules for hook in (*module._forward_hooks, *module._forward_pre_hooks)}


def fold_batch_norm(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network in eval mode with each batch norm folded into the convolution before it, where there is one.

    The copy is tried on ``images``. A network that cannot be traced, gives another result, or has forward hooks, which
    tracing loses, is returned itself.
    """
    if forward_hooks(model.named_modules()):
        return model
    with torch.no_grad():
        before = model(images)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.fx's about what it traces
                folded = fuse(model)
            after = folded(images)
        except Exception:  # tracing runs a network's own code on proxies of tensors: anything may happen
            return model
    return folded if _same(before, after) else model


def _same(before: Any, after: Any) -> bool:
    """Whether two outputs agree, in structure too."""
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
