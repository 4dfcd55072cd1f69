"""Gradients recorded during training (``SOLVER.RECORD``), from a run's last checkpoint; their sums over streams and layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, UserError
from .runs import RunGroup, TrainedRun

NETWORK = "network"
TOTAL = "total"
Grams = NDArray[np.float64]

# A stream has the same colour in all pictures; one of several roles that of kd.
_COLOURS = {"task": "#0072B2", "target": "#E69F00", "nontarget": "#009E73", "kd": "#D55E00"}


@dataclass(frozen=True)
class GradientWindows:
    """Recorded gradients of a run; see ``GradientRecords.state_dict`` for ``windows`` and its shapes.

    Attributes:
        roles: names of the R roles.
        streams: the streams of the trainer, or the roles if it has a single stream; name -> roles.
        momentum: momentum of each stream of the trainer.
        layers: modules of the student that have parameters, in their order; name -> rows of the P parameter tensors.
        windows: the finished windows.
        kernels: the layers with more than vectors: convolutions and linear layers.
    """

    roles: Sequence[str]
    streams: dict[str, list[str]]
    momentum: dict[str, float]
    layers: dict[str, list[int]]
    windows: dict[str, NDArray[Any]]
    kernels: Sequence[str] = ()

    @property
    def steps(self) -> Grams:
        """Middle of each window, in steps from the beginning of the run: ``[W]``."""
        middle: Grams = (self.windows["first_step"] + self.windows["last_step"]) / 2
        return middle

    def of_layer(self, gram: Grams, layer: str) -> Grams:
        """Sum ``[W, P, R, R]`` over the parameters of a layer, or of the network: ``[W, R, R]``."""
        chosen: Grams = gram.sum(axis=1) if layer == NETWORK else gram[:, self.layers[layer]].sum(axis=1)
        return chosen

    def inner(self, gram: Grams, first: Iterable[str], second: Iterable[str]) -> Grams:
        """Inner products of the sums over two sets of roles, from those of the roles: ``[..., R, R]`` -> ``[...]``."""
        rows, columns = ([self.roles.index(role) for role in part] for part in (first, second))
        product: Grams = gram[..., rows, :][..., columns].sum(axis=(-2, -1))
        return product


def recorded_gradients(run: TrainedRun, kind: str) -> GradientWindows:
    """Read the records of a kind, ``gsnr`` or ``conflict``. Raises ConfigError where the run has none."""
    saved = run.checkpoint()
    records: dict[str, Any] = saved.get("records") or {}
    kinds = records.get("kinds", [])
    if kind not in kinds:
        has = f"it recorded {', '.join(kinds)} alone" if kinds else "it recorded no gradients"
        raise ConfigError(f"{run.folder} has no records for {kind}: {has}. Train it with SOLVER.RECORD '[{kind}]'")
    windows = {name: values.numpy() for name, values in records["windows"].items()}
    # A last, incomplete window is left out: its GSNR has another bias.
    complete = int((windows["samples"] == records["window"]).sum())
    samples = complete * records["window"]
    windows = {name: values[: samples if name.startswith("sample_") else complete] for name, values in windows.items()}
    if not complete:
        raise ConfigError(
            f"{run.folder} has no complete window of gradients: choose a smaller SOLVER.RECORD_EVERY or RECORD_WINDOW"
        )
    streams = {name: stream["roles"] for name, stream in records["streams"].items() if stream["roles"]}
    momentum = {name: stream["momentum"] for name, stream in records["streams"].items()}
    layers: dict[str, list[int]] = {}
    for row, name in enumerate(records["parameters"]):
        layers.setdefault(name.rpartition(".")[0], []).append(row)
    if len(streams) == 1:
        streams = {role: [role] for role in records["roles"]}
    kernels = list(dict.fromkeys(name.rpartition(".")[0] for name in records["parameters"] if saved["student"][name].dim() > 1))
    return GradientWindows(records["roles"], streams, momentum, layers, windows, kernels)


def read_groups(groups: Sequence[RunGroup], kind: str) -> tuple[dict[str, dict[int, GradientWindows]], list[str]]:
    """Records by name of the group and seed, of the runs that have them, and a note on the others.

    Raises ConfigError with the first reason if no run has any.
    """
    found: dict[str, dict[int, GradientWindows]] = {}
    reasons = []
    for group in groups:
        for run in group.runs:
            try:
                windows = recorded_gradients(run, kind)
            except UserError as error:
                reasons.append(str(error))
                continue
            found.setdefault(group.name, {})[run.seed] = windows
        _check_same_steps(group.name, list(found.get(group.name, {}).values()))
    if not found:
        raise ConfigError(reasons[0])
    return found, [f"runs without these records are left out: {len(reasons)} (the first: {reasons[0]})"] if reasons else []


def _check_same_steps(name: str, seeds: Sequence[GradientWindows]) -> None:
    """Raise ConfigError unless all seeds of a group have the same windows, over which means are taken."""
    if any(not np.array_equal(windows.steps, seeds[0].steps) for windows in seeds):
        raise ConfigError(
            f"the runs of {name} recorded their gradients at different steps (SOLVER.RECORD_EVERY, RECORD_WINDOW, or batches "
            "that were not finite): analyse them one by one"
        )


def stream_colour(roles: Sequence[str], of: GradientWindows) -> str:
    """Colour of a set of roles; grey for all of them."""
    if len(roles) == len(of.roles):
        return "#888888"
    return _COLOURS[roles[0] if len(roles) == 1 else "kd"]
