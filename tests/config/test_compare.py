"""Comparing configurations."""

from __future__ import annotations

from mdistiller_ext.config import (
    differences,
    load_config,
)


def test_differences_name_the_setting_and_both_values() -> None:
    old, new = load_config(None), load_config(None, ["SOLVER.LR", "0.1", "LOG.PREFIX", "x"])
    assert differences(old.dump(), new.dump()) == [
        "EXPERIMENT.NAME: default -> default,SOLVER.LR:0.1",
        "LOG.PREFIX: ./output -> x",
        "SOLVER.LR: 0.05 -> 0.1",
    ]
