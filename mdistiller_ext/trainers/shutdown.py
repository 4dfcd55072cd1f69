"""Graceful shutdown: SIGTERM, SIGINT and SIGHUP set a flag that the training loop reads, instead of raising anywhere in it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGHUP: int | None = getattr(signal, "SIGHUP", None)  # None on Windows


class ShutdownRequest:
    """Whether this process was asked to stop: ``made`` is set by the signal handlers."""

    def __init__(self) -> None:
        self.made = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C aborts. SIGTERM may come twice: a scheduler sends it to every process, and torchrun forwards it.
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.made = True
        if number == _SIGHUP:
            _discard_output_to_closed_terminal()


@contextlib.contextmanager
def shutdown_request() -> Iterator[ShutdownRequest]:
    """Handle these signals while the block runs; a second SIGINT raises KeyboardInterrupt.

    An ignored SIGHUP, as under nohup, stays ignored. Outside the main thread, where Python runs no signal handlers, no request
    is ever made.
    """
    request = ShutdownRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers: list[int] = [signal.SIGTERM, signal.SIGINT]
    if _SIGHUP is not None and signal.getsignal(_SIGHUP) is not signal.SIG_IGN:
        numbers.append(_SIGHUP)
    before = {number: signal.signal(number, request._handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _discard_output_to_closed_terminal() -> None:
    """Redirect stdout and stderr to the null device where the terminal behind them is closed.

    Printing would raise an OSError before the run is saved.
    """
    for descriptor in (1, 2):
        closed = select.poll()
        closed.register(descriptor, 0)  # errors and hang-ups alone
        if closed.poll(0):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
