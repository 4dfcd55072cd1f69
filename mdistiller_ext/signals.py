"""SIGTERM, SIGINT and SIGHUP as a wish that the work in progress ends well, instead of an exception anywhere in it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_HANG_UP: int | None = getattr(signal, "SIGHUP", None)  # None on Windows


class StopWish:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.made = False

    def _make(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C is from somebody who does not want to wait. SIGTERM comes twice where a scheduler sends it to every
        # process and torchrun passes it on.
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.made = True
        if number == _HANG_UP:
            _discard_output_to_closed_terminal()


@contextlib.contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Collect these signals while the block runs; a second SIGINT raises KeyboardInterrupt.

    A SIGHUP that is ignored, as under nohup, stays ignored. Outside the main thread Python gives no signals: there the wish is
    never made.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    numbers: list[int] = [signal.SIGTERM, signal.SIGINT]
    if _HANG_UP is not None and signal.getsignal(_HANG_UP) is not signal.SIG_IGN:
        numbers.append(_HANG_UP)
    before = {number: signal.signal(number, wish._make) for number in numbers}
    try:
        yield wish
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
