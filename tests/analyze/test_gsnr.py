"""Signal-to-noise ratio of gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdistiller_ext.analyze.gradient_windows import GradientWindows
from mdistiller_ext.analyze.gsnr import corrected, gsnr, gsnr_of, medians


def drawn(mean: float, windows: int = 400, samples: int = 25) -> GradientWindows:
    """Gradients of 8 weights, each normal with this mean and variance 1, as ``task``; and noise alone as ``kd``."""
    generator = np.random.default_rng(1)
    g = generator.normal(size=(2, windows, samples, 8)) + np.array([mean, 0])[:, None, None, None]
    means = g.mean(axis=2)
    apart = g - means[:, :, None]
    grams = {
        "mean_gram": np.einsum("rwe,swe->wrs", means, means)[:, None],
        "centred_gram": np.einsum("rwte,swte->wrs", apart, apart)[:, None] / samples,
        "samples": np.full(windows, samples),
    }
    return GradientWindows(["task", "kd"], {"task": ["task"], "kd": ["kd"]}, {}, {"conv": [0]}, grams)


@pytest.mark.parametrize("mean", [0.0, 0.3, 2.0])
def test_gradients_of_a_known_distribution_have_their_ratio(mean: float) -> None:
    windows = drawn(mean)
    samples = windows.windows["samples"]
    found = corrected(gsnr_of(windows, ["task"]), samples).mean()
    assert found == pytest.approx(mean**2, rel=0.03, abs=0.003)  # |mean|² / variance, over 8 weights each
    assert corrected(gsnr_of(windows, ["kd"]), samples).mean() == pytest.approx(0, abs=0.003)
    assert gsnr_of(windows, ["kd"]).mean() == pytest.approx(1 / 24, rel=0.02)  # the bias of the definition
    total = corrected(gsnr_of(windows, ["task", "kd"]), samples).mean()
    assert total == pytest.approx(mean**2 / 2, rel=0.04, abs=0.003)  # same signal, twice the noise
    assert gsnr_of(windows, ["task"], "conv") == pytest.approx(gsnr_of(windows, ["task"]))


def test_the_analysis_has_every_window_and_layer(trained: Path) -> None:
    analysis = gsnr([trained])
    network = [row for row in analysis.rows if row["layer"] == "network"]
    assert len(network) == 2 * 4 * 3  # seeds, streams and total, windows
    assert {row["stream"] for row in network} == {"task", "target", "nontarget", "total"}
    values = [row["gsnr"] for row in network if row["stream"] == "task" and row["seed"] == 0]
    (table, order) = analysis.tables
    assert table.rows[0][-1].split()[0] == f"{np.median(values):.4f}"
    assert set(order.rows[0][1].split(" > ")) == {"task", "target", "nontarget"}
    assert analysis.notes[0].startswith("runs without these records")
    assert [picture.name for picture in analysis.pictures] == ["", "layers"]


def test_medians_are_of_each_seed() -> None:
    assert {name: len(values) for name, values in medians({0: drawn(1.0), 3: drawn(2.0)}).items()} == {
        "task": 2,
        "kd": 2,
        "total": 2,
    }
