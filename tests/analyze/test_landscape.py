"""Loss landscapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext.analyze.landscape import Neighbourhood, Place, increase, landscape
from mdistiller_ext.analyze.partial import Partial
from mdistiller_ext.analyze.weight_space import filter_normalized, random_directions, weights_of
from mdistiller_ext.errors import ConfigError

QUICK = {"limit": 64, "bn_images": 64, "points": 3, "points_2d": 2, "directions": 2, "span": 0.5}


class Quadratic(nn.Module):
    """Weights ``[4, 3]``, and a loss ``x' A x / 2`` of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        root = torch.randn(12, 12, dtype=torch.float64)
        self.matrix = root @ root.T

    def at(self, weight: Tensor) -> float:
        return float(weight.flatten() @ self.matrix @ weight.flatten() / 2)

    def losses(self, model: nn.Module) -> dict[str, float]:
        assert model is self
        return {"task": self.at(self.weight.detach())}


def test_places_of_one_point_are_one() -> None:
    assert Place(2, 0.0).canonical == Place(0, 0.0, 1, 0.0).canonical == Place(0, 0.0)
    assert Place(0, 0.5, 1, 0.0).canonical == Place(0, 0.5)
    assert Place(0, 0.0, 1, 0.5).canonical == Place(1, 0.5)
    assert Place(0, 0.5, 1, 0.5).canonical == Place(0, 0.5, 1, 0.5)


def test_of_a_quadratic_it_is_the_parabola() -> None:
    model = Quadratic()
    centre = weights_of(model)
    raw = random_directions(centre, 2, seed=1)
    first, second = (filter_normalized(direction, centre)["weight"] for direction in raw)
    around = Neighbourhood(model, raw, model.losses)
    surface = {place: around(place) for place in (Place(0, 0.0), Place(0, 0.5), Place(0, -0.5), Place(0, 0.3, 1, -0.7))}
    for place, found in surface.items():
        moved = centre["weight"] + place.alpha * first + place.beta * second
        assert found["task"] == pytest.approx(model.at(moved), rel=1e-12)
    assert increase(surface, 1, "task", 0.5) == pytest.approx(0.25 * model.at(first))  # both sides: only the square is left


def test_at_the_student_it_is_the_recorded_loss_and_a_second_call_computes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "partial.jsonl"
    runs = [trained / name for name in ("alone0", "kd0", "kd1")]
    first = landscape(runs, part="test", batch_norm="eval", partial=Partial(file), **(QUICK | {"limit": 0}))
    for row in first.rows:
        if row["alpha"] == row["beta"] == 0:
            name = ("kd" if row["method"] == "KD" else "alone") + str(row["seed"])
            last = (trained / name / "metrics.csv").read_text().splitlines()
            recorded = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
            assert row["task"] == pytest.approx(float(recorded["test_loss"]), rel=1e-4)
            assert row["top1"] == pytest.approx(float(recorded["test_top1"]), abs=0.01)
    monkeypatch.setattr(Neighbourhood, "__call__", None)
    again = landscape(runs, part="test", batch_norm="eval", partial=Partial(file), **(QUICK | {"limit": 0}))
    assert again.rows == first.rows
    with pytest.raises(TypeError):
        landscape(runs, part="test", batch_norm="recompute", partial=Partial(file), **(QUICK | {"limit": 0}))


def test_all_methods_have_the_same_points_and_first_seeds_also_a_plane(trained: Path) -> None:
    found = landscape([trained / "kd0", trained / "kd1", trained / "gdkd0"], **QUICK)
    points = {}
    for row in found.rows:
        points.setdefault((row["method"], row["seed"]), []).append((row["direction"], row["alpha"], row["beta"]))
    line = [-0.5, -0.25, 0.0, 0.25, 0.5]  # three points; radius and half of the span
    on_lines = [(number, alpha, 0.0) for number in ("1", "2") for alpha in line]
    plane = [("1x2", alpha, beta) for beta in (-0.5, 0.5) for alpha in (-0.5, 0.5)]
    assert points == {("KD", 0): on_lines + plane, ("KD", 1): on_lines, ("GDKD", 0): on_lines + plane}
    assert [picture.name for picture in found.pictures] == ["curves", "task", "distillation"]
    assert {row[0]: row[-1] for row in found.tables[0].rows} == {"KD": "2", "GDKD": "1"}


def test_impossible_options_are_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match="--points must be at least 2"):
        landscape([trained / "kd0"], points=1)
    with pytest.raises(ConfigError, match="no run has one"):
        landscape([trained / "alone0"])
