"""Progress of a study: a live display on a terminal, otherwise a line for each start and end of a run."""

from __future__ import annotations

import datetime
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .record import Entry, Record


class Progress:
    """Prints a line when a run starts, and one when it ends. A context manager.

    Args:
        record: the states of the runs, read at every :meth:`refresh`.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self._states = {name: entry.state for name, entry in record.entries.items()}

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def refresh(self) -> None:
        """Show what has changed."""
        for entry in self._changed():
            self.print(f"{entry.state:<8}  {describe(entry, self.record)}")

    def print(self, line: str) -> None:
        """Print a line."""
        print(line, flush=True)

    def _changed(self) -> Iterator[Entry]:
        for name, entry in self.record.entries.items():
            if entry.state != self._states[name]:
                self._states[name] = entry.state
                if entry.state != "waiting":
                    yield entry


class LiveProgress(Progress):
    """A line for the study and one for every running run, redrawn in place; a line for each end of a run is printed above."""

    def __init__(self, record: Record, console: Console | None = None) -> None:
        super().__init__(record)
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._pace = Pace(record)

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def refresh(self) -> None:
        self._pace.measure()
        for entry in self._changed():
            if entry.state != "running":
                self._console.print(f"{entry.state:<8}  {describe(entry, self.record)}", markup=False, soft_wrap=True)
        self._live.update(Group(self._study_line(), self._run_lines()), refresh=True)

    def _study_line(self) -> Text:
        record, pace = self.record, self._pace
        planned = [record.entries[run.name] for run in record.study.runs]
        counts = {state: sum(entry.state == state for entry in planned) for state in ("running", "failed", "diverged")}
        parts = [f"{sum(entry.state == 'finished' for entry in planned)}/{len(planned)} runs finished"]
        parts += [f"{count} {state}" for state, count in counts.items() if count or state == "running"]
        parts.append(f"epoch {pace.done}/{pace.done + pace.left}")
        seconds = pace.seconds_left()
        parts.append(f"expected end {clock_time(seconds)}" if seconds is not None else "expected end unknown yet")
        return Text(f"{record.study.name}: {', '.join(parts)}", style="bold", no_wrap=True, overflow="ellipsis")

    def _run_lines(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for _ in range(4):
            table.add_column(no_wrap=True, justify="right")
        for run in self.record.study.runs:
            if self.record.entries[run.name].state != "running":
                continue
            pace = self._pace.runs[run.name]
            seconds = None if pace.seconds_per_epoch is None else pace.seconds_per_epoch * (run.epochs - pace.epoch)
            left = "" if seconds is None else f"{datetime.timedelta(seconds=round(seconds))} left"
            top1 = "" if pace.top1 is None else f"{pace.top1:.2f} %"
            bar = ProgressBar(total=run.epochs, completed=pace.epoch, width=16)
            table.add_row(run.name, bar, f"epoch {pace.epoch}/{run.epochs}", top1, left)
        return table


@dataclass
class RunPace:
    """Epochs of a run, and how long they take.

    Attributes:
        epoch: number of completed epochs.
        top1: test accuracy after the last one, in percent.
        seconds_per_epoch: mean over the epochs that were seen to end; None before the second.
    """

    epoch: int = 0
    top1: float | None = None
    seconds_per_epoch: float | None = None
    seen: tuple[float, int] | None = None  # time and number of the first epoch that was seen to end


class Pace:
    """Measures how fast a study's runs go through their epochs.

    Attributes:
        done: epochs of all runs so far; a run that diverged counts as far as it got.
        left: epochs of the runs that have not ended.
        runs: by name.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self.runs: dict[str, RunPace] = {}
        for run in record.study.runs:
            self.runs[run.name] = RunPace(len(record.test_top1(run.name)))
        self._began, self._before = time.monotonic(), sum(pace.epoch for pace in self.runs.values())
        self.measure()

    def measure(self) -> None:
        """Read how far the runs are."""
        now = time.monotonic()
        self.done = self.left = 0
        for run in self._record.study.runs:
            pace, entry = self.runs[run.name], self._record.entries[run.name]
            if pace.epoch < run.epochs or pace.top1 is None:
                top1 = self._record.test_top1(run.name)
                if len(top1) > pace.epoch:
                    if pace.seen is None:
                        pace.seen = now, len(top1)
                    else:
                        pace.seconds_per_epoch = (now - pace.seen[0]) / (len(top1) - pace.seen[1])
                pace.epoch, pace.top1 = len(top1), top1[-1] if top1 else None
            self.done += pace.epoch
            if entry.state not in ("finished", "failed", "diverged"):
                self.left += run.epochs - pace.epoch

    def seconds_left(self) -> float | None:
        """Time until the last run ends, at the pace of this process so far; None while no epoch has ended."""
        done = self.done - self._before
        return self.left * (time.monotonic() - self._began) / done if done > 0 else None


def describe(entry: Entry, record: Record) -> str:
    """A run's name, its accuracy if it has ended, and the beginning of its error."""
    top1 = record.test_top1(entry.name) if entry.state != "running" else []
    accuracy = f": last {top1[-1]:.2f} %, best {max(top1):.2f} %" if top1 else ""
    error = f" ({textwrap.shorten(entry.error, 100)})" if entry.error else ""
    return f"{entry.name}{accuracy}{error}"


def clock_time(seconds: float) -> str:
    """The time of day in so many seconds, with the date unless it is today's."""
    now = datetime.datetime.now()
    end = now + datetime.timedelta(seconds=seconds)
    return end.strftime("%H:%M" if end.date() == now.date() else "%a %d %b %H:%M")
