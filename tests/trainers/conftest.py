"""Fixtures of the tests of trainers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext.data import create_loaders
from mdistiller_ext.distillers import Distiller, create_distiller
from mdistiller_ext.models import create_model
from mdistiller_ext.registry import TRAINERS
from mdistiller_ext.trainers import BaseTrainer


class Auxiliary(Distiller):
    """Decoupled parts on a double-precision network, with a head that only the non-target part reaches."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__(student, teacher)
        self.inner = create_distiller("DKD", student, teacher, warmup=1)
        self.head = nn.Linear(64, 100).double()

    def losses(self, student: Any, teacher: Any, labels: Tensor, progress: Any) -> dict[str, Tensor]:
        parts = self.inner.losses(student, teacher, labels, progress)
        parts["nontarget/head"] = (self.head(student.features["pooled_feat"]) - teacher.logits).square().mean()
        return parts


class DoubleLoader:
    """The loader's batches in double precision."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.num_images, self.image_shape = loader, loader.num_images, loader.image_shape
        self.batch_size = loader.batch_size

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Any:
        return ((images.double(), labels) for images, labels in self.loader)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        self.loader.set_epoch(epoch, first_batch)


@pytest.fixture(scope="module")
def double_trainer(glyphs_root: Path) -> Callable[..., BaseTrainer]:
    """Trainers on double-precision networks that start from the same weights."""
    train, test = create_loaders("glyphs", root=glyphs_root, batch_size=8, test_batch_size=40, limit=40)
    torch.manual_seed(1)
    student = create_model("resnet8", dataset="glyphs").double()
    teacher = create_model("resnet8", dataset="glyphs").double()

    def make(trainer: str, method: str = "DKD", **keywords: Any) -> BaseTrainer:
        torch.manual_seed(2)
        pair = copy.deepcopy(student), copy.deepcopy(teacher)
        distiller = Auxiliary(*pair) if method == "Auxiliary" else create_distiller(method, *pair)
        keywords = {"epochs": 2, "lr": 0.05, "weight_decay": 5e-3, "lr_scheduler": "onecycle"} | keywords
        made: BaseTrainer = TRAINERS.get(trainer)(distiller, DoubleLoader(train), DoubleLoader(test), **keywords)
        return made

    return make
