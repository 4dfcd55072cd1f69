"""Sum the gradients of all ranks, bucket by bucket, while the backward pass that computes them goes on.

Not by DistributedDataParallel, which synchronises the first backward pass of a step and, without an error, none after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed import reachable
from ..errors import TrainingError

_BUCKET_BYTES = 16 * 2**20  # smaller ones pay more latency, larger ones overlap less (benchmarks/cost_model.py)


def gradient_buckets(parameters: Iterable[Tensor], max_bytes: float = _BUCKET_BYTES) -> list[list[Tensor]]:
    """Parameters whose gradients are exchanged together, in the order in which a backward pass reaches them: last ones first.

    A bucket has one dtype and, unless it is a single parameter, at most ``max_bytes``.
    """
    buckets: list[list[Tensor]] = []
    size = 0
    for p in reversed([p for p in parameters if p.requires_grad]):
        size += p.nbytes
        if not buckets or size > max_bytes or p.dtype != buckets[-1][0].dtype:
            buckets.append([])
            size = p.nbytes
        buckets[-1].append(p)
    return buckets


class GradientExchange:
    """Asynchronous weighted sum of the gradients of all ranks, which overlaps the rest of their backward pass, and the next.

    Takes the gradients out of ``.grad``; :meth:`wait` puts the sums in their place. Each bucket is exchanged as soon as it and
    those before it are complete: in the same order on every rank, also among the all-reduces of SyncBatchNorm's backward pass.
    Those that stay incomplete, as the pass does not reach all of their parameters, follow after it; it must reach the same
    parameters on every rank, and complete each gradient at once: reentrant activation checkpointing of a layer that is used
    twice does not, and :meth:`wait` then raises TrainingError.

    Args:
        weight: this rank's share of the batch, so that the sum of the ranks' means is the mean over the whole batch.
        backward: backward pass that computes the gradients. Default: they are in ``.grad`` already.
    """

    def __init__(self, parameters: Iterable[Tensor], weight: float, backward: Callable[[], object] = lambda: None) -> None:
        self._weight = weight
        self._buckets = gradient_buckets(parameters)  # not yet exchanged
        self._works: list[dist.Work] = []
        self._sums: list[tuple[Tensor, Tensor]] = []
        hooks = [p.register_post_accumulate_grad_hook(self._exchange_complete) for bucket in self._buckets for p in bucket]
        try:
            backward()
        finally:
            for hook in hooks:
                hook.remove()
        for bucket in self._buckets:
            self._exchange([p for p in bucket if p.grad is not None])

    def _exchange_complete(self, _: Tensor) -> None:
        # The last parameter of a bucket is the last one to be reached, as a rule.
        while self._buckets and all(p.grad is not None for p in reversed(self._buckets[0])):
            self._exchange(self._buckets.pop(0))

    def _exchange(self, reached: list[Tensor]) -> None:
        if not reached:
            return
        flat = torch.empty(sum(p.numel() for p in reached), dtype=reached[0].dtype, device=reached[0].device)
        parts = flat.split([p.numel() for p in reached])
        # In each parameter's own memory layout: the sums are added to buffers of that layout.
        sums = [part.as_strided(p.shape, p.stride()) for part, p in zip(parts, reached, strict=True)]
        torch._foreach_copy_(sums, [p.grad for p in reached if p.grad is not None])
        if self._weight:
            flat.mul_(self._weight)
        else:
            flat.zero_()  # zero times a gradient that is not finite is not zero
        for p in reached:
            p.grad = None
        self._sums += zip(reached, sums, strict=True)
        with reachable():
            self._works.append(dist.all_reduce(flat, async_op=True))

    def wait(self) -> None:
        """Put the sums into ``.grad``."""
        with reachable():
            for work in self._works:
                work.wait()
        for p, total in self._sums:
            if p.grad is not None:
                raise TrainingError(
                    "a gradient grew after it was exchanged: activation checkpointing of a layer that is used twice takes "
                    "use_reentrant=False on several processes"
                )
            p.grad = total
