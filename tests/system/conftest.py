"""Fixtures of the whole-program tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext.run import logger
from mdistiller_ext.run.curves import draw_curves
from tests.support.programs import Finished, run_program

MAIN_JOB = "configs/glyphs/deepkd/res20_res8.yaml"


@pytest.fixture(scope="session")
def done(glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A finished run of the main job's recipe, made small, and what it printed."""
    prefix = tmp_path_factory.mktemp("done")
    overrides = (
        f"EXPERIMENT.NAME run LOG.PREFIX {prefix} DATASET.ROOT {glyphs_root} DATASET.LIMIT 200 DATASET.TEST.BATCH_SIZE 64"
    )
    overrides += f" DISTILLER.TEACHER resnet8 DISTILLER.TEACHER_CKPT {teacher_file}"
    overrides += " SOLVER.EPOCHS 3 SOLVER.BATCH_SIZE 64 DEEPKD.PHASE_ENDS [1,2] LOG.SAVE_CHECKPOINT_FREQ 2 SOLVER.DEVICE cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logger, "draw_curves", draw_curves)  # for the others see tests/conftest.py
        finished = run_program("train.py", "--cfg", MAIN_JOB, *overrides.split())
    return prefix / "glyphs" / "run", finished
