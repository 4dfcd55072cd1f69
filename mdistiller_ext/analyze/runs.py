"""Finished runs, opened: their students at any kept epoch, their teacher, their method and their images."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from yacs.config import CfgNode

from .. import checkpoint
from ..acceleration import choose_device, place
from ..build import build_plain_loader, build_student, build_teacher
from ..config import hyper_parameters
from ..data import Loader
from ..distillers import Distiller, create_distiller
from ..errors import ConfigError, MissingFileError, Note, listing
from ..registry import DISTILLERS
from ..reporting.groups import make_groups
from ..reporting.records import Run, read_records
from ..weight_files import teacher_path
from ..weights import load_weights

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
PART_NAMES: dict[Part, str] = {"train": "training", "test": "test"}  # as in "training images"
Which = int | Literal["last", "best", "average"]
"""A student of a run: that of a kept epoch, of the last epoch, of the best one, or the average of the last ones"""

_FILES = {"last": "student_latest", "best": "student_best", "average": "student_average"}


class TrainedRun:
    """A finished run.

    Args:
        record: what its folder holds.
        device: where networks and images are put.
        loaders: loaders made so far, shared by runs of the same data.

    Raises ConfigError if the run is not finished.
    """

    def __init__(self, record: Run, device: torch.device, loaders: dict[Any, Loader]) -> None:
        if not record.finished or record.folder is None or record.config is None:
            epochs = f" of {record.config.SOLVER.EPOCHS}" if record.config is not None else ""
            raise ConfigError(
                f"{record.where} is {record.state}, after {len(record.history)}{epochs} epochs: wait for its end or resume it, "
                "or name finished runs only"
            )
        self.record = record
        self.folder: Path = record.folder
        self.config: CfgNode = record.config
        self.device = device
        self._loaders = loaders
        self._fingerprints: dict[Which, str] = {}

    @property
    def seed(self) -> int:
        """``EXPERIMENT.SEED``."""
        return self.record.seed

    @property
    def epochs(self) -> int:
        """Number of epochs trained."""
        return int(self.config.SOLVER.EPOCHS)

    @property
    def has_teacher(self) -> bool:
        """Whether its method has a teacher."""
        return bool(DISTILLERS.get(self.config.DISTILLER.TYPE).needs_teacher)

    def kept_epochs(self) -> list[int]:
        """Epochs whose student is in the folder, in rising order; see LOG.SAVE_CHECKPOINT_FREQ."""
        names = (re.fullmatch(r"student_(\d+)", file.name) for file in self.folder.glob("student_*"))
        return sorted(int(match[1]) for match in names if match)

    def images(self, part: Part, limit: int = 0, batch_size: int = 0) -> Loader:
        """Loader of the run's training or test images in their order, not augmented; always the same object.

        Args:
            limit: number of images, balanced over the classes; 0, or more than the run used: all of these.
            batch_size: 0 for that of the run's evaluation.
        """
        config = self.config.clone()
        config.DATASET.LIMIT = self.limited(limit)
        config.DATASET.TEST.BATCH_SIZE = batch_size or config.DATASET.TEST.BATCH_SIZE
        key = (config.DATASET.dump(), part)
        if key not in self._loaders:
            self._loaders[key] = build_plain_loader(config, self.device, part)
        return self._loaders[key]

    def limited(self, limit: int) -> int:
        """The limit of images, at most that of the run; 0 is none."""
        return min(filter(None, (limit, self.config.DATASET.LIMIT)), default=0)

    def weights(self, which: Which = "last") -> Path:
        """File of a student. Raises MissingFileError with the remedy."""
        name = _FILES[which] if isinstance(which, str) else f"student_{which}"
        file = self.folder / name
        if not file.is_file():
            kept = f"it keeps epochs {listing(map(str, self.kept_epochs())) or 'none'}"
            remedy = "LOG.SAVE_CHECKPOINT_FREQ 1 keeps every epoch" if isinstance(which, int) else "see PRKD.AVERAGE_LAST"
            raise MissingFileError(f"{self.folder} has no {name}: {kept}; {remedy}")
        return file

    def fingerprint(self, which: Which = "last") -> str:
        """Hash of a student's file, as it was at the first call."""
        if which not in self._fingerprints:
            self._fingerprints[which] = hashlib.sha256(self.weights(which).read_bytes()).hexdigest()[:16]
        return self._fingerprints[which]

    def data_fingerprint(self, part: Part, limit: int = 0) -> str:
        """Hash of what ``images`` loads, and of the teacher's file."""
        loader = self.images(part, limit)
        about = loader.identity, self.config.DATASET.dump(), part, limit, self.record.teacher_sha256
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    def student(self, which: Which = "last") -> nn.Module:
        """A student in eval mode, float32. Raises MissingFileError, CorruptFileError for weights of another network."""
        loader = self.images("test")
        student = build_student(self.config, loader)
        load_weights(student, self.weights(which), data=loader.identity)
        return self._placed(student).eval()

    def teacher(self) -> nn.Module:
        """The teacher, frozen, in eval mode. Raises ConfigError if the run has none, or its file has changed since."""
        if not self.has_teacher:
            raise ConfigError(f"{self.folder} has no teacher ({self.config.DISTILLER.TYPE})")
        settings, data = self.config.DISTILLER, self.config.DATASET
        weights = teacher_path(settings.TEACHER, data.TYPE, settings.TEACHER_CKPT, data.ROOT)
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        if self.record.teacher_sha256 not in (None, sha256):
            raise ConfigError(
                f"{weights} is not the teacher of {self.folder} (SHA-256 {sha256[:12]}..., then "
                f"{str(self.record.teacher_sha256)[:12]}...): put that back"
            )
        teacher = build_teacher(self.config, self.images("test"), weights)
        return self._placed(teacher).eval().requires_grad_(False)

    def method(self, which: Which = "last") -> Distiller:
        """The run's method in eval mode, with a student, the teacher, and layers of its own as after the last epoch."""
        loader = self.images("train")
        teacher = self.teacher() if self.has_teacher else None
        name = self.config.DISTILLER.TYPE
        method = create_distiller(name, self.student(which), teacher, **hyper_parameters(self.config, name))
        if method.needs_index:
            method.train_labels = loader.labels
        method.prepare(loader.image_shape)
        if method.own_state_dict():
            method.load_own_state_dict(self.checkpoint()["distiller"])
        return method.to(self.device).eval()

    def checkpoint(self) -> dict[str, Any]:
        """Content of the checkpoint of the last epoch. Raises MissingFileError, CorruptFileError."""
        content: dict[str, Any] = checkpoint.load(self.folder / "latest")
        return content

    def _placed(self, model: nn.Module) -> nn.Module:
        return place(model, self.device, channels_last=self.config.SOLVER.CHANNELS_LAST)


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in seed.

    Attributes:
        name: unique among the groups.
        place: number of the group, for its colour.
    """

    name: str
    place: int
    runs: Sequence[TrainedRun]

    def sampled_epochs(self, every: int = 1) -> list[int]:
        """Every ``every``-th of the epochs that all runs keep, counted back from the last; see LOG.SAVE_CHECKPOINT_FREQ.

        Raises ConfigError for ``every`` below 1, MissingFileError where there is none.
        """
        if every < 1:
            raise ConfigError(f"one of how many epochs must be at least 1, got {every}")
        kept = sorted(set.intersection(*(set(run.kept_epochs()) for run in self.runs)))
        if not kept:
            where = listing(str(run.folder) for run in self.runs)
            raise MissingFileError(f"{where} keep the student of no common epoch; LOG.SAVE_CHECKPOINT_FREQ 1 keeps every epoch")
        return kept[::-every][::-1]


def open_runs(folders: Iterable[Path], device: str = "auto") -> list[RunGroup]:
    """Open the runs in folders, searched recursively, grouped as in the report of a study.

    Raises MissingFileError if there are none, ConfigError if one is not finished.
    """
    records = read_records(list(folders))
    where = choose_device(device)
    loaders: dict[Any, Loader] = {}
    groups = make_groups(records.runs, records.notes)
    for note in records.notes:
        warnings.warn(note, Note, stacklevel=2)
    if not groups:
        raise MissingFileError(f"no run whose settings can be read: {listing(records.notes)}")
    return [
        RunGroup(group.name, place, [TrainedRun(run, where, loaders) for run in group.runs])
        for place, group in enumerate(groups)
    ]


def first_teacher(groups: Iterable[RunGroup]) -> TrainedRun:
    """A run whose teacher serves as that of all runs.

    Raises ConfigError if there is none, if there are several, or if the runs do not share one data set.
    """
    runs = [run for group in groups for run in group.runs]
    teachers: dict[str | None, TrainedRun] = {}
    for run in runs:
        if run.has_teacher:
            teachers.setdefault(run.record.teacher_sha256, run)
    if len(teachers) != 1:
        found = listing(str(run.folder) for run in teachers.values())
        raise ConfigError(
            f"one teacher is needed for all runs; {f'{found} have different ones' if found else 'no run has one'}"
        )
    same = ("LIMIT", "IMAGE_SIZE", "MEAN", "STD")
    data = {repr((run.record.data, [run.config.DATASET[name] for name in same])): run for run in runs}
    if len(data) > 1:
        raise ConfigError(f"the runs are of different data: {listing(str(run.folder) for run in data.values())}")
    return next(iter(teachers.values()))
