"""study.json: the state of every run of a study."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..checkpoint import write_atomically
from ..config import changes_refused_on_resume
from ..errors import ConfigError, CorruptFileError, from_here, listing
from .plan import PlannedRun, Study
from .process import is_running

VERSION = 1


@dataclass
class Entry:
    """State of a run.

    Attributes:
        name: of its folder.
        state: waiting, running, stopped, finished, failed or diverged.
        error: one line, of a run that failed or diverged.
        attempts: number of times that it was started.
        job: id of its Slurm job in the queue, if there is one.
    """

    name: str
    label: str | None
    cfg: str
    overrides: list[str]
    seed: int
    state: str = "waiting"
    error: str | None = None
    attempts: int = 0
    job: str | None = None

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to run: a run that diverged would diverge again from the same seed."""
        return self.state in ("finished", "diverged")


class Record:
    """The states of a study's runs, and the file ``study.json`` that keeps them.

    Args:
        study: the plan.
        command: the command line, for the file.

    Attributes:
        entries: by name, the planned ones first; then those of an earlier plan whose folders are still there.

    Raises CorruptFileError for a file that is damaged, ConfigError for a run folder with other settings than planned.
    """

    def __init__(self, study: Study, command: str) -> None:
        self.study = study
        self.command = command
        self.file = study.folder / "study.json"
        self._saved = b""
        earlier = self._read()
        self.entries: dict[str, Entry] = {}
        for run in study.runs:
            _check_settings(run)
            entry = self.entries[run.name] = Entry(run.name, run.label, run.cfg, list(run.overrides), run.seed)
            before = earlier.pop(run.name, entry)
            entry.state, entry.error, entry.attempts, entry.job = before.state, before.error, before.attempts, before.job
        self.entries |= {name: entry for name, entry in earlier.items() if (study.folder / name).is_dir()}
        for entry in self.entries.values():
            self._examine(entry)

    def log(self, name: str) -> Path:
        """File with the output of all processes of a run."""
        return self.study.folder / "logs" / f"{name}.log"

    def is_finished(self, name: str) -> bool:
        """Whether the run of this name has a ``summary.json``."""
        return (self.study.folder / name / "summary.json").is_file()

    def test_top1(self, name: str) -> list[float]:
        """Test accuracy of a run after each epoch, in percent."""
        try:
            with open(self.study.folder / name / "metrics.csv", newline="", encoding="utf-8") as file:
                return [float(row["test_top1"]) for row in csv.DictReader(file)]
        except FileNotFoundError:
            return []

    def save(self) -> None:
        """Write the file, if anything changed, whole or not at all. Raises TrainingError where that fails."""
        plain = {
            "version": VERSION,
            "name": self.study.name,
            "command": self.command,
            "baseline": self.study.baseline,
            "runs": [asdict(entry) for entry in self.entries.values()],
        }
        content = (json.dumps(plain, indent=2) + "\n").encode()
        if content != self._saved:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, content)
            self._saved = content

    def _read(self) -> dict[str, Entry]:
        if not self.file.exists():
            return {}
        try:
            content = json.loads(self.file.read_bytes())
            if content["version"] != VERSION:
                raise ValueError(f"its version is {content['version']}, and not {VERSION}")
            return {entry["name"]: Entry(**entry) for entry in content["runs"]}
        except (ValueError, LookupError, TypeError) as error:
            raise CorruptFileError(
                f"{self.file} cannot be read ({error}). Without it, finished runs are found by their folders, and all others "
                "are run: delete it"
            ) from error

    def _examine(self, entry: Entry) -> None:
        """Correct the state by what is in the run's folder: the process that wrote the file may have been killed."""
        if self.is_finished(entry.name):
            entry.state, entry.error = "finished", None
        elif is_running(self.log(entry.name)):
            entry.state, entry.error = "running", None
        elif not (self.study.folder / entry.name).is_dir() and entry.state != "failed":
            entry.state, entry.error = "waiting", None
        elif entry.state in ("running", "waiting"):
            entry.state = "stopped"


def _check_settings(run: PlannedRun) -> None:
    """Raise ConfigError where the folder of a run holds one with other settings that matter for its results."""
    file = run.folder / "config.yaml"
    if not file.is_file():
        return
    changes = changes_refused_on_resume(file.read_text(encoding="utf-8", errors="replace"), run.config)
    if changes:
        raise ConfigError(
            f"the folder of run '{run}' holds a run with other settings ({listing(changes, '; ')}): delete "
            f"{from_here(run.folder)}, or choose another folder for the study by --out"
        )
