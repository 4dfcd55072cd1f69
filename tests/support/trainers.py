"""Small trainers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.trainers import BaseTrainer


def make_trainer(tiny: list[str], *overrides: Any) -> BaseTrainer:
    return build_trainer(load_config(None, [*tiny, *map(str, overrides)]))


def weights(trainer: BaseTrainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.distiller.learnable_parameters()])


STEPS = 20


def trainer_for(tiny: list[str], *overrides: Any) -> BaseTrainer:
    """DeepKD at a rate at which roundings do not grow: at the recipes' own, a change of the last bit is 1e-4 after 20 steps."""
    settings = ["DATASET.LIMIT", STEPS * 16, "SOLVER.BATCH_SIZE", 16, "DISTILLER.TYPE", "DEEPKD", "SOLVER.TRAINER", "deepkd"]
    settings += ["SOLVER.LR", 3e-4, "SOLVER.DEEPKD.DELTA_NCG", 0.05]
    return build_trainer(load_config(None, [*tiny, *settings, *overrides]))
