"""Whether two checkouts of this project train the same weights, bit for bit.

    python -m benchmarks.same_runs PATH_OF_THE_OTHER_CHECKOUT

Train every pair of a method and a trainer that both checkouts have, on the CPU with one thread, and compare ``metrics.csv``,
the student and the optimizer's state. For refactorings: no number may change. Exit status 1 if one did.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdistiller_ext import checkpoint
from mdistiller_ext.project import ROOT
from mdistiller_ext.registry import DISTILLERS, TRAINERS

SETTINGS = {
    "EXPERIMENT.PROJECT": "same_runs",
    "DATASET.TYPE": "glyphs",
    "DATASET.LIMIT": 200,
    "DISTILLER.TEACHER": "resnet20",
    "DISTILLER.STUDENT": "resnet8",
    "SOLVER.BATCH_SIZE": 32,
    "SOLVER.EPOCHS": 3,
    "SOLVER.LR": 0.02,
    "SOLVER.DEVICE": "cpu",
}
_REFUSALS = ("trainer '", "unknown distiller", "is a method of mdistiller's family, not of this project")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="root folder of the other checkout")
    other = parser.parse_args().other
    different = 0
    with tempfile.TemporaryDirectory() as outputs:
        for method, trainer in itertools.product(DISTILLERS, TRAINERS):
            theirs = run(other.resolve(), Path(outputs, "theirs"), method, trainer)
            ours = None if theirs is None else run(ROOT, Path(outputs, "ours"), method, trainer)
            if ours is None or theirs is None:
                continue  # the trainer needs streams that the method does not have, or the other checkout lacks the method
            names = ("metrics.csv", "student_latest", "latest")
            differing = [name for name in names if not same(name, ours, theirs)]
            different += bool(differing)
            print(f"{method:8} {trainer:8} {'differs: ' + ', '.join(differing) if differing else 'same'}", flush=True)
    print("every pair trains the same weights" if not different else f"{different} pairs differ")
    sys.exit(bool(different))


def run(checkout: Path, output: Path, method: str, trainer: str) -> Path | None:
    """Run folder of a training in a checkout, or None where it refuses the pair, or lacks the method."""
    settings = SETTINGS | {"LOG.PREFIX": output, "EXPERIMENT.NAME": f"{method}-{trainer}"}
    settings |= {"DISTILLER.TYPE": method, "SOLVER.TRAINER": trainer, "DATASET.ROOT": output / "data"}
    command = [sys.executable, "train.py", *(str(part) for pair in settings.items() for part in pair)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 2 and any(reason in done.stderr for reason in _REFUSALS):
        return None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} in {checkout}: {done.stderr[-500:]}")
    return output / "same_runs" / f"{method}-{trainer}"


def same(name: str, folder: Path, other: Path) -> bool:
    """Whether a file of two run folders holds the same numbers, but for times, paths and settings."""
    if name == "metrics.csv":
        return (folder / name).read_bytes() == (other / name).read_bytes()
    states = [checkpoint.load(each / name) for each in (folder, other)]
    kept = ("model", "student", "distiller", "optimizer", "scheduler", "averages", "rng", "history", "epoch", "step", "rate")
    return equal(*({key: state[key] for key in kept if key in state} for state in states))


def equal(a: Any, b: Any) -> bool:
    """Whether nested containers hold equal values, tensors to the last bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


if __name__ == "__main__":
    main()
