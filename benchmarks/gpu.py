"""Seconds for an epoch of DeepKD end to end on a GPU, the size of CIFAR-100: the official way against ours, part by part.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --full

resnet32x4 to resnet8x4, batch 64, 50,000 noisy images to train with and 10,000 to test with. The official way is that of
benchmarks.epoch with 16 workers or one a core, cuDNN choosing its algorithms by trial, as upstream has it. It is measured for
``--official-steps`` steps and extrapolated to an epoch: the wait for the first batch once, the mean step as often as an epoch
has steps, and one whole test. Ours are objects as ``train.py`` builds them, trained for whole epochs: float32 launched kernel
by kernel; as a CUDA graph; in bfloat16; compiled. Each line adds to the line before. The first epoch, which captures and
compiles, is told apart; 240 epochs are building, the first and 239 median ones. ``--full`` trains 240 of the last line's.
Ways do not take turns here, since an epoch is long beside what disturbs a GPU. Left out: logs and checkpoints.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mdistiller_ext.acceleration import has_bf16
from mdistiller_ext.trainers.cuda_graph import CapturedStep

from .common import cores, hardware, our_loader, print_hardware, random_split, save, spread, synchronize
from .data_pipeline import BATCH, pil_loader
from .deepkd_step import BF16, COMPILE, OfficialStep, networks, our_trainer
from .epoch import official_evaluation, official_training

EPOCHS = 240  # of the recipe

Splits = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
Pair = tuple[nn.Module, nn.Module]


def official(pair: Pair, splits: Splits, *, device: torch.device, workers: int, steps: int) -> dict[str, Any]:
    """An epoch of the official way, extrapolated from some of its steps."""
    student, teacher = (network.to(device) for network in copy.deepcopy(pair))
    step = OfficialStep(student, teacher)
    loader, test_loader = (
        pil_loader(split, training=training, workers=workers) for split, training in zip(splits, (True, False), strict=True)
    )
    warm_up = min(20, len(loader) // 2)
    steps = min(steps, len(loader) - warm_up)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        _start_of_peak(device)
        wait, seconds = _official_steps(step, loader, device, warm_up, steps)
        test = _timed(lambda: official_evaluation(step.student, test_loader, device), device)
    epoch = wait + seconds * len(loader) + test
    return {
        "variant": f"official way, from {steps} steps",
        "epoch": spread([epoch]),
        "first_epoch": epoch,
        "seconds_240": EPOCHS * epoch,
        "extrapolated": {"steps": steps, "wait": wait, "step": seconds, "test": test},
        "peak_bytes": _peak(device),
    }


def _official_steps(
    step: OfficialStep, loader: DataLoader[tuple[Tensor, int]], device: torch.device, warm_up: int, steps: int
) -> tuple[float, float]:
    """Seconds until the first batch is there, and of a step after the first ``warm_up``."""
    start = time.perf_counter()
    batches = iter(loader)
    first = next(batches)
    wait = time.perf_counter() - start
    official_training(step, itertools.chain([first], itertools.islice(batches, warm_up - 1)), device)
    return wait, _timed(lambda: official_training(step, itertools.islice(batches, steps), device), device) / steps


def ours(
    name: str, pair: Pair, splits: Splits, settings: Mapping[str, Any], *, device: torch.device, epochs: int
) -> dict[str, Any]:
    """Whole epochs of ours."""
    _start_of_peak(device)
    train, test = (
        our_loader(split, training=training, batch_size=BATCH, device=str(device))
        for split, training in zip(splits, (True, False), strict=True)
    )
    start = time.perf_counter()
    trainer = our_trainer(pair, train, test, settings)
    synchronize(device)
    setup = time.perf_counter() - start
    times = [_timed(trainer.run_epoch, device) for _ in range(epochs)]
    later = spread(times[1:] or times)
    return {
        "variant": name,
        "epoch": later,
        "setup": setup,
        "first_epoch": times[0],
        "seconds_240": setup + times[0] + (EPOCHS - 1) * later["median"],
        "measured": setup + sum(times),
        "captured": isinstance(trainer.fast_step, CapturedStep) and trainer.fast_step.graph is not None,
        "peak_bytes": _peak(device),
    }


def _timed(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def _start_of_peak(device: torch.device) -> None:
    """Let go of what the variant before has left, and forget its peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    """Most bytes of tensors on the GPU at a time, networks and images included."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def our_variants(device: torch.device) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and settings, each adding to the one before; on a CPU there is no graph, and compiling takes minutes."""
    settings: dict[str, Any] = {"SOLVER.CUDA_GRAPH": False}
    yield "ours, fp32, eager", settings
    if device.type == "cuda":
        settings = {}
        yield "+ CUDA graph", settings
    if has_bf16(device):
        settings = settings | BF16
        yield "+ bf16", settings
    if device.type == "cuda":
        yield "+ compile", settings | COMPILE


def print_row(row: dict[str, Any], first: dict[str, Any]) -> None:
    epoch = row["epoch"]
    memory = "" if row["peak_bytes"] is None else f", {row['peak_bytes'] / 1e6:.0f} MB at most"
    captured = ", as a graph" if row.get("captured") else ""
    print(
        f"{row['variant']}: {epoch['median']:.2f} s/epoch ({epoch['min']:.2f} to {epoch['max']:.2f}, n = {epoch['n']}; "
        f"first {row['first_epoch']:.2f}), {first['epoch']['median'] / epoch['median']:.2f} times the official way's speed, "
        f"{EPOCHS} epochs {row['seconds_240'] / 60:.1f} min{memory}{captured}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cuda if left out; cpu only tries the script")
    parser.add_argument("--images", type=int, default=50_000, help="to train with; a fifth as many to test with")
    parser.add_argument("--epochs", type=int, default=4, help="of each of ours, the first of which is told apart")
    parser.add_argument("--official-steps", type=int, default=300)
    parser.add_argument("--workers", type=int, default=min(16, cores()), help="of the official way's DataLoader")
    parser.add_argument("--full", action="store_true", help=f"then train {EPOCHS} epochs of the last variant")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--teacher", default="resnet32x4")
    arguments = parser.parse_args()
    if arguments.device is None and not torch.cuda.is_available():
        print("no CUDA device here: nothing to measure (--device cpu only tries the script)", file=sys.stderr)
        sys.exit(2)

    device = torch.device(arguments.device or "cuda")
    facts = hardware()
    print_hardware(facts)
    torch.manual_seed(0)
    splits = random_split(arguments.images), random_split(arguments.images // 5, seed=1)
    pair = networks(arguments.student, arguments.teacher, our_loader(splits[0], training=False, batch_size=BATCH))
    rows = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print_row(row, rows[0])
        save("gpu", facts, {**vars(arguments), "rows": rows})  # each time: later ones may take too long

    keep(official(pair, splits, device=device, workers=arguments.workers, steps=arguments.official_steps))
    for name, settings in our_variants(device):
        keep(ours(name, pair, splits, settings, device=device, epochs=arguments.epochs))
    if arguments.full:
        keep(ours(f"{name}, measured to the end", pair, splits, settings, device=device, epochs=EPOCHS))


if __name__ == "__main__":
    main()
