"""Resuming: find the newest checkpoint of a run that is whole, and load it into a trainer's state."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any, Literal

from .. import checkpoint
from ..config import read_settings
from ..distributed import world_size
from ..errors import CorruptFileError, MissingFileError, Note, UserError
from ..trainers.state import TrainState, check_state
from .identity import RunIdentity

Resume = bool | Literal["auto"]
"""Whether a run goes on from its newest checkpoint: it does, it does not, or (``auto``) it does where there is one"""

Found = tuple[Path, dict[str, Any]]
"""A checkpoint's file and content"""


def check_resumable(folder: Path) -> None:
    """Raise MissingFileError where there is no checkpoint to go on from."""
    if not _checkpoints(folder):
        latest = (folder / "latest").absolute()
        raise MissingFileError(f"nothing to resume: no checkpoint {latest}. Start the run without --resume")


def newest_checkpoint(folder: Path) -> Found | None:
    """The newest checkpoint that is whole, or None where there is none. Raises CorruptFileError where all are damaged.

    Damaged ones are renamed, so that a new ``latest`` does not replace a good ``previous``.
    """
    damaged: dict[Path, CorruptFileError] = {}
    for path in _checkpoints(folder):
        try:
            state = _read(path)
        except CorruptFileError as error:
            damaged[path] = error
            continue
        within = f", step {state['step']}" if state["step"] else ""
        for file, why in damaged.items():
            aside = file.with_name(f"{file.name}.damaged")
            os.replace(file, aside)
            what = str(why).removesuffix(checkpoint.REMEDY)
            warnings.warn(f"{what}. It is kept as {aside}; going on after epoch {state['epoch']}{within}: {path}", Note, 2)
        if path.name != "latest":  # a run with nothing more to train would save none
            checkpoint.write_atomically(folder / "latest", path.read_bytes())
        return path, state
    if damaged:
        raise next(iter(damaged.values()))
    return None


def load_checkpoint(state: TrainState, identity: RunIdentity, file: Path, saved: dict[str, Any]) -> list[str]:
    """Load a checkpoint into the state of training; returns notes on what differs from the run so far.

    Every rank must call it. Raises ConfigError for a checkpoint of another job, CorruptFileError for one that does not fit.
    """
    notes = identity.check(file, saved)
    try:
        state.load_state_dict(saved)
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(f"{'' if isinstance(error, UserError) else type(error).__name__} {error}".split())[:200]
        raise CorruptFileError(f"{file} does not fit this run: {why}") from error
    before = len(saved["rng"])
    if before != world_size():
        notes.append(
            f"the run was on {before} process{'es' * (before > 1)} and goes on with {world_size()}: the same batches and "
            "steps, but no longer bit for bit, as sums are taken in another order, batch norm without SOLVER.SYNC_BN sees "
            "parts of batches of another size, and random layers such as dropout draw other numbers"
        )
    return notes


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint's content. Raises CorruptFileError."""
    state: dict[str, Any] = checkpoint.load(path)
    try:
        check_state(state)
        if not isinstance(state.get("config"), str):
            raise ValueError(f"its config is {type(state['config']).__name__}" if "config" in state else "it has no config")
        read_settings(state["config"], "the dumped configuration")
    except ValueError as error:
        raise CorruptFileError(f"{path} is no checkpoint of a run ({error}): nothing can go on from it") from error
    return state


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first, ``best`` last, as its name does not tell its epoch."""
    numbered = [path for path in folder.glob("epoch_*") if re.fullmatch(r"epoch_\d+", path.name)]  # not epoch_2.damaged
    kept = sorted(numbered, key=lambda path: int(path.name.removeprefix("epoch_")), reverse=True)
    return [path for path in (folder / "latest", folder / "previous", *kept, folder / "best") if path.is_file()]
