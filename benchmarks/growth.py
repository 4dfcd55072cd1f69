"""How time and memory of a training step grow: with streams, classes, batch and network; and what the losses alone cost.

    python -m benchmarks.growth

Each setting is measured in a process of its own, since a process never gives its peak of memory back: seconds of a step as
``train.py`` builds it (on a GPU without the CUDA graph), and two sizes, at most and without the networks: tensors, those that
the step had at a time, and the momenta; and what the process grew by since before its first step, which changes from run to
run with what malloc keeps. Beside them stand two times under which no step can be on this machine:

- operations: those that the step does (torch counts them: convolutions and matrix products), at the rate of a large matrix
  product in the same process;
- bytes: those that it must move at least (see least_bytes), at the rate of a large copy in the same process. Small networks
  live in caches that are faster than that.

The losses alone, forward and backward, are timed on given logits in one process, taking turns. Accuracy and the cost of
reading images are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mdistiller_ext.distillers import create_distiller
from mdistiller_ext.distillers.base import Output
from mdistiller_ext.distillers.progress import Progress
from mdistiller_ext.trainers.base import BaseTrainer

from .common import (
    compare,
    hardware,
    our_loader,
    print_comparison,
    print_hardware,
    print_table,
    random_split,
    save,
    spread,
    synchronize,
)
from .deepkd_step import networks, our_trainer

STREAMS: dict[int, dict[str, Any]] = {  # backward passes -> settings
    1: {"SOLVER.TRAINER": "base"},
    2: {},
    3: {"SOLVER.DEEPKD.DELTA_TOG": 0.05},
}
LOSSES = {  # names -> methods
    "cross-entropy alone": "NONE",
    "KD": "KD",
    "DeepKD, dynamic top-k mask": "DEEPKD",
    "GDKD": "GDKD",
    "DIST": "DIST",
}
LEAST_STEPS, MOST_STEPS = 3, 25


@dataclass(frozen=True)
class Cell:
    """A setting to measure. ``method`` is the folder of its recipe: kd has one stream, deepkd what ``streams`` says."""

    student: str = "resnet8"
    teacher: str = "resnet20"
    streams: int = 2
    classes: int = 100
    batch: int = 64
    method: str = "deepkd"
    device: str = "cpu"
    seconds: float = 1.5  # to measure for, at least LEAST_STEPS


def measure(cell: Cell) -> dict[str, Any]:
    """Time and memory of a cell's step, and its floors; meant to be all that a process does."""
    device = torch.device(cell.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as convolutions have it: the rate is a ceiling for both
    torch.manual_seed(0)
    split = random_split(cell.batch, cell.classes)
    loader = our_loader(split, training=False, batch_size=cell.batch, classes=cell.classes, device=cell.device)
    pair = networks(cell.student, cell.teacher, loader)
    settings = STREAMS[cell.streams] if cell.method == "deepkd" else {}
    trainer = our_trainer(pair, loader, loader, settings, method=cell.method)
    images, labels = next(iter(loader))

    def step() -> float:
        start = time.perf_counter()
        trainer.train_step(images, labels)
        synchronize(device)
        return time.perf_counter() - start

    before = _start_of_peak()
    step()  # makes the momenta: warm-up, not counted
    deadline = time.perf_counter() + cell.seconds
    times = [step() for _ in range(LEAST_STEPS)]
    while time.perf_counter() < deadline and len(times) < MOST_STEPS:
        times.append(step())
    grown = process_peak() - before
    tensors = tensor_peak(trainer, step)
    with FlopCounterMode(display=False) as counter:
        trainer.train_step(images, labels)
    operations, moved = counter.get_total_flops(), least_bytes(trainer, images)
    return {
        **asdict(cell),
        "step": spread(times),
        "tensor_bytes": tensors,
        "process_bytes": grown,
        "operations": operations,
        "least_bytes": moved,
        "floor_operations": operations / _matmul_rate(device),
        "floor_bytes": moved / _copy_rate(device),
    }


def _start_of_peak() -> int:
    """Bytes of this process; its peak is forgotten, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return process_peak()


def process_peak() -> int:
    """Most bytes that this process had at a time."""
    with contextlib.suppress(OSError):
        # Linux: ru_maxrss also remembers the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tensor_peak(trainer: BaseTrainer, step: Callable[[], object]) -> int:
    """Bytes of tensors that a step makes, the most at a time, and of the momenta."""
    momenta = sum(buffer.nbytes for state in trainer.optimizer.state.values() for buffer in state["momentum_buffers"].values())
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
        start = torch.cuda.memory_allocated(trainer.device)
        step()
        return torch.cuda.max_memory_allocated(trainer.device) - start + momenta
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return momenta + max(itertools.accumulate(change for _, change in changes))


def least_bytes(trainer: BaseTrainer, images: Tensor) -> int:
    """What a step reads and writes if every operation's operands come from memory once; float32.

    An activation (outputs of convolutions, batch norms and linear layers; ReLUs and sums are not counted, as they could be
    done in passing) is written and read in the forward pass; the student's are read, and their gradients written and read,
    in every backward pass. A weight is read in the forward pass, the student's again in every backward pass, where its
    gradient is written and read and its momentum read and written; the update reads all momenta and the weights, and writes
    these.
    """
    distiller, passes = trainer.distiller, len(trainer.active_streams)
    frozen = None if distiller.teacher is None else distiller.inference_network()
    student, teacher = (_activations(network, images) for network in (distiller.student, frozen))
    weights, fixed = (_parameters(network) for network in (distiller.student, frozen))
    return 4 * (student * (2 + 3 * passes) + 2 * teacher + weights * (3 + 6 * passes) + fixed)


def _parameters(network: nn.Module | None) -> int:
    return 0 if network is None else sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def _activations(network: nn.Module | None, images: Tensor) -> int:
    """Numbers that the layers of a network put out."""
    if network is None:
        return 0
    counts: list[int] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    hooks = [layer.register_forward_hook(lambda _, __, output: counts.append(output.numel())) for layer in layers]
    network(images)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def _matmul_rate(device: torch.device) -> float:
    """Operations per second of a large float32 matrix product, the best of ten."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    return 2 * size**3 / _best(lambda: a @ b, device)


def _copy_rate(device: torch.device) -> float:
    """Bytes read and written per second of a large copy, the best of ten."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device)


def _best(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(10):
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def measure_apart(cell: Cell) -> dict[str, Any]:
    """``measure`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--cell", json.dumps(asdict(cell))]
    quiet = os.environ | {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # the profiler's diary
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=quiet, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def losses_alone(classes: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of ``compare``: forward and backward of each method's losses on given logits."""
    labels = torch.randint(classes, (batch,))
    student, teacher = torch.randn(batch, classes, requires_grad=True), torch.randn(batch, classes)
    progress = Progress(120, 240)  # amid training: the mask keeps some of the classes

    def work(method: str) -> Callable[[], None]:
        distiller = create_distiller(method, nn.Identity(), nn.Identity())

        def run() -> None:
            losses = distiller.losses(Output(student, {}), Output(teacher, {}), labels, progress)
            torch.stack(list(losses.values())).sum().backward()
            student.grad = None

        return run

    return compare({name: work(method) for name, method in LOSSES.items()}, rounds)


def groups(arguments: argparse.Namespace) -> Iterator[tuple[str, list[tuple[str, Cell]]]]:
    """What is varied, and the cells by value."""

    def cell(**settings: Any) -> Cell:
        usual = {"student": arguments.models[0], "teacher": arguments.teacher}
        return Cell(**usual | settings, device=arguments.device, seconds=arguments.seconds)

    yield "streams", [(str(n), cell(streams=n)) for n in arguments.streams]
    yield "classes", [(str(n), cell(classes=n)) for n in arguments.classes]
    yield "batch", [(str(n), cell(batch=n)) for n in arguments.batches]
    yield "student", [(name, cell(student=name)) for name in arguments.models]
    teacher, student = arguments.pair
    for_pair = {"teacher": teacher, "student": student}
    one = ("KD, base trainer", cell(**for_pair, streams=1, method="kd"))
    yield f"{teacher} to {student}", [one, ("DeepKD", cell(**for_pair))]


def print_cells(what: str, cells: list[tuple[str, dict[str, Any]]]) -> None:
    header = [what, "s/step", "min", "max", "n", "to the first", "tensors MB", "to the first", "process MB"]
    header += ["floor: operations", "bytes", "step/floor"]
    first = cells[0][1]
    rows = []
    for name, found in cells:
        step, floor = found["step"], max(found["floor_operations"], found["floor_bytes"])
        rows.append(
            [
                name,
                *(f"{step[key]:.4f}" for key in ("median", "min", "max")),
                str(step["n"]),
                f"{step['median'] / first['step']['median']:.2f}",
                f"{found['tensor_bytes'] / 1e6:.1f}",
                f"{found['tensor_bytes'] / first['tensor_bytes']:.3f}",
                f"{found['process_bytes'] / 1e6:.0f}",
                f"{found['floor_operations']:.4f}",
                f"{found['floor_bytes']:.4f}",
                f"{step['median'] / floor:.1f}",
            ]
        )
    print_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 3], choices=list(STREAMS))
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--models", nargs="+", default=["resnet8", "resnet20", "resnet8x4", "wrn_16_2"], help="students")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--pair", nargs=2, metavar=("TEACHER", "STUDENT"), default=["resnet32x4", "resnet8x4"])
    parser.add_argument("--rounds", type=int, default=9, help="of the losses alone")
    parser.add_argument("--seconds", type=float, default=1.5, help="to measure a step for")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        print(json.dumps(measure(Cell(**json.loads(arguments.cell)))))
        return

    facts = hardware()
    print_hardware(facts)
    found: dict[Cell, dict[str, Any]] = {}
    steps: dict[str, dict[str, dict[str, Any]]] = {}
    for what, cells in groups(arguments):
        for _, cell in cells:
            if cell not in found:
                found[cell] = measure_apart(cell)
        steps[what] = {name: found[cell] for name, cell in cells}
        print_cells(what, list(steps[what].items()))
    losses = {}
    for classes in arguments.classes:
        losses[classes] = losses_alone(classes, batch=64, rounds=arguments.rounds)
        print_comparison(losses[classes], f"losses alone, {classes} classes, batch 64")
    step_of = {classes: steps["classes"][str(classes)]["step"]["median"] for classes in arguments.classes}
    shares = [
        [name, *(f"{losses[classes][index]['seconds']['median'] / step_of[classes]:.1%}" for classes in arguments.classes)]
        for index, name in enumerate(LOSSES)
    ]
    print_table([f"losses / a step of {arguments.models[0]}; classes:", *map(str, losses)], shares)
    save("growth", facts, {"steps": steps, "losses": losses})


if __name__ == "__main__":
    main()
