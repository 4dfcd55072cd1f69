"""Plan of a study: from STUDY.yaml or options to its runs, each with its configuration loaded and checked."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..config import Dialect, flatten_strictly, load_config, read_settings
from ..errors import ConfigError, MissingFileError, UnknownNameError, UserError, did_you_mean, listing, shown
from ..naming import file_name
from ..project import find_file, program_words
from ..run import run_folder

_KEYS = ("NAME", "OUT", "BASELINE", "SEEDS", "SET", "RUNS")
_RUN_KEYS = ("CFG", "NAME", "SET")
_OF_THE_STUDY = {
    "EXPERIMENT.SEED": "SEEDS or --seeds",
    "EXPERIMENT.PROJECT": "NAME, OUT or --out",
    "LOG.PREFIX": "OUT or --out",
}
Values = dict[str, list[Any]]
"""Values of settings by dotted names, each at least one; several stand for a product"""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study.

    Attributes:
        cfg: yaml file.
        overrides: settings over the file's as words, KEY VALUE, without those that the study gives to every run.
        seed: ``EXPERIMENT.SEED``.
        label: the name that STUDY.yaml gives to the configuration.
        config: the configuration as ``train.py`` loads it.
        command: the command line.
    """

    cfg: str
    overrides: tuple[str, ...]
    seed: int
    label: str | None
    config: CfgNode
    command: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return run_folder(self.config)

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return self.folder.name

    @property
    def epochs(self) -> int:
        """``SOLVER.EPOCHS``."""
        return int(self.config.SOLVER.EPOCHS)

    def __str__(self) -> str:
        overrides = " ".join(self.overrides)
        return f"{self.label or self.cfg}{f', {overrides}' if overrides else ''}, seed {self.seed}"


@dataclass
class Study:
    """Runs that are compared, in one folder.

    Attributes:
        folder: ``<LOG.PREFIX>/<EXPERIMENT.PROJECT>`` of all runs.
        baseline: label or method that a report compares the others with.
    """

    name: str
    folder: Path
    baseline: str | None
    runs: list[PlannedRun]


@dataclass
class _Draft:
    """What STUDY.yaml says; ``runs`` are the file, the label and the settings of each."""

    name: str | None = None
    out: str | None = None
    baseline: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    settings: Values = field(default_factory=dict)
    runs: list[tuple[str, str | None, Values]] = field(default_factory=list)


def plan_study(
    file: str | None,
    cfgs: Sequence[str] = (),
    *,
    seeds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
    out: str | None = None,
    options: Sequence[str] = (),
    dialect: Dialect | None = None,
) -> Study:
    """Plan the runs of a study file or, without one, of configuration files; what is given besides overrides the file.

    Args:
        seeds: a run of each configuration for each of them.
        settings: ``KEY=VALUE`` or ``KEY=VALUE,VALUE,...``, a product.
        out: folder of the study.
        options: ``--plugin FILE`` and ``--upstream FOLDER`` for ``train.py``, as words.
        dialect: see :func:`load_config`.

    Raises ConfigError, UnknownNameError or MissingFileError for the first thing that is wrong with any run. Each warning about
    a configuration is issued once.
    """
    if (file is None) == (not cfgs):
        raise ConfigError("name a study by its file, STUDY.yaml, or by --cfg: one of both")
    draft = _Draft(runs=[(cfg, None, {}) for cfg in cfgs]) if file is None else _read_study(find_file(file, "studies"))
    given = _given_settings(settings)
    folder = Path(os.path.normpath(out or draft.out or Path("output") / (draft.name or "study")))
    if file_name(folder.name) != folder.name:
        raise ConfigError(
            f"the folder of a study cannot be called '{folder.name}'; choose another by OUT or --out, such as "
            f"{folder.with_name(file_name(folder.name)) if folder.name else 'output/study'}"
        )
    shared = ["LOG.PREFIX", str(folder.parent), "EXPERIMENT.PROJECT", folder.name]
    runs: dict[Path, PlannedRun] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for cfg, label, own in draft.runs:
            for words in _product(draft.settings | own | given):
                for seed in draft.seeds if seeds is None else seeds:
                    command = [*program_words("train.py"), "--cfg", cfg, "--resume", "auto", "--seed", str(seed), *options]
                    try:
                        config = load_config(cfg, [*words, *shared, "EXPERIMENT.SEED", seed], dialect=dialect)
                    except UserError as error:
                        raise ConfigError(f"run '{label or cfg}' of the study: {error}") from error
                    run = PlannedRun(cfg, tuple(words), seed, label, config, (*command, *words, *shared))
                    twin = runs.setdefault(run.folder, run)
                    if twin is not run:
                        raise ConfigError(
                            f"two runs have the same folder, {run.folder}: '{twin}' and '{run}'. Take one out, or give them "
                            "different settings, such as EXPERIMENT.TAG"
                        )
    for text, category in {str(each.message): each.category for each in caught}.items():
        warnings.warn(text, category, stacklevel=2)
    return Study(draft.name or folder.name, folder, draft.baseline, list(runs.values()))


def _product(settings: Values) -> Iterator[list[str]]:
    """Yield every choice of one value per setting, as words KEY VALUE."""
    for values in itertools.product(*settings.values()):
        yield [word for key, value in zip(settings, values, strict=True) for word in (key, _as_word(value))]


def _as_word(value: Any) -> str:
    """A value as load_config parses it from a command line; a list without spaces, as it becomes part of a folder's name."""
    return f"[{','.join(map(_as_word, value))}]" if isinstance(value, list) else str(value)


# ---- options ------------------------------------------------------------------------------------------------------


def _given_settings(words: Sequence[str]) -> Values:
    """Return the settings of ``KEY=VALUE,VALUE`` words."""
    settings: Values = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set takes KEY=VALUE or KEY=VALUE,VALUE, not {shown(word)}")
        if key in settings:
            raise ConfigError(f"--set names {key} twice; several values of a setting are --set {key}=VALUE,VALUE")
        settings[key] = _split(values)
    return _checked(settings, "--set")


def _split(text: str) -> list[str]:
    """Split at commas, except within brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _checked(settings: Mapping[str, Any], where: str) -> Values:
    """Return the values of each setting as a list. Raises ConfigError for settings that a study gives to its runs."""
    for key, value in settings.items():
        if key in _OF_THE_STUDY:
            raise ConfigError(f"{key} in {where}: a study sets it by {_OF_THE_STUDY[key]}")
        if value == []:
            raise ConfigError(f"{key} in {where} has no value; an empty list as its value is [[]]")
    return {key: value if isinstance(value, list) else [value] for key, value in settings.items()}


# ---- STUDY.yaml ---------------------------------------------------------------------------------------------------


def _read_study(path: Path) -> _Draft:
    if not path.is_file():
        raise MissingFileError(f"study file not found: {path.absolute()}")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ConfigError(f"{path} is not readable yaml: {error}") from error
    where = str(path)
    values, settings = _split_keys(read_settings(text, where), _KEYS, where)
    texts = {key: _typed(values, key, str, where) for key in ("NAME", "OUT", "BASELINE")}
    runs = []
    for number, run in enumerate(_typed(values, "RUNS", list, where) or [], start=1):
        place = f"run {number} of {where}"
        if not isinstance(run, dict):
            raise ConfigError(f"{place} must hold {listing(_RUN_KEYS)}, not {shown(run)}")
        own, own_settings = _split_keys(flatten_strictly(run, place), _RUN_KEYS, place)
        cfg = _typed(own, "CFG", str, place)
        if cfg is None:
            raise ConfigError(f"{place} has no CFG, the yaml file of its configuration")
        beside = path.parent / cfg  # as _BASE_: beside the file, or else in the working directory
        runs.append((str(beside) if beside.is_file() else cfg, _typed(own, "NAME", str, place), own_settings))
    if not runs:
        raise ConfigError(f"{where} has no RUNS, a list of CFG, NAME and SET")
    labels = [label for _, label, _ in runs if label is not None]
    baseline = texts["BASELINE"]
    if baseline is not None and len(labels) == len(runs) and baseline not in labels:
        raise UnknownNameError(f"BASELINE in {where} is no NAME of its RUNS: '{baseline}'{did_you_mean(baseline, labels)}")
    seeds = values.get("SEEDS", [0])
    seeds = seeds if isinstance(seeds, list) else [seeds]
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"SEEDS in {where} must be a list of whole numbers, not {shown(values['SEEDS'])}")
    name = texts["NAME"] or path.stem
    return _Draft(name, texts["OUT"], baseline, seeds, settings, runs)


def _split_keys(settings: Mapping[str, Any], known: Sequence[str], where: str) -> tuple[dict[str, Any], Values]:
    """Split what a file says into the values of ``known`` keys and the settings in the group ``SET``."""
    values = {key: value for key, value in settings.items() if not key.startswith("SET.")}
    for key in values:
        if key not in known:
            first = key.split(".")[0]
            unknown = key if first in known else first
            raise UnknownNameError(f"unknown key {unknown} in {where}{did_you_mean(unknown, known)} Known: {listing(known)}")
    if values.get("SET") is not None:
        raise ConfigError(f"SET in {where} must be a group of settings, KEY: value, not {shown(values['SET'])}")
    group = {key.removeprefix("SET."): value for key, value in settings.items() if key.startswith("SET.")}
    return values, _checked(group, where)


def _typed(values: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """Return a value of a type, or None where it is left out."""
    value = values.get(key)
    if value is not None and not isinstance(value, kind):
        raise ConfigError(f"{key} in {where} must be {'text' if kind is str else 'a list'}, not {shown(value)}")
    return value
