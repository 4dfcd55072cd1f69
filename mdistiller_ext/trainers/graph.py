"""One training step as a CUDA graph: hundreds of kernels launched as one, so that small networks keep a GPU busy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]
"""``step(images [N, 3, H, W], labels [N])``: changes tensors in place, and reads nothing back"""

_WARM_UP = 3  # steps before the capture: libraries choose their algorithms and set aside their memory
_TOLERANCE = 1e-2  # of the length of the step; kernels that add in any order differ by 1e-4 and less


class GraphedStep:
    """A step that was captured once and is replayed for every batch of the same shape; others run as they are.

    Capturing takes a few trial steps; ``state`` is put back to what it was before them. The first replay is held against
    the step itself.

    Args:
        step: what to capture. All that it allocates and keeps must be there: run it once before.
        images, labels: a batch of the usual shape.
        state: every tensor that a step changes.

    Raises RuntimeError when the step cannot be captured, or its replay does something else; ``state`` is then as before.
    """

    def __init__(self, step: Step, images: Tensor, labels: Tensor, state: Sequence[Tensor]) -> None:
        self.step = step
        self.images, self.labels = images.clone(), labels.clone()
        before = _copies(state)
        generator = torch.cuda.get_rng_state(images.device)
        try:
            self._capture()
            _put_back(state, before)
            step(self.images, self.labels)
            expected = _copies(state)
            _put_back(state, before)
            self.graph.replay()
            difference = _difference(state, expected, before)
            if difference > _TOLERANCE:
                raise RuntimeError(f"its replay ends {difference:.1e} of the step's length from where the step does")
        finally:
            _put_back(state, before)
            torch.cuda.set_rng_state(generator, images.device)

    def _capture(self) -> None:
        device = self.images.device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self.step(self.images, self.labels)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(self.images, self.labels)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        if images.shape != self.images.shape:  # the last batch of an epoch
            self.step(images, labels)
            return
        self.images.copy_(images, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)
        self.graph.replay()


def _copies(state: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in state]


@torch.no_grad()
def _put_back(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)


@torch.no_grad()
def _difference(state: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """Distance of ``state`` from where it was expected, relative to how far it went. Synchronises with the GPU."""
    apart = moved = 0.0
    for now, then, start in zip(state, expected, before, strict=True):
        if now.is_floating_point():
            apart += float((now - then).double().square().sum())
            moved += float((then - start).double().square().sum())
    return math.sqrt(apart / moved) if moved else apart
