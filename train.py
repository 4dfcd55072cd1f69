"""Train a student, with or without a teacher::

python train.py --cfg configs/glyphs/deepkd/res20_res8.yaml
python train.py --cfg configs/glyphs/kd/res20_res8.yaml --seed 1 SOLVER.TRAINER dot SOLVER.EPOCHS 4
python train.py --cfg my.yaml --plugin my_method.py
python train.py --list
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from mdistiller_ext.build import build_trainer, load_plugin, run_folder
from mdistiller_ext.config import load_config
from mdistiller_ext.errors import python_command, run_command
from mdistiller_ext.models import ZOO_NUM_CLASSES, list_models
from mdistiller_ext.published import CONFIGS, published_for, recipe_differences
from mdistiller_ext.registry import DATASETS, DISTILLERS, TRAINERS


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", metavar="FILE", help="yaml file of the experiment; the defaults if left out")
    parser.add_argument("--seed", type=int, help="short for EXPERIMENT.SEED")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the same run")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="your own methods, models, data sets")
    parser.add_argument("--list", action="store_true", help="print methods, trainers, models, data sets and configs")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings over the file's, such as SOLVER.LR 0.1")
    # argparse has no public way to say that -1e-3 is a value (before Python 3.14 it takes it for an option).
    parser._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)
    arguments = parser.parse_intermixed_args()
    if arguments.seed is not None and len(arguments.opts) % 2 == 0:  # else load_config names the one without a partner
        arguments.opts += ["EXPERIMENT.SEED", str(arguments.seed)]
    return arguments


def print_summary(config: CfgNode, folder: Path, summary: dict[str, Any]) -> None:
    print(f"\n{config.DISTILLER.TYPE} with trainer '{config.SOLVER.TRAINER}' on {config.DATASET.TYPE}, test top-1:")
    if summary["teacher_top1"] is not None:
        print(f"  teacher {config.DISTILLER.TEACHER:<12} {summary['teacher_top1']:6.2f} %")
    print(
        f"  student {config.DISTILLER.STUDENT:<12} {summary['best_top1']:6.2f} %  best, epoch {summary['best_epoch']} "
        f"(chosen on the test set, as mdistiller does)\n"
        f"          {'':<12} {summary['last_top1']:6.2f} %  last, epoch {summary['epochs']}"
    )
    if "average_top1" in summary:
        print(f"          {'':<12} {summary['average_top1']:6.2f} %  average of the last {summary['average_epochs']} epochs")
    print(
        f"  run folder: {folder}  ({summary['seconds']:.0f} s; curves.png, metrics.csv, TensorBoard: train.events)\n"
        f"  evaluate it:                  {python_command()} eval.py -c '{folder}'"
    )
    print_published(config)
    alone = Path("configs") / config.DATASET.TYPE / "none" / f"{config.DISTILLER.STUDENT}.yaml"
    if config.DISTILLER.TYPE != "NONE" and alone.is_file():
        print(f"  compare with a plain student: {python_command()} train.py --cfg {alone}")
    if config.DISTILLER.TYPE == "NONE":
        print(f"  use it as a teacher:          DISTILLER.TEACHER {config.DISTILLER.STUDENT} DISTILLER.TEACHER_CKPT '{folder}'")


def print_published(config: CfgNode) -> None:
    """What was published for the run's method, data set and networks, and whether by the same recipe."""
    results = published_for(config)
    for published in results:
        print(f"  published, best epoch: {published}")
    changed = recipe_differences(config) if results else []
    if changed:
        print(f"    with another recipe than this run: {'; '.join(changed)}")
    elif changed is None:
        print("    its recipe is not in configs/")


def print_list() -> None:
    """Everything that can be named."""
    names: dict[str, Iterable[str]] = {
        "methods (DISTILLER.TYPE)": DISTILLERS,
        "trainers (SOLVER.TRAINER)": TRAINERS,
        "data sets (DATASET.TYPE)": DATASETS,
        **{f"models for {zoo} (DISTILLER.STUDENT, DISTILLER.TEACHER)": list_models(zoo) for zoo in ZOO_NUM_CLASSES},
        "models of other libraries, for any data set": ["torchvision/<name>", "timm/<name>"],
    }
    for title, entries in names.items():
        print(f"{title}:\n  {' '.join(entries)}")
    print("configs (--cfg):")
    for folder in sorted(CONFIGS.glob("*/*/")):
        names_there = sorted(file.name for file in folder.glob("*.yaml"))
        print(f"  {folder.relative_to(CONFIGS.parent)}/: {' '.join(names_there)}")


def main() -> None:
    arguments = parse_arguments()
    for plugin in arguments.plugin:
        load_plugin(plugin)
    if arguments.list:
        print_list()
        return
    config = load_config(arguments.cfg, arguments.opts)
    folder = run_folder(config)
    trainer = build_trainer(config, folder, resume=arguments.resume)
    print(f"{config.DISTILLER.TYPE}, trainer '{config.SOLVER.TRAINER}', on {trainer.device}; run folder {folder}")
    print_summary(config, folder, trainer.train())


if __name__ == "__main__":
    run_command(main)
