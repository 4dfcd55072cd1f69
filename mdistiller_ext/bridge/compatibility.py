"""What the code of the upstream repositories needs on machines without a GPU, and without two packages that it imports."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def without_cuda() -> Iterator[None]:
    """Context manager in which ``.cuda()`` of tensors and modules does nothing where there is no CUDA device.

    Upstream calls it in constructors and training loops, without asking whether there is one. With a device, nothing changes.
    """
    if torch.cuda.is_available():
        yield
        return
    tensor, module = Tensor.cuda, nn.Module.cuda

    def unchanged(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self

    Tensor.cuda = unchanged  # type: ignore[method-assign]
    nn.Module.cuda = unchanged  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.cuda, nn.Module.cuda = tensor, module  # type: ignore[method-assign]


@contextlib.contextmanager
def missing_packages() -> Iterator[None]:
    """Context manager in which two modules can be imported that a checkout imports and that may be missing.

    These are ``scipy.stats``, of which OFD uses ``norm.cdf``, and ``turtle``, which a stray import of MLKD names and which
    needs Tk. They are taken out again afterwards, so that no other package mistakes them for the real ones.
    """
    stand_ins = {"scipy.stats": _scipy, "turtle": _turtle}
    added: list[str] = []
    for name, make in stand_ins.items():
        try:
            importlib.import_module(name)
        except ImportError:
            modules = {key: module for key, module in make().items() if key not in sys.modules}
            sys.modules |= modules
            added += modules
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _scipy() -> dict[str, ModuleType]:
    scipy, stats, norm = (ModuleType(name) for name in ("scipy", "scipy.stats", "norm"))
    norm.cdf = lambda x: math.erfc(-x / math.sqrt(2)) / 2  # type: ignore[attr-defined]
    stats.norm = norm  # type: ignore[attr-defined]
    scipy.stats = stats  # type: ignore[attr-defined]
    return {"scipy": scipy, "scipy.stats": stats}


def _turtle() -> dict[str, ModuleType]:
    turtle = ModuleType("turtle")
    turtle.st = None  # type: ignore[attr-defined]
    return {"turtle": turtle}
