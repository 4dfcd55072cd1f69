"""What the benchmarks share: what they ran on, timings that take turns, tables, and results that are kept as JSON.

It judges nothing: no target, no history of earlier results. ``compare`` is for the CPU; on a GPU the caller synchronises.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from mdistiller_ext.data import InMemoryLoader, random_crop_flip
from mdistiller_ext.data.cifar100 import CIFAR100

RESULTS = Path(__file__).parent / "results"


def hardware() -> dict[str, Any]:
    """The machine, what else it does, and the versions that matter."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "date": datetime.date.today().isoformat(),
    }


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def print_hardware(facts: dict[str, Any]) -> None:
    """What ``hardware`` found, before anything is timed: a load average from then tells of a busy machine."""
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, GPU: {facts['gpu'] or 'none'}")
    print(f"Python {facts['python']}, torch {facts['torch']}, torchvision {facts['torchvision']}")
    print(f"load average {facts['load_average']}, {facts['date']}\n", flush=True)


def spread(values: Sequence[float]) -> dict[str, float]:
    """``{"median", "min", "max", "n"}``."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def compare(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    per: float = 1,
    after: Mapping[str, str] | None = None,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """Time several ways to do the same thing, which take turns, so that what else the machine does meets all of them.

    Args:
        per: how many units of work a call does; times are of one.
        after: variant -> the one that it adds to, where that is not the one before it.
        warm_up: call each once before, not counted.

    Returns:
        a row for each variant: ``seconds``, ``ratio`` (times as fast as the first) and ``gain`` (as the one that it adds
        to), each a ``spread`` over the rounds; ratios are taken within a round.
    """
    if warm_up:
        for variant in variants.values():
            variant()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            start = clock()
            variant()
            times[name].append((clock() - start) / per)
    names = list(variants)
    adds_to = dict(zip(names, [names[0], *names], strict=False)) | dict(after or {})
    return [
        {
            "variant": name,
            "adds_to": adds_to[name],
            "seconds": spread(times[name]),
            "ratio": spread(_ratios(times[names[0]], times[name])),
            "gain": spread(_ratios(times[adds_to[name]], times[name])),
        }
        for name in names
    ]


def _ratios(ones: list[float], others: list[float]) -> list[float]:
    return [one / other for one, other in zip(ones, others, strict=True)]


def print_comparison(rows: Sequence[dict[str, Any]], what: str) -> None:
    """The rows of ``compare``, medians where nothing else is said; ``what`` took the seconds."""
    header = [what, "seconds", "min", "max", "ratio to the first", "min", "max", "to what it adds to", "n"]
    cells = []
    for row in rows:
        seconds = [f"{row['seconds'][key]:.4g}" for key in ("median", "min", "max")]
        ratio = [f"{row['ratio'][key]:.2f}" for key in ("median", "min", "max")]
        cells.append([row["variant"], *seconds, *ratio, f"{row['gain']['median']:.2f}", str(row["seconds"]["n"])])
    print_table(header, cells)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be, the first to the left."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    for first, *others in (header, *rows):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))
    print(flush=True)


def save(name: str, facts: dict[str, Any], results: dict[str, Any]) -> None:
    """Keep what was found, with what it was found on, as ``results/<name>.json``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, "hardware": facts, **results}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_split(count: int, classes: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
    """CIFAR-shaped noise: images uint8 ``[N, 3, 32, 32]`` and labels ``[N]``."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return images, torch.randint(classes, (count,), generator=generator)


def our_loader(
    split: tuple[Tensor, Tensor],
    *,
    training: bool,
    batch_size: int = 64,
    classes: int = 100,
    device: str = "cpu",
    with_view: bool = False,
) -> InMemoryLoader:
    """The loader that ``create_loaders`` would make of a split of CIFAR-100; ``with_view`` also has it yield index and view."""
    images, labels = (tensor.to(device) for tensor in split)
    return InMemoryLoader(
        images,
        labels,
        batch_size=batch_size,
        mean=CIFAR100.mean,
        std=CIFAR100.std,
        augment=random_crop_flip if training else None,
        shuffle=training,
        with_index=with_view,
        with_view=with_view,
        num_classes=classes,
    )
