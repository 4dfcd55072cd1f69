"""Finished runs of a second each, for all analyses."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.run import run_folder

RUNS = {
    "alone": ["DISTILLER.TYPE", "NONE"],
    "kd": ["DISTILLER.TYPE", "KD"],
    "gdkd": ["DISTILLER.TYPE", "GDKD", "GDKD.TOPK", "1"],
    "prkd": ["DISTILLER.TYPE", "PRKD", "PRKD.AVERAGE_LAST", "2"],
    "deepkd": [
        *("DISTILLER.TYPE", "DEEPKD", "SOLVER.TRAINER", "deepkd"),
        *("SOLVER.RECORD", "[gsnr, conflict]", "SOLVER.RECORD_EVERY", "1", "SOLVER.RECORD_WINDOW", "2"),
    ],
}


@pytest.fixture(scope="session")
def trained(glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of ``RUNS``, of seeds 0 and 1: resnet8, 64 images, 3 epochs, each kept."""
    folder = tmp_path_factory.mktemp("trained")
    for name, method in RUNS.items():
        for seed in (0, 1):
            settings = {
                "EXPERIMENT.PROJECT": "runs",
                "EXPERIMENT.NAME": f"{name}{seed}",
                "EXPERIMENT.SEED": seed,
                "LOG.PREFIX": folder,
                "LOG.SAVE_CHECKPOINT_FREQ": 1,
                "DATASET.TYPE": "glyphs",
                "DATASET.ROOT": glyphs_root,
                "DATASET.LIMIT": 64,
                "DISTILLER.STUDENT": "resnet8",
                "DISTILLER.TEACHER": "resnet8",
                "DISTILLER.TEACHER_CKPT": teacher_file,
                "SOLVER.BATCH_SIZE": 32,
                "SOLVER.EPOCHS": 3,
                "SOLVER.DEVICE": "cpu",
            }
            config = load_config(None, [*method, *(str(part) for pair in settings.items() for part in pair)])
            build_trainer(config, run_folder(config)).train()
    return folder / "runs"
