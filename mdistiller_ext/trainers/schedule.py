"""The learning rate from epoch to epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers

from ..errors import ConfigError


def create_scheduler(
    optimizer: Optimizer,
    name: str,
    *,
    lr: float,
    epochs: int,
    steps: int,
    stages: Sequence[int],
    rate: float,
    min_lr: float,
    warmup_epochs: int,
    warmup_factor: float,
) -> schedulers.LambdaLR | schedulers.OneCycleLR:
    """Scheduler ``onecycle``, to be stepped after every batch, ``steps`` an epoch; or :func:`schedule`'s, after every epoch.

    Raises ConfigError.
    """
    if epochs < 1:
        raise ConfigError(f"SOLVER.EPOCHS must be at least 1, not {epochs}")
    if name == "onecycle":
        highest = [group["lr"] for group in optimizer.param_groups]
        return schedulers.OneCycleLR(optimizer, highest, epochs=epochs, steps_per_epoch=steps, cycle_momentum=False)
    final = min_lr / lr if lr else 0.0
    rule = schedule(
        name, epochs, stages=stages, rate=rate, final=final, warmup_epochs=warmup_epochs, warmup_factor=warmup_factor
    )
    return schedulers.LambdaLR(optimizer, rule)


def step_after_epoch(scheduler: schedulers.LRScheduler) -> None:
    """Step a scheduler without torch's warning where no optimizer has stepped: a run stopped in its evaluation and resumed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        scheduler.step()


def schedule(
    name: str,
    epochs: int,
    *,
    stages: Sequence[int],
    rate: float,
    final: float = 0.0,
    warmup_epochs: int = 0,
    warmup_factor: float = 0.1,
) -> Callable[[int], float]:
    """The learning rate as a multiple of the initial one, as a function of the number of completed epochs.

    ``step``: times ``rate`` after each of the epochs ``stages``. ``cosine``: half a cosine from 1 to ``final``, without
    warm-up as torch's CosineAnnealingLR, with warm-up as the DeepKD release: it starts in epoch ``warmup_epochs``, and the
    last epoch has ``final``. Until then both rise linearly, from ``warmup_factor`` in an epoch 0 that is never trained.
    Raises ConfigError.
    """
    if name not in ("step", "cosine"):
        raise ConfigError(f"unknown SOLVER.LR_SCHEDULER '{name}'. Known: step, cosine, onecycle")
    if warmup_epochs < 0:
        raise ConfigError(f"SOLVER.WARMUP_EPOCHS must not be negative, got {warmup_epochs}")

    def multiple(completed: int) -> float:
        epoch = completed + 1
        if epoch < warmup_epochs:
            return warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
        if name == "step":
            return float(rate ** sum(epoch > stage for stage in stages))
        fraction = completed / epochs
        if warmup_epochs:  # a short trial of a long recipe may end before
            fraction = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1)
        return final + (1 - final) * (1 + math.cos(math.pi * fraction)) / 2

    return multiple
