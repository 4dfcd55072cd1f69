"""Arrays in ``tests/golden``, computed with the code of the methods' authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, Tensor]:
    """The arrays of a file as tensors."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
