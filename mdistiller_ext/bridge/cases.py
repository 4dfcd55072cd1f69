"""What is compared, and its configuration on both sides."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from ..config import load_config
from ..errors import ConfigError
from ..models import create_model
from .checkout import Checkout

CLASSES = 100


@dataclass(frozen=True)
class Case:
    """What is compared: a method with a trainer, as a yaml file or settings configure them."""

    checkout: Checkout
    method: str
    trainer: str
    student: str
    teacher: str
    cfg: str | None = None
    settings: Sequence[str] = ()
    batch_size: int = 16
    derive: bool = True


def networks(case: Case, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Student and teacher of our zoo with the weights that both sides start from."""
    torch.manual_seed(0)
    student, teacher = (create_model(name, num_classes=CLASSES).to(dtype) for name in (case.student, case.teacher))
    return student, teacher


def their_cfg(case: Case, *, keep: bool = False) -> CfgNode:
    """The checkout's configuration of a case, with what its CRD and ReviewKD need for other networks than their files'.

    Args:
        keep: keep the method and trainer of the file.

    Raises ConfigError for a file that the checkout cannot read.
    """
    cfg = case.checkout.defaults.clone()
    cfg.defrost()
    if case.cfg is not None and not os.path.isfile(case.cfg):
        raise ConfigError(f"config file not found: {os.path.abspath(case.cfg)}")
    known = [pair for pair in pairwise(case.settings) if _has(cfg, pair[0])]
    try:
        if case.cfg is not None:
            cfg.merge_from_file(case.cfg)
        cfg.merge_from_list([word for pair in known for word in pair])
    except Exception as error:  # of yacs and yaml
        raise ConfigError(f"the checkout cannot read {case.cfg}: {type(error).__name__}: {error}") from error
    if keep:
        return cfg
    cfg.DISTILLER.TYPE, cfg.LOG.WANDB = case.method, False
    cfg.LOG.PREFIX = tempfile.mkdtemp()
    if "TRAINER" in cfg.SOLVER:
        cfg.SOLVER.TRAINER = case.trainer
    if case.derive:
        _derive(cfg, case)
    return cfg


def pairwise(settings: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Overrides as pairs of a key and its value."""
    return zip(settings[::2], settings[1::2], strict=True)


def _has(cfg: Any, name: str) -> bool:
    for key in name.split("."):
        if not isinstance(cfg, CfgNode) or key not in cfg:
            return False
        cfg = cfg[key]
    return True


def _derive(cfg: CfgNode, case: Case) -> None:
    with torch.no_grad():
        features = [net.eval()(torch.zeros(1, 3, 32, 32))[1] for net in networks(case, torch.float32)]
    dimensions = [output["pooled_feat"].shape[1] for output in features]
    if case.method == "CRD":
        cfg.CRD.FEAT.STUDENT_DIM, cfg.CRD.FEAT.TEACHER_DIM = dimensions
        cfg.CRD.NCE.K = min(cfg.CRD.NCE.K, case.batch_size * 30)
    if case.method == "REVIEWKD":
        maps = [output["feats"][1:] for output in features]
        cfg.REVIEWKD.IN_CHANNELS, cfg.REVIEWKD.OUT_CHANNELS = (
            [*(each.shape[1] for each in stages), dimension] for stages, dimension in zip(maps, dimensions, strict=True)
        )
        cfg.REVIEWKD.SHAPES, cfg.REVIEWKD.OUT_SHAPES = ([1, *(each.shape[2] for each in reversed(stages))] for stages in maps)


def our_config(case: Case, settings: Sequence[str] = ()) -> CfgNode:
    """Our configuration of a case. Raises ConfigError for a method or trainer that is not here."""
    trainer = [] if case.cfg is not None else ["SOLVER.TRAINER", case.trainer]
    crd = ["CRD.NCE.K", str(case.batch_size * 30)] if case.derive and case.method == "CRD" else []
    fixed = ["DISTILLER.TYPE", case.method, "DATASET.TYPE", "cifar100", *trainer, *crd]
    networks = ["DISTILLER.STUDENT", case.student, "DISTILLER.TEACHER", case.teacher]
    return load_config(case.cfg, [*fixed, *networks, *case.settings, *settings])
