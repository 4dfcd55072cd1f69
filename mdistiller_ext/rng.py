"""Random number generators of torch, Python and numpy (the last two for plug-ins that use them), and determinism."""

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
    """Seed all generators."""
    for set_seed in (torch.manual_seed, random.seed, np.random.seed):
        set_seed(seed % 2**32)  # numpy's range


def be_deterministic(on: bool) -> None:
    """Let torch use only deterministic kernels, and raise for operations that have none. CPU runs do not need it."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is initialised
    if on or torch.are_deterministic_algorithms_enabled():  # the call imports the compiler, which takes a second
        torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Context manager that turns torch's error about an operation without a deterministic kernel into a ConfigError."""
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error) or not torch.are_deterministic_algorithms_enabled():
            raise
        what = str(error).split(". ")[0].splitlines()[0]
        raise ConfigError(f"EXPERIMENT.DETERMINISTIC: {what}; leave it off, or choose another method or network") from error


def generator_state() -> dict[str, Any]:
    """The state of all generators, as tensors and plain values."""
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
    """Restore the state that :func:`generator_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
