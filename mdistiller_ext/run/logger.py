"""Run logging: console, ``worklog.txt``, ``metrics.csv``, ``curves.png``, ``summary.json``, ``notes.txt``, TensorBoard and W&B.

The files are written whole from the history, so that a resumed run's files equal those of a run never stopped. Of them only
``summary.json`` and TensorBoard's hold a time. ``notes.txt`` is no function of the history: each start appends to it.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import write_atomically
from ..errors import Note
from ..trainers.state import Row
from .curves import draw_curves
from .notes import NoteRecorder
from .tensorboard import ScalarWriter

# mdistiller's names, in worklog.txt and TensorBoard, so that its runs and ours can be laid over each other.
_UPSTREAM_NAMES = {
    "train_acc": "train_top1",
    "train_loss": "train_loss",
    "test_acc": "test_top1",
    "test_acc_top5": "test_top5",
    "test_loss": "test_loss",
}


class RunLogger:
    """Writes a run's records into its folder.

    Args:
        folder: an existing run folder.
        title: what the curves are called.
        first_epoch: where this process starts; TensorBoard drops what an interrupted process wrote from there on.
        wandb_project: W&B project, or None for no W&B.
        settings: the run's configuration, shown in W&B.
        notes: recorder whose notes go to ``notes.txt`` from now on, those recorded so far included.
    """

    def __init__(
        self,
        folder: Path,
        *,
        title: str,
        first_epoch: int = 1,
        wandb_project: str | None = None,
        settings: dict[str, Any] | None = None,
        notes: NoteRecorder | None = None,
    ) -> None:
        self.folder = folder
        self.title = title
        self._notes = notes or NoteRecorder()
        self._notes.write_to(folder / "notes.txt")
        self._tensorboard = ScalarWriter(folder / "train.events", first_epoch)
        self._wandb = _start_wandb(wandb_project, title, folder, settings) if wandb_project else None

    def note(self, text: str) -> None:
        """Print a text, and keep it in ``notes.txt``."""
        print(text, flush=True)
        self._notes.add(text)

    def epoch(self, history: Sequence[Row], epochs: int, images_per_second: float) -> None:
        """Record the history, a row an epoch as in ``metrics.csv``, the last one being new."""
        row = history[-1]
        parts = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if "/" in name)
        best = max(r["test_top1"] for r in history)
        print(
            f"epoch {row['epoch']:.0f}/{epochs}  lr {row['lr']:.4g}  {parts}  train {row['train_top1']:.2f} %  "
            f"test {row['test_top1']:.2f} % (best {best:.2f})  {images_per_second:.0f} img/s",
            flush=True,
        )
        step = int(row["epoch"])
        self._write_records(history)
        scalars = {name: row[key] for name, key in _UPSTREAM_NAMES.items()}
        scalars |= {key: value for key, value in row.items() if "/" in key} | {"lr": row["lr"]}
        self._tensorboard.add(scalars, step)
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)

    def finish(self, history: Sequence[Row], summary: dict[str, Any]) -> None:
        """Write what is known at the end of a run."""
        self._write_records(history, best_acc=summary["best_top1"])
        write_atomically(self.folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        if self._wandb is not None:
            self._wandb.run.summary["best_acc"] = summary["best_top1"]

    def close(self, history: Sequence[Row]) -> None:
        """Draw the curves and end W&B's run; also for a run that was stopped."""
        try:
            if history:
                write_atomically(self.folder / "curves.png", draw_curves(history, self.title))
        finally:
            if self._wandb is not None:
                self._wandb.finish()

    def _write_records(self, history: Sequence[Row], best_acc: float | None = None) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(history[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_atomically(self.folder / "metrics.csv", table.getvalue().encode())
        rule = "-" * 25
        blocks = []
        for row in history:
            values = [f"{name}: {row[key]:.4f}" for name, key in _UPSTREAM_NAMES.items()]
            # lr in full: upstream's two decimals print 0.0005 as 0.00
            blocks.append("\n".join([rule, f"epoch: {row['epoch']:.0f}", f"lr: {row['lr']:g}", *values, rule]))
        worklog = "\n".join(blocks) + "\n" + (f"best_acc\t{best_acc:.2f}" if best_acc is not None else "")
        write_atomically(self.folder / "worklog.txt", worklog.encode())


def _start_wandb(project: str, name: str, folder: Path, settings: dict[str, Any] | None) -> Any:
    """The wandb module with a run started, or None with a note: a failure of W&B does not stop training."""
    try:
        import wandb

        wandb.init(project=project, name=name, dir=str(folder), config=settings)
    except Exception as error:
        warnings.warn(f"W&B is not used: {type(error).__name__}: {error}. Install it with: pip install wandb", Note, 3)
        return None
    return wandb
