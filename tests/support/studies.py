"""Run folders and studies as files, without training."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mdistiller_ext.config import load_config
from mdistiller_ext.errors import ConfigWarning
from mdistiller_ext.run import run_folder

DATA = {
    "classes": 100,
    "test": {"images": 4000, "sha256": "b" * 64},
    "train": {"images": 10000, "sha256": "a" * 64},
}
START = {
    "time": "2026-01-01T00:00:00+00:00",
    "command": "python train.py",
    "processes": 1,
    "data": DATA,
    "teacher_sha256": "c" * 64,
    "versions": {"mdistiller_ext": "0.1", "torch": "2.6.0"},
    "git": {"commit": "d" * 40, "dirty": False},
    "hardware": {"cpu": "a CPU", "cores": 2, "threads": 1, "gpus": []},
}
COMMON = ["DATASET.TYPE", "glyphs", "DISTILLER.TEACHER", "resnet20", "DISTILLER.STUDENT", "resnet8", "SOLVER.EPOCHS", 8]


def write_run(
    parent: Path,
    method: str,
    seed: int = 0,
    top1: float | Sequence[float] = 70.0,
    *settings: Any,
    finished: bool = True,
    start: dict[str, Any] | None = None,
    **summary: Any,
) -> Path:
    """Write a run folder below ``parent/study``.

    Args:
        top1: test accuracy by epoch, or of the last one.
        finished: whether there is a ``summary.json``.
        start: entries of ``provenance.json`` over the usual ones.
        summary: entries of ``summary.json`` over the usual ones.
    """
    overrides = [*COMMON, "DISTILLER.TYPE", method, *settings, "EXPERIMENT.SEED", seed]
    overrides += ["LOG.PREFIX", str(parent), "EXPERIMENT.PROJECT", "study", "EXPERIMENT.TAG", method.lower()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        config = load_config(None, overrides)
    folder = run_folder(config)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.dump())
    epochs = config.SOLVER.EPOCHS
    curve = [top1 * (1 - 0.8 ** (e + 1)) for e in range(epochs - 1)] + [top1] if isinstance(top1, int | float) else list(top1)
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "lr", "train_top1", "train_loss", "test_top1", "test_top5", "test_loss"])
        writer.writerows([e + 1, 0.1, value, 1.0, value, 90.0, 1.0] for e, value in enumerate(curve))
    (folder / "provenance.json").write_text(json.dumps([START | {"command": f"python train.py {folder.name}"} | (start or {})]))
    if finished:
        found = {"teacher_top1": None if method == "NONE" else 94.0, "best_top1": max(curve), "last_top1": curve[-1]}
        found |= {"best_epoch": 1 + curve.index(max(curve)), "epochs": epochs, "seconds": 10.0, "images_per_second": 500.0}
        (folder / "summary.json").write_text(json.dumps(found | {"peak_memory_mib": 300.0} | summary))
    return folder


def edit_config(folder: Path, **settings: Any) -> None:
    """Change a run's settings, by dotted names with ``__`` for the dot; None takes one out."""
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    for name, value in settings.items():
        *groups, leaf = name.split("__")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        if value is None:
            del node[leaf]
        else:
            node[leaf] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))


def entry(name: str, **values: Any) -> dict[str, Any]:
    """An entry of ``study.json``."""
    planned = {"label": None, "cfg": None, "overrides": [], "seed": 0, "state": "finished", "error": None, "attempts": 1}
    return {"name": name} | planned | values


def write_study(folder: Path, entries: Sequence[dict[str, Any]], **values: Any) -> None:
    """Write a ``study.json``."""
    study = {"version": 1, "name": "a study", "command": "python -m mdistiller_ext.study run", "baseline": None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(study | values | {"runs": list(entries)}))
