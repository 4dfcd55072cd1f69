"""Scalars for TensorBoard, written when they are given.

tensorboardX's SummaryWriter hands events to a thread; when that thread meets a full disk it dies, and the training waits for
it for ever. Here the same events (its protocol buffers) are appended in the calling thread, so an error is an error.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from ..errors import TrainingError


class ScalarWriter:
    """An event file in ``folder``.

    Args:
        first_step: TensorBoard hides what earlier files in the folder say of this step and later ones.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._file = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{first_step}"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise TrainingError(f"cannot make {folder}: {error.strerror}") from error
        self._start = [
            Event(wall_time=time.time(), file_version="brain.Event:2"),
            Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)),
        ]  # written before the first scalars: a run that was finished already leaves no file

    def add(self, scalars: dict[str, float], step: int) -> None:
        """Append one value of each scalar. Raises TrainingError when the file cannot be written."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._append(*self._start, Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._start = []

    def _append(self, *events: Event) -> None:
        try:
            with open(self._file, "ab") as file:
                file.write(b"".join(_record(event.SerializeToString()) for event in events))
        except OSError as error:
            raise TrainingError(f"cannot write {self._file}: {error.strerror}") from error


def _record(data: bytes) -> bytes:
    """A TFRecord: length, its checksum, data, its checksum."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
