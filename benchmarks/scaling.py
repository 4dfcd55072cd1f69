"""Images per second of one and of two processes on the CPU, and how much of the gradients' exchange is hidden.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m benchmarks.scaling
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m benchmarks.scaling --student ResNet18 --batch 32

A DeepKD step of two streams, fp32, by the gloo backend, 2 minutes each. In each round, all of these take a turn:

- one process of one thread and of two, with the batch and with twice the batch, while the other process sleeps;
- two processes of one thread with the same global batch (strong scaling) and with the same local batch (weak scaling);
- the first of these with the exchange as one all-reduce after each backward pass (`whole`), and without one (`none`);
- the exchange of one stream's gradients alone, with nothing to overlap.

`waiting` is the time that a step spends in GradientExchange.wait: for what is not hidden of the exchange, and for the other
process where that is slower. `over none` is what the exchange costs a step altogether: waiting, copies, the second thread that
gloo takes from the computation, and steps that end together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from mdistiller_ext.distributed import barrier, group, launched
from mdistiller_ext.trainers import gradient_exchange, step
from mdistiller_ext.trainers.base import BaseTrainer
from mdistiller_ext.trainers.gradient_exchange import GradientExchange, gradient_buckets

from .common import hardware, our_loader, print_hardware, print_table, random_split, save, spread
from .deepkd_step import networks, our_trainer

BASE = "1 process, 1 thread"
BUCKETS, WHOLE, NONE = (f"2 processes: {way}" for way in ("buckets", "whole", "none"))
ALONE = "exchange of a stream alone"


class WholeExchange(GradientExchange):
    """The gradients of a stream in one all-reduce after the backward pass."""

    def __init__(self, parameters: Iterable[Tensor], weight: float, backward: Callable[[], object]) -> None:
        backward()
        with patch.object(gradient_exchange, "gradient_buckets", partial(gradient_buckets, max_bytes=float("inf"))):
            super().__init__(parameters, weight)


class NoExchange:
    """What an exchange does but for the all-reduce: each process keeps its own gradients."""

    def __init__(self, parameters: Iterable[Tensor], weight: float, backward: Callable[[], object]) -> None:
        backward()
        self.gradients = [(p, p.grad) for p in parameters]
        for p, _ in self.gradients:
            p.grad = None

    def wait(self) -> None:
        for p, gradient in self.gradients:
            p.grad = gradient


def exchanging(kind: type) -> AbstractContextManager[object]:
    """Steps exchange gradients by this class within the block."""
    return patch.object(step, "GradientExchange", kind)


def steps(trainer: BaseTrainer, batch: tuple[Tensor, ...], count: int, threads: int = 1) -> float:
    """Seconds of a step, after one that is not counted."""
    torch.set_num_threads(threads)
    trainer.train_step(*batch)
    barrier()
    start = time.perf_counter()
    for _ in range(count):
        trainer.train_step(*batch)
    barrier()
    return (time.perf_counter() - start) / count


def waiting(trainer: BaseTrainer, batch: tuple[Tensor, ...], count: int) -> tuple[float, float]:
    """Seconds of a step, and those of it that are spent in waiting for exchanges."""
    wait, seconds = GradientExchange.wait, []

    def timed(exchange: GradientExchange) -> None:
        start = time.perf_counter()
        wait(exchange)
        seconds.append(time.perf_counter() - start)

    with patch.object(GradientExchange, "wait", timed):
        whole_step = steps(trainer, batch, count)
    return whole_step, sum(seconds) / (count + 1)


def exchange_alone(trainer: BaseTrainer, count: int) -> float:
    """Seconds of the exchange of a stream's gradients."""
    parameters = list(trainer.distiller.learnable_parameters())
    for p in parameters:
        p.grad = torch.zeros_like(p)
    barrier()
    start = time.perf_counter()
    for _ in range(count):
        GradientExchange(parameters, 0.5).wait()
    seconds = (time.perf_counter() - start) / count
    trainer.optimizer.zero_grad()
    return seconds


def take_turns(trainer: BaseTrainer, batches: dict[int, tuple[Tensor, ...]], rounds: int, count: int) -> dict[str, list[float]]:
    """Seconds of every way, in every round; the first round is not counted."""
    times: dict[str, list[float]] = {}
    small, usual, large = (batches[size] for size in sorted(batches))
    for turn in range(rounds + 1):
        found: dict[str, float] = {}
        if launched()[0] == 0:
            for threads, batch, name in ((1, usual, ""), (2, usual, ""), (2, large, ", twice the batch")):
                what = "1 process, 1 thread" if threads == 1 else f"1 process, {threads} threads{name}"
                found[what] = steps(trainer, batch, count, threads)
        with group():
            ways: list[tuple[str, AbstractContextManager[object]]] = [
                (BUCKETS, nullcontext()),
                (WHOLE, exchanging(WholeExchange)),
                (NONE, exchanging(NoExchange)),
            ]
            for name, way in ways[turn % 3 :] + ways[: turn % 3]:
                with way:
                    found[name], found[f"{name}, waiting"] = waiting(trainer, small, count)
            found["2 processes, twice the batch"] = steps(trainer, usual, count)
            found[ALONE] = exchange_alone(trainer, 5)
        if turn:
            for name, seconds in found.items():
                times.setdefault(name, []).append(seconds)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--batch", type=int, default=64, help="images of a step, over all processes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps in a measurement")
    arguments = parser.parse_args()
    if launched()[1] != 2:
        parser.error("start it by torchrun --nproc-per-node 2")

    facts = hardware()
    torch.manual_seed(0)
    sizes = (arguments.batch // 2, arguments.batch, 2 * arguments.batch)
    split = random_split(sizes[-1])
    loaders = {size: our_loader(split, training=False, batch_size=size) for size in sizes}
    first = loaders[arguments.batch]
    trainer = our_trainer(networks(arguments.student, arguments.teacher, first), first, first, {})
    batches = {size: next(iter(loader)) for size, loader in loaders.items()}
    times = take_turns(trainer, batches, arguments.rounds, arguments.steps)
    if launched()[0]:
        return

    print_hardware(facts)
    rows: dict[str, dict[str, Any]] = {}
    for name, seconds in times.items():
        if name.endswith("waiting"):
            continue
        images = sizes[-1] if "twice" in name else arguments.batch
        rows[name] = {"seconds": spread(seconds)}
        if name != ALONE:
            rows[name]["images_per_second"] = spread([images / each for each in seconds])
            faster = [images / arguments.batch * one / each for one, each in zip(times[BASE], seconds, strict=True)]
            rows[name]["speed_up"] = spread(faster)
        if name in (BUCKETS, WHOLE):
            over = [each - none for each, none in zip(seconds, times[NONE], strict=True)]
            rows[name] |= {"over_none": spread(over), "waiting": spread(times[f"{name}, waiting"])}
    buckets_gain = spread([whole / each for whole, each in zip(times[WHOLE], times[BUCKETS], strict=True)])
    cells = [
        [name, *(text(row.get(key)) for key in ("seconds", "images_per_second", "speed_up", "over_none", "waiting"))]
        for name, row in rows.items()
    ]
    pair = f"{arguments.teacher} to {arguments.student}, batch {arguments.batch}"
    header = [pair, "seconds", "images/s", f"over {BASE}", "over none s", "waiting s"]
    print_table(header, cells)
    print(f"{len(gradient_buckets(trainer.distiller.learnable_parameters()))} buckets over whole: {text(buckets_gain)}")
    megabytes = sum(p.nbytes for p in trainer.distiller.learnable_parameters()) / 1e6
    found = {**vars(arguments), "megabytes": megabytes, "rows": rows, "buckets_over_whole": buckets_gain}
    save(f"scaling_{arguments.student.lower()}", facts, found)


def text(values: dict[str, float] | None) -> str:
    """Median (min to max)."""
    return "" if values is None else "{median:.4g} ({min:.4g} to {max:.4g})".format(**values)


if __name__ == "__main__":
    main()
