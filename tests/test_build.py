"""Settings reach the objects of a run."""

from __future__ import annotations

import pytest

from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import (
    load_config,
)


def test_what_is_configured_reaches_the_objects(tiny: list[str]) -> None:
    overrides = [
        "DISTILLER.TYPE",
        "DKD",
        "DKD.BETA",
        "3",
        "SOLVER.TRAINER",
        "dot",
        "SOLVER.DOT.DELTA",
        "0.05",
        "SOLVER.LR",
        "0.2",
    ]
    trainer = build_trainer(load_config(None, [*tiny, *overrides]))
    assert trainer.distiller.beta == 3.0
    assert {s.name: s.momentum for s in trainer.active_streams} == pytest.approx({"task": 0.85, "kd": 0.95})
    assert trainer.optimizer.param_groups[0]["lr"] == 0.2
    assert trainer.epochs == 3
