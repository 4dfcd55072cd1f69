"""Gains of finished runs, and of configurations that have not been trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from yacs.config import CfgNode

from ..analyze.runs import RunGroup, TrainedRun, open_runs
from ..config import load_config
from ..evaluate import evaluate
from ..network_cost import Pair, create_networks, find_pair
from ..reporting.gains import Gain, cost_gains, share_teachers
from .latency import Timing


def gains_of_configs(files: Sequence[str], settings: Sequence[str], timing: Timing) -> list[Gain]:
    """Cost and latency of the networks of configurations, with random weights.

    Args:
        settings: over those of the files, ``KEY, VALUE, ...``.
    """
    configs = [load_config(file, settings) for file in files]
    pairs = [_pair(config, None) for config in configs]
    gains = []
    for pair, config in dict(zip(pairs, configs, strict=True)).items():
        networks = create_networks(config)
        gains += cost_gains(pair)
        gains += _timed(timing, config).gains(str(pair), *networks, pair.image_size)
    return gains


def gains_of_runs(
    folders: Sequence[Path], settings: Sequence[str], timing: Timing, *, which: Literal["last", "best"] = "last", limit: int = 0
) -> list[Gain]:
    """Top-1 of each run and its teacher, and cost and latency of each pair of networks, once.

    Seeds and methods with the same networks share one measurement, that of their first run.

    Args:
        settings: over those of the runs, ``KEY, VALUE, ...``.
        which: the student of the last or the best epoch.
        limit: number of test images; 0 for all that the run used.

    Raises as :func:`open_runs` and the methods of TrainedRun.
    """
    groups = open_runs(folders, str(timing.device))
    if settings:
        for run in (run for group in groups for run in group.runs):
            run.config = load_config(run.folder / "config.yaml", settings)
            run.config.defrost()
    firsts = [group.runs[0] for group in groups]
    own = [_pair(run.config, run.record.data) for run in firsts]
    measured: dict[Pair, TrainedRun] = {}
    members: dict[Pair, list[RunGroup]] = {}
    for pair, shared, run, group in zip(own, share_teachers(own), firsts, groups, strict=True):
        measured.setdefault(pair, run)
        members.setdefault(shared, []).append(group)
    accuracies = {pair: _accuracies(str(pair), of_pair, measured[pair], which, limit) for pair, of_pair in members.items()}
    gains = []
    for pair, top1 in accuracies.items():
        run = measured[pair]
        teacher = run.teacher() if run.has_teacher else None
        latencies = _timed(timing, run.config).gains(str(pair), run.student(which), teacher, pair.image_size)
        gains += [*cost_gains(pair), *latencies, *top1]
    return gains


def _accuracies(
    networks: str, groups: Sequence[RunGroup], reference: TrainedRun, which: Literal["last", "best"], limit: int
) -> list[Gain]:
    """Top-1 of every run and of its teacher on the same images; that of the reference's for a student that learned alone."""
    gains: list[Gain] = []
    teachers: dict[tuple[str | None, int], float] = {}  # by hash of the file and loader: a teacher is evaluated once
    for group in groups:
        for run in group.runs:
            loader = run.images("test", limit)
            taught = run if run.has_teacher else reference
            key = taught.record.teacher_sha256, id(loader)
            if taught.has_teacher and key not in teachers:
                teachers[key] = evaluate(taught.teacher(), loader)["top1"]
            student = evaluate(run.student(which), loader)["top1"]
            gains.append(
                Gain(
                    networks=networks,
                    quantity="top-1",
                    unit="%",
                    method=group.name,
                    seed=run.seed,
                    teacher=teachers.get(key),
                    student=student,
                    n=loader.num_images,
                    measured_on=f"{which} epoch",
                )
            )
    return gains


def _pair(config: CfgNode, data: dict[str, Any] | None) -> Pair:
    pair = find_pair(config, data)
    if pair is None or (pair.teacher and pair.teacher_cost is None):
        create_networks(config, data)  # raises the reason, such as an unknown name
    assert pair is not None
    return pair


def _timed(timing: Timing, config: CfgNode) -> Timing:
    """The timing, in the memory layout of a run."""
    return dataclasses.replace(timing, channels_last=config.SOLVER.CHANNELS_LAST)
