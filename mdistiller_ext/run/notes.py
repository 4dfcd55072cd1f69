"""Notes of a run, in memory until its folder exists and in a file of that folder from then on."""

from __future__ import annotations

import contextlib
import datetime
import warnings
from pathlib import Path
from typing import Any

from ..checkpoint import write_atomically
from ..errors import Note, one_line


class NoteRecorder:
    """Records texts with the time, a line each. As a context manager it also records every Note shown as a warning."""

    def __init__(self) -> None:
        self._lines: list[str] = []  # while there is no file
        self._file: Path | None = None

    def __enter__(self) -> NoteRecorder:
        self._show = warnings.showwarning

        def show_and_record(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            self._show(message, category, *place, **more)
            if issubclass(category, Note):
                self.add(str(message))

        warnings.showwarning = show_and_record
        return self

    def __exit__(self, *error: object) -> None:
        warnings.showwarning = self._show

    def add(self, text: str) -> None:
        """Record a text."""
        line = f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')} {one_line(text)}\n"
        if self._file is None:
            self._lines.append(line)
            return
        with contextlib.suppress(OSError), open(self._file, "a", encoding="utf-8") as file:  # checkpoints tell of a full disk
            file.write(line)

    def write_to(self, file: Path) -> None:
        """Append what was recorded to a file, and from now on all that follows. Raises TrainingError where that fails."""
        before = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
        write_atomically(file, before + "".join(self._lines).encode())
        self._lines, self._file = [], file
