"""Time and memory of a training step of every method, beside KD's.

    python -m benchmarks.method_cost

Steps take turns, in one process: each method's recipe for the same two networks as ``train.py`` builds it, on given images. A
step is forward and backward passes and the update; methods with two views run both networks on twice the images. The memory is
that of tensors, the most that the step has at a time, and of the momenta, without networks and data. CRD's memories are of
50,000 images, as for CIFAR-100.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from mdistiller_ext.data import InMemoryLoader
from mdistiller_ext.registry import DISTILLERS
from mdistiller_ext.trainers import BaseTrainer

from .common import compare, hardware, our_loader, print_hardware, print_table, random_split, save, synchronize
from .deepkd_step import RECIPES, networks, our_trainer
from .growth import tensor_peak

BATCH = 64
IMAGES = 50_000


def folders() -> dict[str, str]:
    """Name of each method with a recipe -> its folder in ``configs/cifar100``."""
    return {name: name.lower() for name in DISTILLERS if (RECIPES / name.lower() / "res32x4_res8x4.yaml").is_file()}


def step_of(trainer: BaseTrainer, loader: InMemoryLoader) -> Callable[[], None]:
    """A training step on the loader's first batch, in all views that the method asks for."""
    images, labels = next(iter(loader))
    if len(trainer.distiller.views) > 1:
        images = torch.stack([images] * len(trainer.distiller.views), dim=1)
    index = torch.arange(len(labels), device=labels.device) if trainer.distiller.needs_index else None

    def step() -> None:
        trainer.train_step(images, labels, index)
        synchronize(trainer.device)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--amp", choices=("none", "bf16"), default="none")
    parser.add_argument(
        "--methods", nargs="+", choices=sorted(folders()), default=sorted(folders(), key=lambda name: name != "KD")
    )
    arguments = parser.parse_args()
    facts = hardware()
    print_hardware(facts)
    loader = our_loader(random_split(BATCH), training=False, batch_size=BATCH, device=arguments.device)
    # For the labels alone: a step takes its images from the other.
    everything = our_loader(random_split(IMAGES), training=True, batch_size=BATCH, device=arguments.device)
    pair = networks(arguments.student, arguments.teacher, loader)
    settings: dict[str, Any] = {"SOLVER.AMP": arguments.amp}
    trainers = {name: our_trainer(pair, everything, loader, settings, method=folders()[name]) for name in arguments.methods}
    steps = {name: step_of(trainer, loader) for name, trainer in trainers.items()}
    rows = compare(steps, arguments.rounds)
    for row, (name, trainer) in zip(rows, trainers.items(), strict=True):
        row["tensor_bytes"] = tensor_peak(trainer, steps[name])
        row["own_parameters"] = sum(p.numel() for p in trainer.distiller.learnable_parameters()) - sum(
            p.numel() for p in pair[0].parameters()
        )
    first = rows[0]
    print_table(
        (
            "method",
            "seconds",
            f"time of {first['variant']}",
            "MB of tensors",
            f"memory of {first['variant']}",
            "own parameters",
        ),
        [
            (
                row["variant"],
                f"{row['seconds']['median']:.3f}",
                f"{1 / row['ratio']['median']:.2f} ({1 / row['ratio']['max']:.2f} to {1 / row['ratio']['min']:.2f})",
                f"{row['tensor_bytes'] / 1e6:.0f}",
                f"{row['tensor_bytes'] / first['tensor_bytes']:.2f}",
                f"{row['own_parameters']:,}",
            )
            for row in rows
        ],
    )
    save("method_cost", facts, {"arguments": vars(arguments), "rows": rows})


if __name__ == "__main__":
    main()
