"""The static K of DeepKD by an ablation, as the paper chooses it: on 20 % of the training data, to save cost.

A run keeps the same K non-target classes in all of its epochs. It trains on a class-balanced fraction of the training images,
the same for all runs, and is tested on the other training images, never on the test set.

Source: Huang et al., DeepKD, 2025, https://arxiv.org/abs/2505.15133. The grid and the rule are this project's.
"""

from __future__ import annotations

import csv
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from yacs.config import CfgNode

from ..build import build_plain_loader
from ..config import Dialect
from ..errors import ConfigError, ConfigWarning, listing
from ..reporting.drawing import COLOURS
from .picture import column_picture
from .plan import Study, plan_study
from .record import Record

FRACTION = 0.2
"""Fraction of the training images to train on, the paper's"""
_GRID = (0.05, 0.1, 0.2, 0.5, 1.0)  # fractions of the classes


# ---- runs ---------------------------------------------------------------------------------------------------------


def plan_k_static(
    cfg: str,
    *,
    grid: Sequence[int] = (),
    fraction: float = FRACTION,
    seeds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
    out: str | None = None,
    options: Sequence[str] = (),
    dialect: Dialect | None = None,
) -> Study:
    """Plan a run for each K and seed.

    Args:
        cfg: yaml file of a configuration of DeepKD.
        grid: values of K; see :func:`k_grid`.
        fraction: fraction of each class of the training images to train on.
        seeds: 0, 1 and 2 by default.
        settings, out, options, dialect: see :func:`plan_study`; ``out`` is ``output/k_static`` by default.

    Raises ConfigError for another method, several configurations, a K out of range, and what :func:`plan_study` refuses.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"--fraction must lie between 0 and 1, not {fraction}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # shown for the runs below
        first, *others = plan_study(None, [cfg], settings=settings, options=options, dialect=dialect).runs
        config = first.config
        if others:
            raise ConfigError("k-static takes one value of each setting: K is the only one that it varies")
        if config.DISTILLER.TYPE != "DEEPKD":
            raise ConfigError(
                f"k-static chooses DEEPKD.K_STATIC; the method of {cfg} is {config.DISTILLER.TYPE}, which has no K"
            )
        classes = build_plain_loader(config, torch.device("cpu")).num_classes
    own = {
        "DEEPKD.K_STATIC": ",".join(map(str, k_grid(classes, grid))),
        "DEEPKD.DTM": True,
        "DEEPKD.K_INITIAL": 1.0,  # at most K_STATIC
        "DEEPKD.PHASE_ENDS": f"[1,{config.SOLVER.EPOCHS}]",  # the transition, in which K is K_STATIC, is all of the run
        "DATASET.VALIDATION": round(1 - fraction, 9),
    }
    twice = [word for word in settings if word.partition("=")[0] in own]
    if twice:
        raise ConfigError(
            f"k-static sets {listing(own)} itself, by --grid and --fraction; take out --set {listing(twice, ' ')}"
        )
    return plan_study(
        None,
        [cfg],
        seeds=(0, 1, 2) if seeds is None else seeds,
        settings=[*(f"{key}={value}" for key, value in own.items()), *settings],
        out=out or "output/k_static",
        options=options,
        dialect=dialect,
    )


def k_grid(classes: int, asked: Sequence[int] = ()) -> list[int]:
    """Return the values of K to try, in rising order: those asked for, or else 5, 10, 20, 50 and 100 % of the classes.

    Raises ConfigError for a K that is not from 2, as a single class has no distribution to learn, to all non-target classes.
    """
    most = classes - 1
    wrong = [str(k) for k in asked if not 2 <= k <= most]
    if wrong or most < 2:
        raise ConfigError(f"K counts non-target classes: with {classes} classes 2 to {most}, not {listing(wrong) or 'any'}")
    return sorted({*asked} or {min(max(round(part * classes), 2), most) for part in _GRID})


def k_of(config: CfgNode) -> int:
    """K of a run, in classes: ``DEEPKD.K_STATIC``."""
    return int(config.DEEPKD.K_STATIC)


def accuracies_by_k(record: Record) -> dict[int, dict[int, float]]:
    """Accuracy on the held-out images after the last epoch, in percent, by K and seed, of the runs that are finished."""
    found: dict[int, dict[int, float]] = {k_of(run.config): {} for run in record.study.runs}
    for run in record.study.runs:
        if record.is_finished(run.name):
            found[k_of(run.config)][run.seed] = record.test_top1(run.name)[-1]
    return found


# ---- choice -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The K that an ablation chooses.

    Attributes:
        accuracies: in percent, by K and seed.
        best: the K with the highest mean.
        margin: standard error of that mean, in points; 0 for one seed.
        k: the smallest K whose mean is at most ``margin`` below the highest.
        left_out: values of K that lack the run of a seed.
    """

    accuracies: Mapping[int, Mapping[int, float]]
    best: int
    margin: float
    k: int
    left_out: tuple[int, ...]

    def mean(self, k: int) -> float:
        """Mean accuracy of a K over the seeds, in percent."""
        return statistics.fmean(self.accuracies[k].values())

    def std(self, k: int) -> float | None:
        """Standard deviation over the seeds (n - 1); None for one seed."""
        values = self.accuracies[k].values()
        return statistics.stdev(values) if len(values) > 1 else None


def choose_k(accuracies: Mapping[int, Mapping[int, float]]) -> Choice:
    """Choose the smallest K whose mean accuracy is within one standard error of the best mean.

    The standard error is that of the best mean over the seeds (the rule of Breiman et al., Classification and Regression Trees,
    1984, section 3.4.3). A K without the run of a seed that another K has is left out, as means over different seeds cannot be
    compared.

    Args:
        accuracies: in percent, by K and seed.

    Raises ConfigError if no K has a run of each seed.
    """
    seeds = {seed for values in accuracies.values() for seed in values}
    means = {
        k: statistics.fmean(values.values()) for k, values in sorted(accuracies.items()) if seeds and values.keys() == seeds
    }
    if not means:
        raise ConfigError("no K can be chosen: none has a finished run of each seed")
    best = max(means, key=means.__getitem__)  # of equal ones the smallest
    margin = statistics.stdev(accuracies[best].values()) / math.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    k = min(k for k, mean in means.items() if mean >= means[best] - margin)
    return Choice(accuracies, best, margin, k, tuple(sorted(accuracies.keys() - means.keys())))


def describe_choice(choice: Choice) -> str:
    """The table of K, the rule with its numbers, and the lines for a yaml file."""
    lines = [f"{'K':>6} {'mean ± std / %':>16} {'n':>3}"]
    for k, values in sorted(choice.accuracies.items()):
        spread = "" if (std := choice.std(k)) is None else f" ± {std:.2f}"
        lines.append(f"{k:>6} {f'{choice.mean(k):.2f}{spread}' if values else '–':>16} {len(values):>3}")
    if choice.left_out:
        lines.append(f"left out, as not every seed is finished: K {listing(map(str, choice.left_out))}")
    n = len(choice.accuracies[choice.best])
    error = f"standard error {choice.margin:.2f}, n = {n}" if n > 1 else "one seed has no standard error"
    lines.append(
        f"K {choice.k} is the smallest K whose mean is within one standard error of the best mean, "
        f"{choice.mean(choice.best):.2f} % of K {choice.best} ({error}; held-out images, last epoch)"
    )
    return "\n".join([*lines, "", "DEEPKD:", f"  K_STATIC: {choice.k}"])


def write_choice(choice: Choice, folder: Path) -> list[Path]:
    """Write ``k_static.csv``, a row for each K, and the picture, ``k_static.png`` and ``.svg``; returns their paths."""
    seeds = sorted({seed for values in choice.accuracies.values() for seed in values})
    with open(folder / "k_static.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["k", "n", "mean", "std", *(f"seed {seed}" for seed in seeds), "chosen"])
        for k, values in sorted(choice.accuracies.items()):
            mean = choice.mean(k) if values else None
            writer.writerow([k, len(values), mean, choice.std(k), *map(values.get, seeds), k == choice.k])
    draw_choice(choice, folder / "k_static")
    return [folder / f"k_static.{suffix}" for suffix in ("csv", "png", "svg")]


def draw_choice(choice: Choice, file: Path) -> None:
    """Draw accuracy against K: every seed, the mean, the bound that one standard error sets, and the K chosen.

    The values of K are evenly spaced, so that their labels never overlap.
    """
    grid = sorted(k for k, values in choice.accuracies.items() if values)
    with column_picture(file) as axes:
        for place, k in enumerate(grid):
            seeds = list(choice.accuracies[k].values())
            label = "" if place else "one seed"
            axes.scatter([place] * len(seeds), seeds, s=14, color=COLOURS[1], alpha=0.6, linewidth=0, label=label)
        axes.plot(range(len(grid)), list(map(choice.mean, grid)), color=COLOURS[1], linewidth=1.5, label="mean")
        place = grid.index(choice.k)
        axes.axvline(place, color=COLOURS[3], linewidth=1, linestyle="--", zorder=0.9, label=f"chosen: K = {choice.k}")
        if choice.margin:
            bound = choice.mean(choice.best) - choice.margin
            axes.axhline(bound, color=COLOURS[6], linewidth=1, linestyle=":", label="best mean − standard error")
        axes.set_xticks(range(len(grid)), list(map(str, grid)))
        axes.set_xlabel("K / non-target classes")
        axes.set_ylabel("held-out top-1, last epoch / %")
