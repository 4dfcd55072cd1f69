"""Cosines and norms between streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdistiller_ext.analyze.conflict import Pair, agreement, conflict, pairs_of
from mdistiller_ext.analyze.gradient_windows import GradientWindows
from mdistiller_ext.errors import ConfigError

WINDOWS = GradientWindows(["task", "kd"], {"task": ["task"], "kd": ["kd"]}, {}, {}, {})


@pytest.mark.parametrize(
    ("task", "kd", "cosine", "consistent", "inconsistent"),
    [
        ([3, 0], [0, 4], 0, 2.5, 2.5),  # orthogonal
        ([3, 4], [-3, -4], -1, 0, 5),  # opposite
        ([3, 4], [3, 4], 1, 5, 0),  # equal
        ([3, 4], [6, 8], 1, 7.5, 2.5),  # same direction
    ],
)
def test_gradients_of_known_angle(
    task: list[int], kd: list[int], cosine: float, consistent: float, inconsistent: float
) -> None:
    vectors = np.array([task, kd], dtype=float)
    found = agreement(vectors @ vectors.T, WINDOWS, Pair("task - kd", ["task"], ["kd"]))
    assert found.cosine == pytest.approx(cosine)
    assert (found.first, found.second) == pytest.approx(tuple(np.linalg.norm(vectors, axis=1)))
    assert (found.consistent, found.inconsistent) == pytest.approx((consistent, inconsistent))


def test_labels_are_compared_with_the_sum_of_all_that_the_teacher_says() -> None:
    roles = ["task", "target", "nontarget"]
    windows = GradientWindows(roles, {role: [role] for role in roles}, {}, {}, {})
    first, *others = pairs_of(windows)
    assert first == ("task - teacher", ["task"], ["target", "nontarget"])
    assert [pair.name for pair in others] == ["task - target", "task - nontarget", "target - nontarget"]
    vectors = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0]])
    assert agreement(vectors @ vectors.T, windows, first).cosine == pytest.approx(-1 / np.sqrt(2))


def test_the_analysis_of_recorded_runs(trained: Path) -> None:
    analysis = conflict([trained])
    network = [row for row in analysis.rows if row["layer"] == "network" and row["pair"] == "task - teacher"]
    assert len(network) == 2 * 3  # seeds, windows
    assert all(-1 <= row["cosine"] <= 1 and 0 <= row["share_negative"] <= 1 for row in network)
    assert float(analysis.tables[0].rows[0][3].split()[0]) == pytest.approx(
        np.mean([row["cosine"] for row in network]), abs=6e-4
    )
    with pytest.raises(ConfigError, match="recorded no gradients"):
        conflict([trained / "alone0"])
