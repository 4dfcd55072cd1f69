"""Weights and inputs that anyone can make again from a seed, for comparing networks with pinned outputs.

Every entry of a state_dict has its own generator, seeded by (seed, CRC-32 of its name), so the values depend on neither
the order of the entries nor on torch's random numbers.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def golden_state_dict(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A state_dict for ``model`` in float64, drawn from ``seed``."""
    return {name: _values(name, tuple(entry.shape), seed) for name, entry in model.state_dict().items()}


def golden_images(shape: list[int], seed: int) -> Tensor:
    """Standard normal images of ``shape`` `[N, 3, H, W]` in float64."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _values(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    is_scale = name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight"))
    if is_scale:
        values = 0.5 + rng.random(shape)
    elif len(shape) == 1:  # biases and running means
        values = 0.1 * rng.standard_normal(shape)
    else:
        values = rng.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
    return torch.from_numpy(values)
