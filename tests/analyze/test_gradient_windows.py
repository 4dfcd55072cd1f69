"""Recorded gradients, summed over streams and layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdistiller_ext.analyze.gradient_windows import GradientWindows, read_groups, recorded_gradients
from mdistiller_ext.analyze.runs import open_runs
from mdistiller_ext.errors import ConfigError


def test_sums_over_roles_and_parameters_are_those_of_the_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 3, 3, 5))  # windows, parameters, roles, elements
    gram = np.einsum("wpre,wpse->wprs", vectors, vectors)
    windows = GradientWindows(["task", "target", "nontarget"], {}, {}, {"conv": [0, 2], "fc": [1]}, {})
    conv = np.concatenate([vectors[:, 0], vectors[:, 2]], axis=-1)
    expected = (conv[:, 0] * (conv[:, 1] + conv[:, 2])).sum(axis=-1)
    assert windows.inner(windows.of_layer(gram, "conv"), ["task"], ["target", "nontarget"]) == pytest.approx(expected)
    everything = vectors.sum(axis=2).reshape(2, -1)
    total = windows.inner(windows.of_layer(gram, "network"), windows.roles, windows.roles)
    assert total == pytest.approx((everything**2).sum(axis=-1))


def test_windows_are_complete_and_streams_are_those_of_the_trainer(trained: Path) -> None:
    (run, other), *_ = (group.runs for group in open_runs([trained / "deepkd0", trained / "deepkd1"]))
    found = recorded_gradients(run, "gsnr")
    assert found.streams == {"task": ["task"], "target": ["target"], "nontarget": ["nontarget"]}
    assert found.momentum["target"] < found.momentum["task"]
    assert found.windows["samples"].tolist() == [2, 2, 2]
    assert found.windows["first_step"].tolist() == [0, 2, 4]
    assert next(iter(found.layers)) == "conv1"
    assert sorted(row for rows in found.layers.values() for row in rows) == list(range(found.windows["mean_gram"].shape[1]))
    assert not np.array_equal(found.windows["gram"], recorded_gradients(other, "conflict").windows["gram"])


def test_runs_without_records_are_refused_or_left_out(trained: Path) -> None:
    groups = open_runs([trained])
    found, (note,) = read_groups(groups, "gsnr")
    assert [len(seeds) for seeds in found.values()] == [2]
    assert note.startswith("runs without these records are left out: 8 (the first: ")
    with pytest.raises(ConfigError, match=r"recorded no gradients\. Train it with SOLVER.RECORD '\[conflict\]'"):
        read_groups(open_runs([trained / "kd0"]), "conflict")
