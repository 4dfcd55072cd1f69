"""What the teacher's cache saves in a study on glyphs: time of training with and without it, for nine methods.

    python -m benchmarks.teacher_cache --amp bf16

For each recipe, a pass over the same images is trained without the cache and with a full one, in turns; loading, augmentation
and looking up are part of it. The last line is the sum over the methods: the training of a study that runs each as often.
Testing and the start of a process cost the same with and without, and are left out; filling costs the teacher once per view.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.published import CONFIGS, method_name

from .common import compare, hardware, print_hardware, print_table, save

RECIPES = ("none/resnet8", *(f"{name}/res20_res8" for name in ("kd", "dkd", "gdkd", "gdkd3", "dist", "prkd", "dot", "deepkd")))


def training(recipe: str, *settings: str) -> Callable[[], None]:
    """A pass over the training images, the same ones each time."""
    trainer = build_trainer(load_config(CONFIGS / "glyphs" / f"{recipe}.yaml", ["SOLVER.DEVICE", "cpu", *settings]))
    trainer.distiller.train()

    def run() -> None:
        trainer.train_loader.set_epoch(1)
        for batch in trainer.train_loader:
            trainer.train_step(*batch)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amp", choices=("none", "bf16"), default="none")
    parser.add_argument("--images", type=int, default=640, help="of a pass")
    parser.add_argument("--root", default="./data", help="DATASET.ROOT")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    facts = hardware()
    print_hardware(facts)
    measured, cells = [], []
    for recipe in RECIPES:
        settings = ["SOLVER.AMP", arguments.amp, "DATASET.LIMIT", str(arguments.images), "DATASET.ROOT", arguments.root]
        variants = {
            "without": training(recipe, *settings),
            "with": training(recipe, *settings, "DISTILLER.TEACHER_CACHE", "memory"),
        }
        without, cached = compare(variants, arguments.rounds)
        name = method_name(load_config(CONFIGS / "glyphs" / f"{recipe}.yaml"))
        ratio = cached["ratio"]
        measured.append({"method": name, "without": without["seconds"], "with": cached["seconds"], "ratio": ratio})
        seconds = [f"{row['seconds']['median']:.3f}" for row in (without, cached)]
        cells.append([name, *seconds, *(f"{ratio[key]:.2f}" for key in ("median", "min", "max"))])
    sums = [sum(float(row[kind]["median"]) for row in measured) for kind in ("without", "with")]
    cells.append(["all", *(f"{value:.3f}" for value in sums), f"{sums[0] / sums[1]:.2f}", "", ""])
    print_table([f"{arguments.images} images", "without / s", "with / s", "ratio", "min", "max"], cells)
    save(f"teacher_cache_{arguments.amp}", facts, {**vars(arguments), "sums": sums, "rows": measured})


if __name__ == "__main__":
    main()
