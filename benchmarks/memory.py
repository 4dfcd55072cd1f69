"""Memory of training, tensors and process, against a floor: every method, and the data sets; and which recipes need how much.

    python -m benchmarks.memory
    python -m benchmarks.memory --recipes

The floor is the least that a step needs: (1 + momenta) x 4 bytes for each weight that is trained, what autograd keeps of the
batch for the backward pass (counted in a forward pass, each storage once), and the batch in float32; see
``mdistiller_ext.memory.step_floor``. To it the process adds the networks, the copy of the teacher with folded batch norms, the
data set as uint8, and what it had before that: Python, torch and this package.

Each recipe is measured in a process of its own: two training steps as ``train.py`` builds them, on black images, on the CPU.
Steps of Tiny-ImageNet and ImageNet are measured with batches of 16 and 32, and extrapolated to the recipe's batch by a line.
Takes about 10 minutes and up to 4 GB.

``--recipes`` measures nothing: it computes the estimate that a run compares with the memory available, PEAK times the floor, of
all files in ``configs/``, and what networks, data and an idle process need besides. Recipes that differ in neither data set,
networks, method, trainer nor batch are estimated once. Takes about 10 minutes and up to 4 GB,
for CRD's memories of ImageNet.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from mdistiller_ext.config import load_config
from mdistiller_ext.data import InMemoryLoader, dataset_entry
from mdistiller_ext.data.base import InMemoryDataset
from mdistiller_ext.memory import PEAK, step_floor
from mdistiller_ext.models import create_model
from mdistiller_ext.registry import DISTILLERS
from mdistiller_ext.trainers import BaseTrainer

from .common import hardware, print_hardware, print_table, save
from .deepkd_step import RECIPES, our_trainer
from .growth import process_peak, tensor_peak
from .method_cost import folders, step_of

CONFIGS = RECIPES.parent
# Data set -> training images, test images, classes.
SIZES = {
    "cifar100": (50_000, 10_000, 100),
    "glyphs": (10_000, 2_000, 100),
    "glyphs_hard": (10_000, 2_000, 100),
    "tiny_imagenet": (100_000, 10_000, 200),
    "imagenet": (1_281_167, 50_000, 1000),
    "cub2011": (5_994, 5_794, 200),
    "dtd": (4_512, 1_128, 47),
    "food101": (75_750, 25_250, 101),
    "tiny-imagenet": (100_000, 10_000, 200),
    "folder": (5_994, 5_794, 200),  # any; as CUB-200-2011
}
EDGES = {"cifar100": 32, "tiny_imagenet": 64, "imagenet": 224}  # of the images of a zoo, in pixels
LARGE = 64
BATCHES = (16, 32)  # of large images
OTHERS = [
    "cifar100/none/resnet8x4",
    "tiny_imagenet/deepkd/res18_mv2",
    "imagenet/kd/res34_res18",
    "imagenet/deepkd/res34_res18",
    "imagenet/deepkd/res50_mv1",
]


def loader_of(config: CfgNode, batch: int) -> InMemoryLoader:
    """Black images in the number, shape and classes of the configured data set, which need no memory, and their labels."""
    count, _, classes = SIZES[config.DATASET.TYPE]
    edge = EDGES[dataset_entry(config.DATASET.TYPE).zoo]
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(count, 3, edge, edge)
    options: dict[str, Any] = {"batch_size": batch, "mean": (0.5,) * 3, "std": (0.25,) * 3, "num_classes": classes}
    return InMemoryLoader(images, torch.arange(count) % classes, **options)


def networks_of(config: CfgNode, loader: InMemoryLoader) -> tuple[nn.Module, nn.Module | None]:
    """The configured student and teacher, untrained; no teacher for a method without one."""
    options = {"dataset": config.DATASET.TYPE, "num_classes": loader.num_classes, "image_size": loader.image_shape[-1]}
    student = create_model(config.DISTILLER.STUDENT, **options)
    needs_teacher = DISTILLERS.get(config.DISTILLER.TYPE).needs_teacher
    return student, create_model(config.DISTILLER.TEACHER, **options) if needs_teacher else None


def data_bytes(config: CfgNode) -> int:
    """Bytes of the data set, where it is kept in memory."""
    train, test, _ = SIZES[config.DATASET.TYPE]
    entry = dataset_entry(config.DATASET.TYPE)
    return (train + test) * (3 * EDGES[entry.zoo] ** 2 + 8) if issubclass(entry, InMemoryDataset) else 0


def network_bytes(trainer: BaseTrainer) -> int:
    """Bytes of student, teacher, the method's own layers, and the copy of the teacher."""
    distiller = trainer.distiller
    tensors = [*distiller.parameters(), *distiller.buffers()]
    if distiller.teacher is not None and distiller.inference_network() is not distiller.teacher:
        tensors += distiller.inference_network().parameters()
    return sum(tensor.nbytes for tensor in tensors)


def measure(recipe: Path, batch: int) -> dict[str, Any]:
    """Peaks and floors of a recipe's step, in bytes; meant to be all that a process does."""
    before = process_peak()
    config = load_config(recipe)
    loader = loader_of(config, batch)
    trainer = our_trainer(networks_of(config, loader), loader, loader, {}, recipe=recipe)
    floor = step_floor(trainer.distiller, loader.image_shape, batch, len(trainer.active_streams))
    step = step_of(trainer, loader)
    step()
    step()
    process = process_peak()
    return {
        "batch": batch,
        "recipe_batch": config.SOLVER.BATCH_SIZE,
        "floor": floor,
        "tensors": tensor_peak(trainer, step),
        "networks": network_bytes(trainer),
        "data": data_bytes(config),
        "before": before,
        "process": process,
    }


def measure_apart(recipe: Path, batch: int) -> dict[str, Any]:
    """``measure`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--recipe", str(recipe), "--batch", str(batch)]
    quiet = os.environ | {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # the profiler's diary
    done = subprocess.run(command, cwd=CONFIGS.parent, env=quiet, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def of_recipe(recipe: Path) -> dict[str, Any]:
    """What ``measure`` finds for the recipe's own batch; by a line through two smaller ones for large images."""
    config = load_config(recipe)
    batch = config.SOLVER.BATCH_SIZE
    if EDGES[dataset_entry(config.DATASET.TYPE).zoo] < LARGE:
        return measure_apart(recipe, batch) | {"measured": [batch]}
    one, two = (measure_apart(recipe, some) for some in BATCHES)
    steps = (batch - BATCHES[1]) / (BATCHES[1] - BATCHES[0])
    return {key: int(two[key] + steps * (two[key] - one[key])) for key in two} | {"measured": [one, two]}


def distinct(recipes: Iterable[Path]) -> list[list[Path]]:
    """Recipes in groups whose steps have networks, images and streams of the same shapes."""
    groups: dict[tuple[Any, ...], list[Path]] = {}
    for recipe in recipes:
        config = load_config(recipe)
        networks = config.DISTILLER.TEACHER, config.DISTILLER.STUDENT, config.DISTILLER.TYPE
        groups.setdefault((config.DATASET.TYPE, *networks, config.SOLVER.TRAINER, config.SOLVER.BATCH_SIZE), []).append(recipe)
    return list(groups.values())


def estimate(recipe: Path) -> dict[str, float]:
    """Bytes that a run of a recipe would be said to need for its steps, and those of networks and data."""
    config = load_config(recipe)
    batch = config.SOLVER.BATCH_SIZE
    loader = loader_of(config, batch)
    trainer = our_trainer(networks_of(config, loader), loader, loader, {}, recipe=recipe)
    step = PEAK * step_floor(trainer.distiller, loader.image_shape, batch, len(trainer.active_streams))
    return {"batch": batch, "step": step, "networks": network_bytes(trainer), "data": data_bytes(config)}


def estimate_all(folders: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Estimates of the recipes in folders of ``configs/``, largest first; those that are the same have one entry."""
    process = process_peak()
    found: dict[str, dict[str, Any]] = {}
    for group in distinct(recipe for folder in folders for recipe in sorted((CONFIGS / folder).glob("*/*.yaml"))):
        first, *others = (str(recipe.relative_to(CONFIGS)) for recipe in group)
        row = estimate(group[0])
        gc.collect()  # the trainer's cycles, which hold its networks
        total = process + row["step"] + row["networks"] + row["data"]
        found[first] = {**row, "process": process, "total": total, "same": others}
    return dict(sorted(found.items(), key=lambda item: -item[1]["total"]))


def print_measured(rows: dict[str, dict[str, Any]]) -> None:
    header = ["MB", "batch", "floor", "tensors", "ratio", "networks", "data", "process floor", "process", "ratio"]
    cells = []
    for name, row in rows.items():
        # The data are not in the measured process: all images are one black pixel.
        floor = row["before"] + row["networks"] + row["floor"]
        megabytes = [row["floor"], row["tensors"], row["networks"], row["data"], floor, row["process"]]
        a, b, c, d, e, f = (f"{number / 1e6:.0f}" for number in megabytes)
        ratios = f"{row['tensors'] / row['floor']:.2f}", f"{row['process'] / floor:.2f}"
        cells.append([name, str(row["batch"]), a, b, ratios[0], c, d, e, f, ratios[1]])
    print_table(header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", choices=sorted(folders()), default=sorted(folders()))
    parser.add_argument("--others", nargs="*", default=OTHERS, help="recipes of other data sets")
    parser.add_argument("--recipes", nargs="*", metavar="FOLDER", help="estimate all files of these folders of configs/")
    parser.add_argument("--recipe", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.recipe:
        print(json.dumps(measure(arguments.recipe, arguments.batch)))
        return

    facts = hardware()
    print_hardware(facts)
    if arguments.recipes is not None:
        found = estimate_all(arguments.recipes or SIZES)
        columns = ("step", "networks", "data", "process", "total")
        cells = [
            [f"{name} (+{len(row['same'])})", str(row["batch"]), *(f"{row[key] / 1e9:.2f}" for key in columns)]
            for name, row in found.items()
        ]
        print_table(["GB", "batch", *columns], cells)
        save("memory_recipes", facts, {"recipes": found})
        return
    named = {name: RECIPES / folders()[name] / "res32x4_res8x4.yaml" for name in arguments.methods}
    named |= {name: CONFIGS / f"{name}.yaml" for name in arguments.others}
    rows = {}
    for name, recipe in named.items():
        rows[name] = of_recipe(recipe)
        save("memory", facts, {"rows": rows})
    print_measured(rows)


if __name__ == "__main__":
    main()
