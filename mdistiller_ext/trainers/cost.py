"""Cost of a run: images per second and peak memory, over all processes that trained it."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


class Cost:
    """Cost of a run so far.

    Args:
        device: device of training.

    Attributes:
        speeds: images per second of each complete or partial pass, by kind of pass: ``train`` or ``test``.
        peak: peak memory in MiB of this process and earlier ones, as of the last pass; see :func:`peak_memory`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.speeds: dict[str, list[float]] = {"train": [], "test": []}
        self.peak: float | None = None

    @contextlib.contextmanager
    def measure(self, kind: str, images: int) -> Iterator[None]:
        """Measure a pass over ``images`` images, which ends by reading a value back from the device; not one that raises."""
        started = time.perf_counter()
        yield
        if images > 0:
            self.speeds[kind].append(images / (time.perf_counter() - started))
        self.peak = max((peak for peak in (self.peak, peak_memory(self.device)) if peak is not None), default=None)

    def summary(self) -> dict[str, float]:
        """Entries of ``summary.json``. Medians over the passes: the first one after each start is slower than the others."""
        names = {"train": "images_per_second", "test": "test_images_per_second"}
        found = {names[kind]: round(statistics.median(speeds), 1) for kind, speeds in self.speeds.items() if speeds}
        return found | ({"peak_memory_mib": round(self.peak, 1)} if self.peak is not None else {})

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"speeds": self.speeds, "peak": self.peak}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load the result of :meth:`state_dict`."""
        self.speeds, self.peak = saved["speeds"], saved["peak"]


def peak_memory(device: torch.device) -> float | None:
    """Peak memory of this process in MiB.

    On a CUDA device, memory allocated by tensors; otherwise, the maximum resident set, which holds everything, the training
    images and the libraries included. None where it is not known.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
