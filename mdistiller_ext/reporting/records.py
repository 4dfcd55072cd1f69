"""Read run folders, of this and earlier versions of this project, and the ``study.json`` beside them."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from .. import checkpoint
from ..config import default_config, load_config, read_settings
from ..data import DataIdentity
from ..errors import ConfigError, CorruptFileError, MissingFileError, UserError
from ..naming import file_name
from ..project import SCRIPT

_RUN_FILES = frozenset(["metrics.csv", "summary.json", "provenance.json", "latest", "previous", "best"])


@dataclass(frozen=True)
class Run:
    """What is known of a run. What its folder lacks is empty or None.

    Attributes:
        name: name of its folder, or of the run that a study has planned.
        folder: None for a run without one.
        config: settings; those that the run's version did not have are at their defaults. None where they cannot be read.
        state: ``finished`` if there is a ``summary.json``, else what the study says, else ``unfinished``.
        error: one line, from the study.
        label: name of the method that the study gives.
        history: rows of ``metrics.csv``.
        starts: entries of ``provenance.json``.
        data: fingerprint of the data set: number of ``classes``, and ``images`` and ``sha256`` of ``train`` and ``test``.
        teacher_sha256: hash of the teacher's file.
    """

    name: str
    folder: Path | None
    config: CfgNode | None
    state: str
    error: str | None = None
    label: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] | None = None
    teacher_sha256: str | None = None

    @property
    def finished(self) -> bool:
        """Whether it has a ``summary.json``."""
        return self.state == "finished"

    @property
    def seed(self) -> int:
        """``EXPERIMENT.SEED``; 0 where the settings cannot be read."""
        return int(self.config.EXPERIMENT.SEED) if self.config is not None else 0

    @property
    def where(self) -> str:
        """Its folder, or its name if it has none."""
        return str(self.folder or self.name)

    @property
    def command(self) -> str | None:
        """Command of the last start, as one would type it in the directory where it ran."""
        if not self.starts or not isinstance(self.starts[-1].get("command"), str):
            return None
        program, *words = shlex.split(self.starts[-1]["command"])
        if words and Path(words[0]).name == SCRIPT:  # which runs itself by its Python
            program, *words = words
        here = f"{self.starts[-1].get('directory')}/"
        return shlex.join([Path(program).name, *(word.removeprefix(here) for word in words)])


@dataclass
class Records:
    """All that was found: runs, those of a study in its order, the studies' names and baselines, and notes on what is wrong."""

    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    baselines: list[str] = field(default_factory=list)


def read_records(folders: Sequence[Path]) -> Records:
    """Read all runs and studies in ``folders``, searched recursively. Raises MissingFileError where there is none."""
    records = Records()
    found: dict[Path, set[str]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise MissingFileError(f"no such folder: {folder.absolute()}; name run folders, or folders that hold them")
        for path, below, files in os.walk(folder):
            found.setdefault(Path(path), set(files))
            below[:] = [] if _is_run(set(files)) else sorted(below)
    folders_of_runs = [place for place, files in found.items() if _is_run(files)]
    studies = [place for place, files in found.items() if "study.json" in files]
    studies += [place.parent for place in folders_of_runs if (place.parent / "study.json").is_file()]
    planned: dict[Path, tuple[dict[str, Any], bool]] = {}  # entries by run folder, and whether all of their study is reported
    for place in dict.fromkeys(studies):
        for entry in _read_study(place, records):
            planned[place / file_name(entry["name"])] = (entry, place in found)
    by_path: dict[Path, Run | None] = {}
    for folder in sorted(folders_of_runs):
        entry, _ = planned.get(folder, ({}, True))
        by_path.setdefault(folder.resolve(), _read_run(folder, entry, records.notes))
    for folder, (entry, whole) in planned.items():
        run = by_path.pop(folder.resolve(), None)
        if run is None and whole:
            run = _missing_run(entry, records.notes)
        records.runs += [run] if run is not None else []
    records.runs += [run for run in by_path.values() if run is not None]
    if not records.runs:
        where = ", ".join(str(folder.absolute()) for folder in folders)
        raise MissingFileError(
            f"no run in {where}: a run folder holds config.yaml and metrics.csv, and is made by train.py"
            + "".join(f"; {note}" for note in records.notes)
        )
    return records


def _is_run(files: set[str]) -> bool:
    return "config.yaml" in files and bool(files & _RUN_FILES)


# ---- studies ------------------------------------------------------------------------------------------------------


def _read_study(folder: Path, records: Records) -> Iterator[dict[str, Any]]:
    """Yield the entries of a folder's ``study.json``, and record its name and baseline."""
    try:
        study = _read_json(folder / "study.json", dict)
        entries = study.get("runs")
        if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries):
            raise CorruptFileError(f"{folder / 'study.json'} has no list of runs with their names")
    except CorruptFileError as error:
        records.notes.append(str(error))
        return
    records.names.append(str(study.get("name") or folder.name))
    records.baselines += [study["baseline"]] if isinstance(study.get("baseline"), str) else []
    yield from entries


def _missing_run(entry: dict[str, Any], notes: list[str]) -> Run:
    """A run that a study has planned, and that has no folder."""
    config = None
    try:
        with warnings.catch_warnings():  # of its settings, shown where it is run
            warnings.simplefilter("ignore")
            overrides = [*(entry.get("overrides") or ()), "EXPERIMENT.SEED", entry.get("seed", 0)]
            config = load_config(entry.get("cfg"), overrides)
    except UserError as error:
        notes.append(f"the settings of {entry['name']}, which has no folder, cannot be read: {error}")
    state = entry.get("state")
    state = "unfinished" if state == "finished" else str(state or "waiting")
    return Run(entry["name"], None, config, state, error=_text(entry.get("error")), label=_text(entry.get("label")))


# ---- run folders --------------------------------------------------------------------------------------------------


def _read_run(folder: Path, entry: dict[str, Any], notes: list[str]) -> Run | None:
    """Read a run folder; None, with a note, for one that was moved aside or whose settings cannot be read."""

    def read(file: str, kind: type) -> Any:
        """Content of a JSON file; an empty one, with a note if it is damaged."""
        try:
            return _read_json(folder / file, kind) if (folder / file).is_file() else kind()
        except CorruptFileError as error:
            notes.append(str(error))
            return kind()

    try:
        config = _read_config(folder / "config.yaml")
        history = _read_metrics(folder / "metrics.csv")
    except ConfigError as error:
        notes.append(f"{folder} is left out: {error}")
        return None
    except CorruptFileError as error:
        notes.append(str(error))
        history = []
    aside = re.fullmatch(r"(.+)\.\d+", folder.name)
    if aside and aside[1] == file_name(config.EXPERIMENT.NAME) and folder.with_name(aside[1]).is_dir():
        notes.append(f"{folder} is left out: it was moved aside by a later run of that name")
        return None
    numbers = (item for item in read("summary.json", dict).items() if isinstance(item[1], int | float))
    summary = {key: value for key, value in numbers if math.isfinite(value)}
    starts = [start for start in read("provenance.json", list) if isinstance(start, dict)]
    known = next((start for start in reversed(starts) if isinstance(start.get("data"), dict)), None)
    data, teacher = (known["data"], known.get("teacher_sha256")) if known else _from_checkpoint(folder / "latest", notes)
    state = str(entry.get("state") or "unfinished")
    if {"best_top1", "last_top1"} <= summary.keys():
        state = "finished"
    elif state == "finished":
        state = "unfinished"
    return Run(
        folder.name,
        folder,
        config,
        state,
        error=None if state == "finished" else _text(entry.get("error")),
        label=_text(entry.get("label")),
        history=history,
        summary=summary,
        starts=starts,
        data=data,
        teacher_sha256=teacher,
    )


def _read_config(file: Path) -> CfgNode:
    """Read a run's settings over the defaults, whether or not this version knows them. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not readable yaml: {error}") from error
    config = default_config()
    for name, value in read_settings(text, str(file)).items():
        *groups, leaf = name.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, CfgNode())
            if not isinstance(node, CfgNode):
                raise ConfigError(f"{file}: {group} of {name} is not a group of settings")
        if isinstance(node.get(leaf), CfgNode) or type(node.get(leaf, value)) not in (type(value), float, type(None)):
            raise ConfigError(f"{file}: {name} cannot be {value!r}")
        node[leaf] = value
    config.setdefault(config.DISTILLER.TYPE, CfgNode())  # of a plug-in's method without settings
    return config


def _read_metrics(file: Path) -> list[dict[str, float]]:
    """Rows of ``metrics.csv``, none where there is no file. Raises CorruptFileError."""
    if not file.is_file():
        return []
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
        if any(not {"epoch", "test_top1"} <= row.keys() for row in rows):
            raise ValueError("a column is missing")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise CorruptFileError(f"{file} is damaged or no table of metrics: {error}") from error
    return rows


def _from_checkpoint(file: Path, notes: list[str]) -> tuple[dict[str, Any] | None, str | None]:
    """Fingerprint of the data and hash of the teacher, from a checkpoint of a version that did not record them otherwise."""
    try:
        saved = checkpoint.load(file) if file.is_file() else {}
    except UserError as error:
        notes.append(str(error))
        saved = {}
    saved = saved if isinstance(saved, dict) else {}
    identity = DataIdentity.from_plain(saved.get("data"))
    return None if identity is None else identity.fingerprint(), _text(saved.get("teacher_hash"))


def _read_json(file: Path, kind: type) -> Any:
    """Content of a JSON file. Raises CorruptFileError unless it is of a type."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptFileError(f"{file} is damaged: {error}") from error
    if not isinstance(content, kind):
        raise CorruptFileError(f"{file} is damaged: it holds a {type(content).__name__}, not a {kind.__name__}")
    return content


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
