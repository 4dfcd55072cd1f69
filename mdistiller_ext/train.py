"""Train a student, with or without a teacher::

python train.py --cfg configs/glyphs/deepkd/res20_res8.yaml
python train.py --cfg configs/glyphs/kd/res20_res8.yaml --seed 1 SOLVER.TRAINER dot SOLVER.EPOCHS 4
python train.py --cfg my.yaml --plugin my_method.py
python train.py --upstream ~/mdistiller --cfg ~/mdistiller/configs/cifar100/my_method.yaml
python train.py --list
torchrun --nproc-per-node 8 train.py --cfg my.yaml --resume auto
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from .command import Parser, run_command
from .models import ZOO_NUM_CLASSES, list_models
from .plugins import load_plugins
from .project import CONFIGS, config_word, python_command
from .published import published_for, recipe_differences
from .registry import DATASETS, DISTILLERS, TRAINERS

if TYPE_CHECKING:
    from .config import Dialect


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", metavar="FILE", help="yaml file of the experiment; the defaults if left out")
    parser.add_argument("--seed", type=int, help="short for EXPERIMENT.SEED")
    parser.add_argument("--deterministic", action="store_true", help="short for EXPERIMENT.DETERMINISTIC True")
    parser.add_argument(
        "--resume", metavar="auto", help="go on from the newest checkpoint of the same run; auto: if there is one"
    )
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="your own methods, models, data sets")
    parser.add_argument(
        "--upstream", metavar="FOLDER", help="a checkout of mdistiller or a fork: its methods, as upstream/<NAME>"
    )
    parser.add_argument("--list", action="store_true", help="print methods, trainers, models, data sets and configs")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings over the file's, such as SOLVER.LR 0.1")
    # Before Python 3.14, argparse parses -1e-3 as an option; it has no public way to change that.
    parser._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)
    arguments = parser.parse_intermixed_args(list(_resume_with_value(sys.argv[1:])))
    if arguments.resume not in (None, "yes", "auto"):
        parser.error(f"argument --resume: alone or followed by auto, not '{arguments.resume}'")
    if len(arguments.opts) % 2 == 0:  # otherwise load_config names the key without a value
        if arguments.seed is not None:
            arguments.opts += ["EXPERIMENT.SEED", str(arguments.seed)]
        if arguments.deterministic:
            arguments.opts += ["EXPERIMENT.DETERMINISTIC", "True"]
    return arguments


def _resume_with_value(words: list[str]) -> Iterator[str]:
    """Rewrite ``--resume`` as ``--resume=yes`` or ``--resume=auto``: argparse would parse a following setting as its value."""
    rest = iter(words)
    for word in rest:
        if word == "--resume":
            after = next(rest, None)
            yield "--resume=auto" if after == "auto" else "--resume=yes"
            if after not in (None, "auto"):
                yield after
        else:
            yield word


def print_summary(config: CfgNode, folder: Path, summary: dict[str, Any]) -> None:
    """Print the accuracies of a finished run, and commands to continue with."""
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
        f"  evaluate it:                  {python_command('eval.py', '-c', shlex.quote(str(folder)))}\n"
        f"  export it:                    {python_command('mdistiller_ext.export', shlex.quote(str(folder)))}"
    )
    print_published(config)
    alone = CONFIGS / config.DATASET.TYPE / "none" / f"{config.DISTILLER.STUDENT}.yaml"
    if config.DISTILLER.TYPE != "NONE" and alone.is_file():
        print(f"  compare with a plain student: {python_command('train.py', '--cfg', config_word(alone))}")
    if config.DISTILLER.TYPE == "NONE":
        student, where = config.DISTILLER.STUDENT, shlex.quote(str(folder))
        print(f"  use it as a teacher:          DISTILLER.TEACHER {student} DISTILLER.TEACHER_CKPT {where}")


def print_published(config: CfgNode) -> None:
    """Print published results for the run's method, data set and networks, and the differences of their recipe."""
    results = published_for(config)
    for published in results:
        print(f"  published: {published}")
    changed = recipe_differences(config) if results else []
    if changed:
        print(f"    with another recipe than this run: {'; '.join(changed)}")
    elif changed is None:
        print("    its recipe is not in configs/")


def print_list() -> None:
    """Print all registered names and the configuration files."""
    names: dict[str, Iterable[str]] = {
        "methods (DISTILLER.TYPE)": DISTILLERS.names(),
        "trainers (SOLVER.TRAINER)": TRAINERS.names(),
        "data sets (DATASET.TYPE)": DATASETS.names(),
        **{f"models for {zoo} (DISTILLER.STUDENT, DISTILLER.TEACHER)": list_models(zoo) for zoo in ZOO_NUM_CLASSES},
        "models of other libraries, for any data set": ["torchvision/<name>", "timm/<name>"],
    }
    for title, entries in names.items():
        print(f"{title}:\n  {' '.join(entries)}")
    print("configs (--cfg):")
    for folder in sorted(CONFIGS.glob("*/*/")):
        names_there = sorted(file.name for file in folder.glob("*.yaml"))
        print(f"  {config_word(folder)}/: {' '.join(names_there)}")


def main() -> None:
    arguments = parse_arguments()
    plugins: Mapping[str, bytes] = load_plugins(arguments.plugin)
    dialect = None
    if arguments.upstream is not None:
        from .bridge.theirs import Upstream

        upstream = Upstream(arguments.upstream)
        plugins, dialect = {**plugins, **upstream.sources}, upstream.dialect
    if arguments.list:
        print_list()
    else:
        train(arguments, plugins, dialect)


def train(arguments: argparse.Namespace, plugins: Mapping[str, bytes], dialect: Dialect | None = None) -> None:
    """Start or resume a run, train, and print the summary."""
    # Imported here, since they import torch, which takes over a second: --help and --list answer without it.
    from .build import build_trainer
    from .config import load_config
    from .distributed import group, rank, restarted, world_size
    from .rng import refusals
    from .run import NoteRecorder, Resume, run_folder

    with NoteRecorder() as notes:
        config = load_config(arguments.cfg, arguments.opts, dialect=dialect)
        folder = run_folder(config)
        # Processes that torchrun restarted resume, whether or not the command has --resume.
        resume: Resume = "auto" if arguments.resume == "auto" or restarted() else arguments.resume is not None
        with group(), refusals():
            with contextlib.closing(build_trainer(config, folder, resume=resume, plugins=plugins, notes=notes)) as trainer:
                if rank() == 0:
                    together = f" ({world_size()} processes)" if world_size() > 1 else ""
                    how = f"{config.DISTILLER.TYPE}, trainer '{config.SOLVER.TRAINER}', on {trainer.device}{together}"
                    print(f"{how}; run folder {folder}", flush=True)
                summary = trainer.train()
            if rank() == 0:
                print_summary(config, folder, summary)


if __name__ == "__main__":
    run_command(main)
