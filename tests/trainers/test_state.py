"""Snapshots of the training state."""

from __future__ import annotations

import copy

from tests.support.runs import assert_identical
from tests.support.trainers import make_trainer


def test_training_after_a_restore_leaves_the_snapshot_as_it_was(tiny: list[str]) -> None:
    """So that one snapshot can be restored twice: optimizers and schedulers keep the tensors and lists that they load."""
    run = make_trainer(tiny, "DISTILLER.TYPE", "PRKD", "PRKD.AVERAGE_LAST", 3, "SOLVER.LR_SCHEDULER", "onecycle")
    run.run_epoch()
    snapshot = run.state.snapshot()
    expected = copy.deepcopy(snapshot)
    run.state.restore(snapshot)
    run.run_epoch()
    assert_identical(snapshot, expected)
