"""The training step as a CUDA graph: hundreds of kernels launched as one, so that small networks keep a GPU busy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..distillers.outputs import Batch
from .state import TrainState
from .step import PlainStep

Compute = Callable[[Batch], None]
"""Change tensors in place from a batch, and read nothing back to the host."""

Groups = Sequence[Sequence[Tensor]]

_WARM_UP = 3  # steps before the capture: libraries choose their algorithms and allocate their memory
_TOLERANCE = 1e-2  # of the length of the step; kernels that add in any order differ by 1e-4 and less


class CapturedStep:
    """Run a step as a CUDA graph once it has been captured; the same signature and result as the step's.

    The step is captured at the second batch of the full size: the first one allocates all that it needs. If the capture fails,
    the step runs uncaptured from then on, and a note gives the reason. After a restore of the state it is captured anew.

    Args:
        plain: the step.
        state: state of training, whose tensors the step changes.
        batch_size: full size of a batch; a smaller one, the last of an epoch, runs uncaptured.
        note: called with the reason why the step was not captured.
    """

    def __init__(self, plain: PlainStep, state: TrainState, batch_size: int, note: Callable[[str], None]) -> None:
        self.plain = plain
        self.state = state
        self.batch_size = batch_size
        self.note = note
        self.graph: GraphedStep | None = None
        self._tried = False
        self._restores = state.restores

    def __call__(self, batch: Batch) -> None:
        if self._restores != self.state.restores:
            self.graph, self._tried, self._restores = None, False, self.state.restores
        if self.graph is not None or not self._tried:
            self.state.optimizer.device_lr()  # also before the capture: a resumed run rounds as one never stopped
        if not self._tried and self.state.averages.count and len(batch.labels) == self.batch_size:
            self._capture(batch)
        if self.graph is not None:
            self.graph(batch)
        else:
            self.plain.compute(batch)
        self.state.averages.count += batch.size

    def _capture(self, batch: Batch) -> None:
        self._tried = True
        try:
            self.graph = GraphedStep(self.plain.compute, batch, self.state.tensors())
        except RuntimeError as error:
            self.state.optimizer.discard()
            self.state.optimizer.device_lr(on=False)
            self.note(f"no CUDA graph: {(str(error) or type(error).__name__).splitlines()[0]}")


class GraphedStep:
    """A computation that is captured once and replayed for every batch of the same shape; other batches run uncaptured.

    Capturing takes a few trial steps; ``tensors`` are restored to their values before them. The first replay is compared with
    the computation itself.

    Args:
        compute: what to capture. All that it allocates and keeps must exist: run it once before.
        batch: a batch of the usual shape.
        tensors: every tensor that the computation changes, in groups; the replay is compared group by group.

    Raises RuntimeError when the computation cannot be captured, or its replay differs; ``tensors`` are then as before.
    """

    def __init__(self, compute: Compute, batch: Batch, tensors: Groups) -> None:
        self.compute = compute
        self.batch = batch.map(torch.Tensor.clone)
        device = batch.images.device
        before = _copies(tensors)
        generator = torch.cuda.get_rng_state(device)
        try:
            self._capture(device)
            _assign(tensors, before)
            torch.cuda.set_rng_state(generator, device)
            compute(self.batch)
            expected = _copies(tensors)
            _assign(tensors, before)
            torch.cuda.set_rng_state(generator, device)
            self.graph.replay()
            for difference in map(_difference, tensors, expected, before):
                if not difference <= _TOLERANCE:  # also where it is not a number
                    raise RuntimeError(f"its replay ends {difference:.1e} of the step's length from where the step does")
        finally:
            _assign(tensors, before)
            torch.cuda.set_rng_state(generator, device)

    def _capture(self, device: torch.device) -> None:
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self.compute(self.batch)
        finally:
            torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may call CUDA meanwhile: a dataloader's pins memory.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.compute(self.batch)

    def __call__(self, batch: Batch) -> None:
        if batch.images.shape != self.batch.images.shape:  # the last batch of an epoch
            self.compute(batch)
            return
        for own, given in zip(self.batch.inputs.values(), batch.inputs.values(), strict=True):
            own.copy_(given, non_blocking=True)
        self.graph.replay()


def _copies(groups: Groups) -> list[list[Tensor]]:
    return [[tensor.detach().clone() for tensor in tensors] for tensors in groups]


@torch.no_grad()
def _assign(groups: Groups, values: Groups) -> None:
    for tensors, theirs in zip(groups, values, strict=True):
        for tensor, value in zip(tensors, theirs, strict=True):
            tensor.copy_(value)


@torch.no_grad()
def _difference(tensors: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """Distance of a group from its expected values, relative to the length of the step. Synchronises with the GPU."""
    apart = moved = 0.0
    for now, then, start in zip(tensors, expected, before, strict=True):
        if now.is_floating_point():
            apart += float((now - then).double().square().sum())
            moved += float((then - start).double().square().sum())
    return math.sqrt(apart / moved) if moved else apart
