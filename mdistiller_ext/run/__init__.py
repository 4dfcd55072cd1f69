"""Run folders: lock, checkpoints, the newest of them, logs, provenance."""

from .folder import Run, run_folder
from .identity import RunIdentity
from .lock import locked, owner
from .notes import NoteRecorder
from .resume import Resume, check_resumable, load_checkpoint

__all__ = [
    "NoteRecorder",
    "Resume",
    "Run",
    "RunIdentity",
    "check_resumable",
    "load_checkpoint",
    "locked",
    "owner",
    "run_folder",
]
