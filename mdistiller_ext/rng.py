"""The generators that random numbers come from: torch's, Python's and numpy's, the last two for plugins that draw from them."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .errors import ConfigError


def seed_generators(seed: int) -> None:
    """Start all of them anew from one number."""
    for start in (torch.manual_seed, random.seed, np.random.seed):
        start(seed % 2**32)  # numpy's range


def be_deterministic(on: bool) -> None:
    """Have torch choose only kernels that give the same bits every time, and refuse what has none. CPUs need no asking."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What torch says when it is asked to be deterministic and cannot, as a ConfigError."""
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error) or not torch.are_deterministic_algorithms_enabled():
            raise
        what = str(error).split(". ")[0].splitlines()[0]
        raise ConfigError(f"EXPERIMENT.DETERMINISTIC: {what}; leave it off, or choose another method or network") from error


def generator_state() -> dict[str, Any]:
    """Where all of them stand, as tensors and plain values."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    name, keys, position, has_gauss, cached = numpy_state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }


def set_generator_state(state: dict[str, Any]) -> None:
    """Go on from where :func:`generator_state` was."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
