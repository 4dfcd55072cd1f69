"""The folder of a run: where it lies, whose it is, and the checkpoint in it that training goes on from."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from yacs.config import CfgNode

from . import checkpoint
from .config import changes_refused_on_resume as changed_settings
from .config import differences
from .errors import ConfigError, CorruptFileError, MissingFileError, Note, from_here, listing
from .naming import file_name

try:
    import fcntl
except ImportError:  # not on Windows, where runs are not locked
    fcntl = None  # type: ignore[assignment]

Resume = bool | Literal["auto"]
"""Whether a run goes on from its newest checkpoint: it does, it does not, or (``auto``) it does where there is one"""

# What is read of a checkpoint on resuming, and of each epoch in its history.
_STATE: dict[str, Any] = dict.fromkeys(("student", "distiller", "optimizer", "scheduler"), dict)
_STATE |= dict.fromkeys(("averages", "rng", "history"), list)
_STATE |= dict.fromkeys(("epoch", "step", "skipped"), int)
_STATE |= dict.fromkeys(("seconds", "rate"), int | float)
_STATE |= {"config": str, "teacher_hash": str | None, "average": dict | None, "buffers": list | None}
_STATE |= {"plugins": dict | None, "data": dict | None}
_ROW = {"epoch", "lr", "train_top1", "train_loss", "test_top1", "test_top5", "test_loss"}


def run_folder(config: CfgNode) -> Path:
    """``<LOG.PREFIX>/<PROJECT>/<NAME>``, the last two made fit to be file names."""
    return Path(config.LOG.PREFIX) / file_name(config.EXPERIMENT.PROJECT) / file_name(config.EXPERIMENT.NAME)


def lock_folder(folder: Path) -> Callable[[], None]:
    """Claim a run folder for this process; returns what gives it free again. A process that ends in any way gives it free.

    The lock is a file beside the folder, since the folder may be moved aside. Raises ConfigError that names the owner's host
    and process.
    """
    path = folder.with_name(f".{folder.name}.lock")
    if fcntl is None:
        return lambda: None
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError(f"the run folder {folder} cannot be made: {error.strerror}") from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's not shared with workers, who may outlive us
        except BlockingIOError as error:
            owner = os.read(file, 200).decode(errors="replace").strip() or "another process"
            os.close(file)
            raise ConfigError(
                f"the run folder {folder} is in use by {owner}: wait for it, or choose another EXPERIMENT.NAME"
            ) from error
        except OSError as error:
            warnings.warn(f"{path.parent} has no file locks ({error.strerror}): see to it that no other run uses it", Note, 2)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):  # its owner before may have removed it in this moment
                break
        os.close(file)
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def free() -> None:
        with contextlib.suppress(OSError):  # a disk that has become read-only: an unlocked file is no obstacle
            path.unlink()
        os.close(file)

    return free


def prepare_folder(folder: Path, config: CfgNode, *, resume: Resume) -> tuple[Path, dict[str, Any]] | None:
    """Make the run folder ready; returns the checkpoint to go on from, file and content, if there is any.

    An earlier run in the folder is moved aside, never overwritten. Raises ConfigError when a resumed run's settings differ,
    CorruptFileError when there is no checkpoint but damaged ones.
    """
    if resume is True:
        check_resumable(folder)
    if resume:
        newest = _newest_checkpoint(folder)
        for half_written in folder.glob(".*.tmp"):  # by a run that was killed
            half_written.unlink()
        if newest is not None:
            changed = changed_settings(newest[1]["config"], config)
            if changed:
                raise ConfigError(
                    f"the run in {folder} was started with other settings ({listing(changed, '; ')}). "
                    f"Resume it with --cfg {from_here(folder / 'config.yaml')}, or start a new run"
                )
            return newest
    try:
        # With `auto`, one that has not saved anything yet is the same run.
        if folder.exists() and any(folder.iterdir()) and not (resume == "auto" and (folder / "config.yaml").exists()):
            aside = next(p for n in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())
            folder.rename(aside)
            print(f"an earlier run is kept as {aside}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be made: {error.strerror}") from error
    checkpoint.write_atomically(folder / "config.yaml", config.dump().encode())
    return None


def check_resumable(folder: Path) -> None:
    """Raise MissingFileError where there is no checkpoint to go on from."""
    if not _checkpoints(folder):
        latest = (folder / "latest").absolute()
        raise MissingFileError(f"nothing to resume: no checkpoint {latest}. Start the run without --resume")


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first but for ``best``, whose epoch its name does not tell."""
    numbered = [path for path in folder.glob("epoch_*") if re.fullmatch(r"epoch_\d+", path.name)]  # not epoch_2.damaged
    kept = sorted(numbered, key=lambda path: int(path.name.removeprefix("epoch_")), reverse=True)
    return [path for path in (folder / "latest", folder / "previous", *kept, folder / "best") if path.is_file()]


def keep_plugins(folder: Path, sources: Mapping[str, bytes]) -> None:
    """Keep the sources of plug-ins, by file name, in ``plugins/`` of the run folder."""
    place = folder / "plugins"
    if place.is_symlink():  # in a folder that came from elsewhere
        place.unlink()
    for name, source in sources.items():
        place.mkdir(exist_ok=True)
        checkpoint.write_atomically(place / name, source)


def changed_plugins(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Notes on the plug-ins, file name -> SHA-256, that a run no longer loads, or loads now. Raises ConfigError for another
    file of the same name.
    """
    for name in now:
        if before.get(name, now[name]) != now[name]:
            raise ConfigError(
                f"plugin {name} is not the one that the run in {folder} began with (SHA-256 {str(before[name])[:12]}..., now "
                f"{now[name][:12]}...): restore it from {folder / 'plugins' / name}, or start a new run"
            )
    notes = [f"the run began with plugin {name}, which is not loaded now" for name in before if name not in now]
    return notes + [f"the run began without plugin {name}" for name in now if name not in before]


def _newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole. Damaged ones are renamed, so that a new ``latest`` does not push out a good one."""
    damaged: dict[Path, CorruptFileError] = {}
    for path in _checkpoints(folder):
        try:
            state: dict[str, Any] = checkpoint.load(path)
            try:
                _check_state(state)
            except ValueError as error:
                raise CorruptFileError(f"{path} is no checkpoint of a run ({error}): nothing can go on from it") from error
        except CorruptFileError as error:
            damaged[path] = error
            continue
        within = f", step {state['step']}" if state["step"] else ""
        for file, why in damaged.items():
            aside = file.with_name(f"{file.name}.damaged")
            os.replace(file, aside)
            what = str(why).removesuffix(checkpoint.REMEDY)
            warnings.warn(f"{what}. It is kept as {aside}; going on after epoch {state['epoch']}{within}: {path}", Note, 2)
        if path.name != "latest":  # of a run that has nothing more to train, none would be saved
            checkpoint.write_atomically(folder / "latest", path.read_bytes())
        return path, state
    if damaged:
        raise next(iter(damaged.values()))
    return None


def _check_state(state: Any) -> None:
    """Raise ValueError unless ``state`` has the form of a trainer's state; what its entries hold is seen on loading them."""
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}")
    for key, kind in _STATE.items():
        if not isinstance(state.get(key), kind):
            raise ValueError(f"its {key} is {type(state[key]).__name__}" if key in state else f"it has no {key}")
    differences(state["config"], state["config"])  # readable
    history = state["history"]
    if len(history) != state["epoch"] or not all(isinstance(row, dict) and row.keys() >= _ROW for row in history):
        raise ValueError("its history is not that of its epochs")
    if not all(isinstance(value, int | float) for row in history for value in row.values()):
        raise ValueError("its history holds other things than numbers")
