"""What could make a DeepKD step on the CPU faster, tried and timed; nothing of it is in the package.

    python -m benchmarks.step_experiments teacher_batches
    python -m benchmarks.step_experiments teacher_compiled --amp bf16

resnet32x4 to resnet8x4, batch 64. Each experiment compares its ways in turns, in fp32 or bf16, within 4 minutes:

- `teacher_batches`: the teacher's forward pass of 4 batches, a part of one, one, two and four at once; in other memory layouts;
- `overlap`: a step whose teacher runs on the next batch, in a thread of its own on one core, while the student's forward and
  backward passes run on the other. (Two networks cannot share a pass; this is as close as they get.)
- `teacher_compiled`: the teacher by torch.jit with oneDNN's fusions, by torch.compile (inductor), with its weights as constants
  (`freezing`) and with kernels chosen by trial (`max_autotune`);
- `teacher_in_step`: a whole step with these teachers;
- `whole_step`: forward passes, losses and the gradients of both streams as one compiled graph, by torch.autograd.grad within
  the function and by torch.func.vjp; compiled autograd; a compiled student. All with the same optimizer afterwards;
- `floor`: a step, beside its operations and least bytes at the rates of a large matrix product and a large copy.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from mdistiller_ext.data import InMemoryLoader
from mdistiller_ext.deployment import Classifier
from mdistiller_ext.distillers.outputs import LogitsOnly, Output
from mdistiller_ext.trainers.base import BaseTrainer
from mdistiller_ext.trainers.step import loss_of

from .common import compare, hardware, our_loader, print_comparison, print_hardware, random_split, save
from .deepkd_step import BF16, networks, our_trainer
from .growth import Cell, measure

Ways = dict[str, Callable[[], object]]
BATCH, TOGETHER = 64, 4  # images of a step; batches that the teacher sees at once, at most


class WithoutFeatures(nn.Module):
    """A network of the package, of one that returns logits alone."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return self.logits(images), {}


class Bench:
    """Networks, data and trainers of the experiments."""

    def __init__(self, amp: str, student: str, teacher: str) -> None:
        torch.manual_seed(0)
        self.settings: Mapping[str, Any] = BF16 if amp == "bf16" else {}
        self.loader: InMemoryLoader = our_loader(random_split(TOGETHER * BATCH), training=False, batch_size=TOGETHER * BATCH)
        self.pair = networks(student, teacher, self.loader)
        self.many, labels = next(iter(self.loader))
        self.images, self.labels = self.many[:BATCH], labels[:BATCH]

    def trainer(self, **options: Any) -> BaseTrainer:
        made = our_trainer(self.pair, self.loader, self.loader, self.settings, **options)
        made.train_step(self.images, self.labels)  # makes the momenta
        return made

    def step(self, trainer: BaseTrainer) -> Callable[[], object]:
        return lambda: trainer.train_step(self.images, self.labels)

    # ---- experiments ----------------------------------------------------------------------------------------------

    def teacher_batches(self) -> tuple[Ways, float]:
        folded = self.trainer().distiller.inference_network()
        unfolded = self.trainer(accelerate=False).distiller.inference_network()
        last = self.many.to(memory_format=torch.channels_last)
        nchw = copy.deepcopy(folded).to(memory_format=torch.contiguous_format)

        def passes(network: nn.Module, images: Tensor, size: int) -> Callable[[], object]:
            @torch.no_grad()
            def run() -> None:
                for batch in images.split(size):
                    network(batch)

            return run

        sizes = (BATCH, BATCH // 4, BATCH // 2, 2 * BATCH, 4 * BATCH)
        ways = {f"{size / BATCH:g} at once": passes(folded, self.many, size) for size in sizes}
        ways |= {
            "1 at once, images channels_last too": passes(folded, last, BATCH),
            "4 at once, images channels_last too": passes(folded, last, 4 * BATCH),
            "1 at once, weights nchw": passes(nchw, self.many, BATCH),
            "1 at once, as given (not folded, fp32)": passes(unfolded, self.many, BATCH),
        }
        return ways, TOGETHER

    def overlap(self) -> tuple[Ways, float]:
        plain, split = self.trainer(), self.trainer()
        # Each thread of Python has its own number of threads for its operations.
        pools = [ThreadPoolExecutor(1, initializer=partial(torch.set_num_threads, 1)) for _ in range(2)]
        steps = 4

        def teacher() -> Tensor:
            return split.distiller.teacher_output(self.images).logits

        def one_after_another() -> None:
            for _ in range(steps):
                plain.train_step(self.images, self.labels)

        def at_once() -> None:
            logits = pools[0].submit(teacher)
            for _ in range(steps):
                given = logits.result()
                logits = pools[0].submit(teacher)  # of the next batch
                pools[1].submit(split.train_step, self.images, self.labels, None, given).result()
            logits.result()  # the first of the next call: `steps + 1` passes of the teacher, of which one is not counted below

        def student_alone() -> None:
            given = teacher()
            for _ in range(steps):
                pools[1].submit(split.train_step, self.images, self.labels, None, given).result()

        def teacher_alone() -> None:
            for _ in range(steps):
                pools[0].submit(teacher).result()

        return {
            "one after another, 2 threads": one_after_another,
            "at once, a thread each": at_once,
            "(the student's part, 1 thread)": student_alone,
            "(the teacher's part, 1 thread)": teacher_alone,
        }, steps

    def compiled_teachers(self) -> dict[str, Callable[[Tensor], Tensor]]:
        logits = Classifier(self.trainer().distiller.inference_network()).eval()
        torch.jit.enable_onednn_fusion(True)
        with torch.no_grad():
            made = {"eager": logits, "jit, oneDNN fusion": torch.jit.freeze(torch.jit.trace(logits, self.images))}
        freezing: dict[str, Any] = {"freezing": True}
        tried = {
            "inductor": {},
            "inductor, freezing": freezing,
            "inductor, freezing, max_autotune": freezing | {"max_autotune": True},
        }
        return made | {name: torch.compile(copy.copy(logits), dynamic=False, options=each) for name, each in tried.items()}

    def teacher_compiled(self) -> tuple[Ways, float]:
        return {name: partial(torch.no_grad()(each), self.images) for name, each in self.compiled_teachers().items()}, 1

    def teacher_in_step(self) -> tuple[Ways, float]:
        ways: Ways = {"eager": self.step(self.trainer())}
        for name, logits in self.compiled_teachers().items():
            if name not in ("eager", "inductor"):
                trainer, compiled = self.trainer(), WithoutFeatures(logits)
                trainer.distiller.inference_path = lambda compiled=compiled: compiled
                ways[name] = self.step(trainer)
        return ways, 1

    def whole_step(self) -> tuple[Ways, float]:
        torch._dynamo.config.trace_autograd_ops = True
        plain, student = self.trainer(), self.trainer()
        from torch._functorch import config as functorch_config

        functorch_config.donated_buffer = False  # as accelerate() does
        student.distiller.student.compile(dynamic=False)
        ways: Ways = {"eager": self.step(plain), "compiled student": self.step(student)}
        made = {
            "one graph, autograd.grad": _by_grad,
            "one graph, func.vjp": _by_vjp,
            "compiled autograd": _by_compiled_autograd,
        }
        for name, make in made.items():
            ways[name] = partial(_with_optimizer, trainer := self.trainer(), make(trainer), self.images, self.labels)
        return ways, 1


Gradients = Callable[[Tensor, Tensor], list[tuple[Tensor, ...]]]


def _by_grad(trainer: BaseTrainer) -> Gradients:
    distiller, streams = trainer.distiller, trainer.active_streams
    parameters = list(distiller.learnable_parameters())

    def gradients(images: Tensor, labels: Tensor) -> list[tuple[Tensor, ...]]:
        _, losses = distiller(images, labels, trainer.progress)
        of_streams = [loss_of(losses, stream.roles) for stream in streams]
        return [torch.autograd.grad(loss, parameters, retain_graph=loss is not of_streams[-1]) for loss in of_streams]

    compiled: Gradients = torch.compile(gradients, dynamic=False, fullgraph=True)
    return compiled


def _by_vjp(trainer: BaseTrainer) -> Gradients:
    """Batch norm's statistics are not updated: a functional pass does not change buffers."""
    distiller, streams = trainer.distiller, trainer.active_streams
    weights = dict(distiller.student.named_parameters())
    buffers = dict(distiller.student.named_buffers())
    teacher = distiller.inference_network()

    def gradients(images: Tensor, labels: Tensor) -> list[tuple[Tensor, ...]]:
        with torch.no_grad():
            target = Output(teacher(images)[0], LogitsOnly())

        def student(given: dict[str, Tensor]) -> Tensor:
            copies = {name: buffer.clone() for name, buffer in buffers.items()}
            with torch.autocast("cpu", distiller.autocast, enabled=distiller.autocast is not None):
                logits: Tensor = functional_call(distiller.student, (given, copies), (images,))[0]
            return logits.float()

        def losses(logits: Tensor) -> Tensor:
            parts = distiller.losses(Output(logits, LogitsOnly()), target, labels, trainer.progress)
            return torch.stack([loss_of(parts, stream.roles) for stream in streams])

        logits, pull_student, *_ = vjp(student, weights)
        _, pull_losses, *_ = vjp(losses, logits)
        return [tuple(pull_student(pull_losses(row)[0])[0].values()) for row in torch.eye(len(streams))]

    compiled: Gradients = torch.compile(gradients, dynamic=False, fullgraph=True)
    return compiled


def _by_compiled_autograd(trainer: BaseTrainer) -> Gradients:
    distiller, streams = trainer.distiller, trainer.active_streams
    parameters = list(distiller.learnable_parameters())

    def gradients(images: Tensor, labels: Tensor) -> list[tuple[Tensor, ...]]:
        _, losses = distiller(images, labels, trainer.progress)
        found = []
        for stream in streams:
            loss_of(losses, stream.roles).backward(retain_graph=stream is not streams[-1])
            found.append(tuple(p.grad for p in parameters if p.grad is not None))
            for p in parameters:
                p.grad = None
        return found

    compiled = torch.compile(gradients, dynamic=False)

    def run(images: Tensor, labels: Tensor) -> list[tuple[Tensor, ...]]:
        with torch._dynamo.config.patch(compiled_autograd=True, trace_autograd_ops=False):
            return compiled(images, labels)

    return run


def _with_optimizer(trainer: BaseTrainer, gradients: Gradients, images: Tensor, labels: Tensor) -> None:
    parameters = list(trainer.distiller.learnable_parameters())
    for stream, values in zip(trainer.active_streams, gradients(images, labels), strict=True):
        for p, value in zip(parameters, values, strict=True):
            p.grad = value
        trainer.optimizer.absorb(stream.name)
    trainer.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    experiments = ("teacher_batches", "overlap", "teacher_compiled", "teacher_in_step", "whole_step", "floor")
    parser.add_argument("experiment", choices=experiments)
    parser.add_argument("--amp", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--teacher", default="resnet32x4")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of torch.jit, which is deprecated
    facts = hardware()
    print_hardware(facts)
    name = f"step_{arguments.experiment}_{arguments.amp}"
    if arguments.experiment == "floor":
        found = measure(Cell(arguments.student, arguments.teacher, seconds=20))
        floors = ", ".join(f"{key} {found[key]:.3f} s" for key in ("floor_operations", "floor_bytes"))
        print(f"step {found['step']['median']:.3f} s (n = {found['step']['n']}), {floors}")
        save(name, facts, {**vars(arguments), **found})
        return
    ways, per = getattr(Bench(arguments.amp, arguments.student, arguments.teacher), arguments.experiment)()
    rows = compare(ways, arguments.rounds, per=per)
    print_comparison(rows, f"{arguments.experiment}, {arguments.amp}")
    save(name, facts, {**vars(arguments), "rows": rows})


if __name__ == "__main__":
    main()
