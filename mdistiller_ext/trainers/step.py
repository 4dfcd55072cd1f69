"""The training step: forward pass, one backward pass per stream, exchange between ranks, update, running averages.

Every kind of step has the signature ``step(batch)``: the plain one below, the checked one of ``nonfinite.py`` and the captured
one of ``cuda_graph.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..distillers.base import Distiller
from ..distillers.outputs import Batch
from ..distillers.progress import Progress
from ..distributed import local_batch_sizes, rank, world_size
from ..errors import TrainingError
from ..meters import Averages, top_k_hits
from ..optim import ComponentSGD
from .gradient_exchange import GradientExchange
from .loaders import Loader
from .streams import Stream

Result = tuple[Tensor, dict[str, Tensor]]
"""The student's logits ``[N, C]`` and the loss components of a step"""


Step = Callable[[Batch], None]
"""Train on a batch, and add its losses and hits to the running averages."""


def batch_sizes(loader: Loader, step: int) -> list[int]:
    """Number of images of an epoch's batch ``step``, from 0, on each rank."""
    return local_batch_sizes(min(loader.batch_size, loader.num_images - step * loader.batch_size))


def is_trained_on(distiller: Distiller, sizes: Sequence[int]) -> bool:
    """Whether a batch of these sizes is trained on. Under SyncBatchNorm one with fewer images than ranks is skipped.

    The padding of a rank without images would enter the statistics of the whole batch. An empty batch, which
    SyncBatchNorm allows, reaches no parameter on that rank, whose gradients the other ranks wait for.
    """
    return 0 not in sizes or not any(isinstance(module, nn.SyncBatchNorm) for module in distiller.modules())


def forward(
    distiller: Distiller,
    progress: Progress,
    images: Tensor,
    labels: Tensor,
    index: Tensor | None = None,
    teacher_logits: Tensor | None = None,
) -> Result:
    """The student's logits and the loss components, not detached.

    Raises TrainingError for a batch too small for the student's batch norm.
    """
    try:
        student, losses = distiller(images, labels, progress, index, teacher_logits)
    except ValueError as error:
        if len(labels) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "a batch of a single image, the last of an epoch perhaps, is too small for this student's batch norm: "
            "choose another SOLVER.BATCH_SIZE"
        ) from error
    return student.logits, losses


def loss_of(losses: dict[str, Tensor], roles: Collection[str]) -> Tensor:
    """Sum of the components of these roles."""
    return torch.stack([value for name, value in losses.items() if name.split("/")[0] in roles]).sum()


def share_of_batch(distiller: Distiller, count: int) -> float:
    """This rank's share of the current batch (``distiller.batch_sizes``), of which it has ``count`` samples."""
    sizes = distiller.batch_sizes or [count] * world_size()
    return sizes[rank()] / sum(sizes)


def update(
    distiller: Distiller,
    optimizer: ComponentSGD,
    streams: Sequence[Stream],
    progress: Progress,
    images: Tensor,
    labels: Tensor,
    index: Tensor | None = None,
    teacher_logits: Tensor | None = None,
) -> Result:
    """Update the student by one batch: a forward pass, a backward pass for each stream, and the optimizer's step.

    The gradients of each stream are summed over ranks, weighted by the ranks' shares of the batch.
    """
    logits, losses = forward(distiller, progress, images, labels, index, teacher_logits)
    exchanges: list[GradientExchange] = []
    for stream in streams:
        backward = partial(loss_of(losses, stream.roles).backward, retain_graph=stream is not streams[-1])
        if world_size() == 1:
            backward()
            optimizer.absorb(stream.name)
        else:
            weight = share_of_batch(distiller, len(labels))
            exchanges.append(GradientExchange(distiller.learnable_parameters(), weight, backward))
    for stream, exchange in zip(streams, exchanges, strict=False):  # no exchanges on a single rank
        exchange.wait()
        optimizer.absorb(stream.name)
    optimizer.step()
    return logits.detach(), {name: value.detach() for name, value in losses.items()}


class PlainStep:
    """Update the student by one batch, and add its losses and hits to the running averages.

    Args:
        train_step: the inputs of a batch, in the order of Batch -> Result; the trainer's.
        averages: running averages of the loss components and ``train_top1``.
    """

    def __init__(self, train_step: Callable[..., Result], averages: Averages) -> None:
        self.train_step = train_step
        self.averages = averages

    def __call__(self, batch: Batch) -> None:
        self.compute(batch)
        self.averages.count += batch.size

    def compute(self, batch: Batch) -> None:
        """All that a step does on the device, which a CUDA graph can capture."""
        self.record(batch, *self.train_step(*batch.inputs.values()))

    def record(self, batch: Batch, logits: Tensor, losses: dict[str, Tensor]) -> None:
        """Add a batch's losses and hits to the sums of the running averages; their count is the caller's to raise."""
        if batch.size:  # zero times a value that is not finite is not zero
            sums = {name: loss * batch.size for name, loss in losses.items()}
            hits = top_k_hits(logits[: batch.size], batch.labels[: batch.size], 1)
            self.averages.add(sums | {"train_top1": hits})
