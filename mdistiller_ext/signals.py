"""SIGTERM and SIGINT as a wish that the work in progress ends well, instead of an exception anywhere in it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


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


@contextlib.contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Collect the two signals while the block runs; a second SIGINT raises KeyboardInterrupt.

    Outside the main thread Python gives no signals: there the wish is never made.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.signal(number, wish._make) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
