"""The teacher of a run that is evaluated, to compare predictions with."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..build import build_teacher
from ..config import load_config
from ..data import Loader
from ..distributed import all_gather_object, local_rank_zero_first
from ..errors import ConfigWarning, UserError
from ..evaluate import try_images
from ..registry import DISTILLERS
from ..weight_files import teacher_path


@dataclass(frozen=True)
class Teacher:
    """A teacher, or why there is none.

    Attributes:
        network: in eval mode, on the loader's device; None for a run without a teacher, or one that cannot be opened.
        name: architecture and file.
        note: why it cannot be opened, or what else a reader must know; may be empty.
    """

    network: nn.Module | None = None
    name: str = ""
    note: str = ""


NO_TEACHER = Teacher()


def open_teacher(config_file: Path | None, overrides: Sequence[Any], loader: Loader) -> Teacher:
    """Open the teacher of a run. Called by every rank; without a teacher on one of them, none has it.

    Args:
        config_file: ``config.yaml`` of the run folder; None for a network that is not of a run.
        overrides: settings over those of the file, such as where the teacher's file is now.
    """
    if config_file is None:
        return NO_TEACHER
    with local_rank_zero_first():  # its weights may be downloaded
        try:
            teacher = _open(config_file, overrides, loader)
        except UserError as error:
            teacher = Teacher(note=f"not compared with the teacher: {error}")
    everyone = all_gather_object((teacher.network is None, teacher.note))
    return next((Teacher(note=note) for missing, note in everyone if missing), teacher)


def _open(config_file: Path, overrides: Sequence[Any], loader: Loader) -> Teacher:
    with warnings.catch_warnings():  # of settings that only training reads
        warnings.simplefilter("ignore", ConfigWarning)
        config = load_config(config_file, overrides)
    if not DISTILLERS.get(config.DISTILLER.TYPE).needs_teacher:
        return NO_TEACHER
    settings, data = config.DISTILLER, config.DATASET
    weights = teacher_path(settings.TEACHER, data.TYPE, settings.TEACHER_CKPT, data.ROOT)
    network = build_teacher(config, loader, weights)
    try_images(network, torch.zeros(2, *loader.image_shape))
    known, now = _recorded_hash(config_file.parent), hashlib.sha256(weights.read_bytes()).hexdigest()
    changed = f"{weights} is not the file that taught this run (SHA-256 {now[:12]}..., then {str(known)[:12]}...)"
    name = f"{settings.TEACHER} from {weights}"
    return Teacher(network.to(loader.device).eval(), name, changed if known not in (None, now) else "")


def _recorded_hash(folder: Path) -> str | None:
    """SHA-256 of the teacher's file when the run was started; None where it is not recorded."""
    try:
        starts = json.loads((folder / "provenance.json").read_bytes())
        return str(starts[-1]["teacher_sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
