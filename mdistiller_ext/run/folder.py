"""Run: a run folder as a context manager that owns its lock, its checkpoints and its logs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from .. import checkpoint
from ..config import changes_refused_on_resume
from ..errors import ConfigError, TrainingError, from_here, listing
from ..naming import file_name
from ..trainers.recorder import Recorder
from ..trainers.state import Row
from .identity import RunIdentity
from .lock import locked
from .logger import RunLogger
from .notes import NoteRecorder
from .provenance import record_start
from .resume import Found, Resume, check_resumable, newest_checkpoint


def run_folder(config: CfgNode) -> Path:
    """``<LOG.PREFIX>/<PROJECT>/<NAME>``, the last two made fit to be file names."""
    return Path(config.LOG.PREFIX) / file_name(config.EXPERIMENT.PROJECT) / file_name(config.EXPERIMENT.NAME)


class Run(Recorder):
    """A run's folder, locked from ``with`` until :meth:`close` or the end of the block.

    Args:
        folder: see :func:`run_folder`; an earlier run in it is moved aside, never overwritten, unless it is resumed.
        identity: settings, teacher, plug-ins and data.
        resume: go on from the newest checkpoint.
        notes: recorder of the notes shown so far, and from now on.

    Attributes:
        newest: checkpoint to go on from, file and content, if there is any.

    Entering raises ConfigError for a folder in use or a resumed run's changed settings, MissingFileError where there is nothing
    to resume, CorruptFileError where all checkpoints are damaged.
    """

    shows_progress = True
    saves = True

    def __init__(self, folder: Path, identity: RunIdentity, *, resume: Resume = False, notes: NoteRecorder) -> None:
        self.folder = folder
        self.identity = identity
        self.resume = resume
        self.newest: Found | None = None
        self._notes = notes
        self._history: Sequence[Row] = []
        self._logger: RunLogger | None = None
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Run:
        with self._resources as resources:
            resources.enter_context(locked(self.folder))
            self.newest = self._find_newest() if self.resume else None
            if self.newest is None:
                self._make_folder()
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, device: torch.device, history: Sequence[Row], *, step: int) -> None:
        """Begin to log, after ``history`` and ``step`` steps of the next epoch."""
        self._history = history
        self._keep_plugins()
        record_start(self.folder / "provenance.json", self.identity, device, epoch=len(history), step=step)
        config = self.identity.config
        self._logger = RunLogger(
            self.folder,
            title=self.folder.name,
            first_epoch=len(history) + 1,
            wandb_project=config.EXPERIMENT.PROJECT if config.LOG.WANDB else None,
            settings=config,
            notes=self._notes,
        )

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def save_latest(self, state: dict[str, Any]) -> None:
        checkpoint.save(self.folder / "latest", state | self.identity.saved(), previous=self.folder / "previous")

    def save_epoch(self, state: dict[str, Any], *, best: bool, keep: bool) -> None:
        """Save ``latest``, with ``best`` and ``keep`` also ``best`` and ``epoch_<e>``, and the student of each.

        ``latest`` comes last: a run killed before that repeats the epoch.
        """
        epoch = state["epoch"]
        content = state | self.identity.saved()
        self._save_student("student_latest", state["student"])
        for wanted, student, name in ((best, "student_best", "best"), (keep, f"student_{epoch}", f"epoch_{epoch}")):
            if wanted:
                self._save_student(student, state["student"])
                checkpoint.save(self.folder / name, content)
        self.save_latest(state)

    def save_average(self, student: dict[str, Any]) -> None:
        self._save_student("student_average", student)

    def save_batch(self, name: str, content: dict[str, Any]) -> str:
        checkpoint.save(self.folder / name, content)
        return f" (batch and student are kept in {self.folder / name})"

    def _save_student(self, name: str, student: dict[str, Any]) -> None:
        """Save weights as upstream does, and beside them the identity of the data, for evaluation and for use as a teacher."""
        checkpoint.save(self.folder / name, {"model": student, "data": self.identity.data.plain()})

    # ---- logs -----------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        if self._logger is not None:
            self._logger.note(text)

    def epoch(self, history: Sequence[Row], epochs: int, images_per_second: float) -> None:
        self._history = history
        if self._logger is not None:
            self._logger.epoch(history, epochs, images_per_second)

    def finish(self, history: Sequence[Row], summary: dict[str, Any]) -> None:
        if self._logger is not None:
            self._logger.finish(history, summary)
            self._logger.close(history)
            self._logger = None

    def close(self) -> None:
        """Draw the curves, end W&B's run and unlock the folder. May be called again."""
        logger, self._logger = self._logger, None
        with self._resources, contextlib.suppress(TrainingError):  # the error that ended the run is propagating
            if logger is not None:
                logger.close(self._history)

    # ---- the folder -----------------------------------------------------------------------------------------------

    def _find_newest(self) -> Found | None:
        if self.resume is True:
            check_resumable(self.folder)
        newest = newest_checkpoint(self.folder)
        for half_written in self.folder.glob(".*.tmp"):  # by a run that was killed
            half_written.unlink()
        changed = changes_refused_on_resume(newest[1]["config"], self.identity.config) if newest is not None else []
        if changed:
            raise ConfigError(
                f"the run in {self.folder} was started with other settings ({listing(changed, '; ')}). "
                f"Resume it with --cfg {from_here(self.folder / 'config.yaml')}, or start a new run"
            )
        return newest

    def _make_folder(self) -> None:
        """Make an empty folder with ``config.yaml`` and ``classes.txt``; an earlier run is moved aside."""
        folder = self.folder
        try:
            # With `auto`, a run that has not saved anything yet is the same run.
            if folder.exists() and any(folder.iterdir()) and not (self.resume == "auto" and (folder / "config.yaml").exists()):
                aside = next(p for n in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())
                folder.rename(aside)
                print(f"an earlier run is kept as {aside}")
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the run folder {folder} cannot be made: {error.strerror}") from error
        checkpoint.write_atomically(folder / "config.yaml", self.identity.config_text.encode())
        if self.identity.data.classes:
            names = os.fsencode("".join(f"{name}\n" for name in self.identity.data.classes))
            checkpoint.write_atomically(folder / "classes.txt", names)

    def _keep_plugins(self) -> None:
        """Keep the sources of the plug-ins in ``plugins/``."""
        place = self.folder / "plugins"
        if place.is_symlink():  # in a folder that came from elsewhere
            place.unlink()
        for name, source in self.identity.plugins.items():
            place.mkdir(exist_ok=True)
            checkpoint.write_atomically(place / name, source)
