"""Load a configuration: yaml files and command-line overrides merged over the defaults, checked, named and frozen."""

from __future__ import annotations

import ast
import contextlib
import itertools
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from ..data import InMemoryDataset
from ..distillers import check_hyper_parameters
from ..errors import ConfigError, ConfigWarning, UnknownNameError, did_you_mean, listing, shown
from ..naming import experiment_name
from ..registry import DATASETS, DISTILLERS, TRAINERS
from ..settings import Setting
from .reading import StrictLoader, flatten, read_files
from .schema import GROUPS, all_settings, config_tree, having, hyper_parameters
from .upstream import OTHER_METHODS, translate

Schema = Mapping[str, Setting]
Dialect = Callable[[dict[str, Any], str], dict[str, Any]]
"""Settings of one source by dotted names, and the run's DISTILLER.TYPE as it is written -> the settings to merge"""


def load_config(
    path: str | os.PathLike[str] | None,
    overrides: Sequence[Any] = (),
    *,
    for_evaluation: bool = False,
    dialect: Dialect | None = None,
    source: str = "the command line",
) -> CfgNode:
    """Load the configuration of a yaml file and freeze it.

    An empty EXPERIMENT.NAME becomes TAG, seed and overrides (naming.py).

    Args:
        path: yaml file, or one of the project's, such as ``glyphs/kd/res20_res8``; None for the defaults. Its key ``_BASE_``
            names files that it is merged over, looked up beside it, then in the working directory, then among the project's.
        overrides: ``["SOLVER.LR", 0.1, ...]``, merged over the file; values may be text as on a command line.
        for_evaluation: Take only those settings from the file that an evaluation reads. The method of the run that wrote it
            may then be unknown.
        dialect: called with the settings of each file and of the overrides before they are merged.
        source: where the overrides are from, for messages.

    Raises ConfigError for a missing or unreadable file or a value of the wrong type, UnknownNameError for an unknown key or
    name; both suggest the nearest known one.
    """
    schema = all_settings()
    config = config_tree(schema)
    if path is not None and not str(path):
        raise ConfigError("the name of the config file is empty")
    files = [] if path is None else list(read_files(Path(path)))
    given = _pairs(overrides)
    wanted = having(schema, evaluation=True) if for_evaluation else lambda name: True
    types = [settings["DISTILLER.TYPE"] for _, settings, _ in (*files, ("", given, False)) if "DISTILLER.TYPE" in settings]
    method = str(types[-1] if types else config.DISTILLER.TYPE)
    for file, settings, whole in files:
        settings = {name: value for name, value in settings.items() if wanted(name)}
        settings = settings if dialect is None else dialect(settings, method)
        _merge_settings(config, settings, schema, where=str(file), whole_file=whole)
    # Values of text settings are taken as they are: the TAG 0.10 is not a number.
    settings = {
        key: value if key in schema and isinstance(schema[key].default, str) else _parse(value) for key, value in given.items()
    }
    settings = settings if dialect is None else dialect(settings, method)
    _merge_settings(config, settings, schema, where=source)
    _check(config, schema)
    changed = {name: value for name, value in flatten(config).items() if schema[name].default != value}
    unused = _without_effect(config, schema, changed)
    if unused:
        warnings.warn(f"without effect in this run: {'; '.join(unused)}", ConfigWarning, stacklevel=2)
    if not config.EXPERIMENT.NAME:
        config.EXPERIMENT.NAME = _experiment_name(config, schema, given, changed)
    config.freeze()
    return config


# ---- overrides ----------------------------------------------------------------------------------------------------


def _pairs(overrides: Sequence[Any]) -> dict[str, Any]:
    """Return overrides by key. Raises ConfigError for words that are not KEY VALUE."""
    for key in map(str, overrides[::2]):
        if "=" in key:
            raise ConfigError(f"{key} is one word; a setting and its value are two: {key.replace('=', ' ', 1)}")
        if key.endswith((".yaml", ".yml")):
            raise ConfigError(f"{key} is not a setting; a config file is named by --cfg {key}")
    if len(overrides) % 2:
        raise ConfigError(f"overrides come in pairs, KEY VALUE; '{overrides[-1]}' has no partner")
    return {str(key): value for key, value in zip(overrides[::2], overrides[1::2], strict=True)}


def _parse(text: Any) -> Any:
    """Parse a command-line value as Python or, as in the files, yaml. Any other value is returned as it is."""
    for parse in (ast.literal_eval, partial(yaml.load, Loader=StrictLoader)) if isinstance(text, str) else ():
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning of text that is not Python
            return parse(text)
    return text


# ---- merging ------------------------------------------------------------------------------------------------------


def _merge_settings(config: CfgNode, settings: dict[str, Any], schema: Schema, where: str, whole_file: bool = False) -> None:
    """Merge settings by dotted names into the tree after translation from upstream's dialects; warn once of what it did."""
    # Types first: names that are looked up below are then text.
    settings = {
        name: _coerce(schema[name].default, value, name, where, schema[name].item) if name in schema else value
        for name, value in settings.items()
    }
    method = settings.get("DISTILLER.TYPE")
    if str(method).startswith("upstream/") and "UPSTREAM" not in GROUPS:
        raise UnknownNameError(f"{where}: {method} is a method of a checkout of mdistiller; name its folder by --upstream")
    if method in OTHER_METHODS and method not in DISTILLERS:
        names = ", ".join(DISTILLERS)
        raise UnknownNameError(f"{where}: {method} is a method of mdistiller's family, not of this project. Known: {names}")
    try:
        settings, notes = translate(settings, current=flatten(config), whole_file=whole_file)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    foreign = [name for name in settings if name.split(".")[0] in OTHER_METHODS and name.split(".")[0] not in config]
    if foreign:
        notes.append(f"{listing(foreign)}: settings of a method that is not here, and not the one of this run")
    for name, value in settings.items():
        if name not in foreign:
            _merge(config, _nested(name, value), schema, where)
    if notes:
        warnings.warn(f"{where}: {'; '.join(notes)}", ConfigWarning, stacklevel=2)


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    tree: dict[str, Any] = value
    return tree


def _merge(node: CfgNode, settings: dict[str, Any], schema: Schema, where: str, prefix: str = "") -> None:
    """Merge nested settings into the tree, each checked against its declaration."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if key not in node:
            near = _nearest_setting(name, schema)
            known = listing(f"{prefix}{k}" for k in node)
            plugin = " Settings of a method of your own are known once its file is named by --plugin." if not prefix else ""
            raise UnknownNameError(f"unknown setting {name} in {where}{near or '.'} Known here: {known}.{plugin}")
        if isinstance(node[key], CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{name} in {where} is a group of settings ({listing(node[key])}), not {shown(value)}")
            _merge(node[key], value, schema, where, f"{name}.")
        else:
            node[key] = _coerce(schema[name].default, value, name, where, schema[name].item)


def _nearest_setting(name: str, schema: Schema) -> str:
    """Return a hint at the setting of the same last word in the same group, or else the nearest in spelling."""
    group, _, leaf = name.rpartition(".")
    namesakes = [k for k in schema if k.endswith(f".{leaf}") and k.startswith(group.split(".")[0])]
    if namesakes:
        return did_you_mean(name, namesakes, cutoff=0.0)
    return did_you_mean(name, schema) if group else did_you_mean(name, [*GROUPS, *DISTILLERS, *schema])


def _coerce(default: Any, value: Any, name: str, where: str, item: type | None = None) -> Any:
    """Convert a value to the type of ``default``: an integer to a float, a tuple to a list, a number to text.

    Raises ConfigError for a value of another type. ``item`` is the type of the items of a list.
    """
    if isinstance(value, int) and value.bit_length() > 64:
        raise ConfigError(f"{name} in {where} is out of all bounds: {shown(value)}")
    if value is False and default == "off":
        return default  # yaml 1.1 reads off as false
    if isinstance(default, float):
        try:
            if not isinstance(value, bool) and isinstance(value, int | float | str):
                return float(value)  # str: yaml 1.1 reads 1e-3 as text
        except ValueError:
            pass
    elif isinstance(default, str) and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # such as EXPERIMENT.TAG 3
    elif isinstance(default, list | None) and isinstance(value, list | tuple):
        example = item() if item is not None else default[0] if default else None
        return [_coerce(example, each, f"{name}[{i}]", where) for i, each in enumerate(value)]
    elif default is None or type(value) is type(default):
        return value
    raise ConfigError(f"{name} in {where} must be {_kind(default)}, not {shown(value)} ({_kind(value)})")


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a group"}
    return kinds.get(type(value), "nothing" if value is None else type(value).__name__)


# ---- checks -------------------------------------------------------------------------------------------------------


def _check(config: CfgNode, schema: Schema) -> None:
    """Raise UserError for names and values whose error would be less clear in a later stage."""
    DISTILLERS.get(config.DISTILLER.TYPE)
    TRAINERS.get(config.SOLVER.TRAINER)
    DATASETS.get(config.DATASET.TYPE)
    if config.SOLVER.TYPE != "SGD":
        raise ConfigError(f"SOLVER.TYPE must be SGD (DOT and DeepKD are rules about SGD's momentum), not {config.SOLVER.TYPE}")
    for name, value in flatten(config).items():
        least = schema[name].least
        if least is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
        if schema[name].path and not _can_be_a_path(value):
            raise ConfigError(f"{name} cannot be the name of a file or folder: {shown(value)}")
    if not 0 < config.SOLVER.LR < math.inf:
        raise ConfigError(f"SOLVER.LR must be a positive number, not {config.SOLVER.LR}")
    stages = config.SOLVER.LR_DECAY_STAGES  # may lie after the last epoch, in a short trial of a long recipe
    if any(later <= earlier for earlier, later in itertools.pairwise([0, *stages])):
        raise ConfigError(f"SOLVER.LR_DECAY_STAGES must be positive and increasing epochs, not {shown(stages)}")
    check_hyper_parameters(config.DISTILLER.TYPE, hyper_parameters(config, config.DISTILLER.TYPE))


def _can_be_a_path(text: str) -> bool:
    with contextlib.suppress(UnicodeEncodeError):
        return b"\0" not in os.fsencode(text)
    return False


def _without_effect(config: CfgNode, schema: Schema, changed: Mapping[str, Any]) -> list[str]:
    """Return those of the changed settings that this run does not read, such as those of another method, each with why."""
    read = {config.DISTILLER.TYPE, *GROUPS}
    notes = [f"{name} (the method is {config.DISTILLER.TYPE})" for name in changed if name.split(".")[0] not in read]
    trainer = f"SOLVER.{config.SOLVER.TRAINER.upper()}."
    others = tuple(f"SOLVER.{name.upper()}." for name in TRAINERS)
    notes += [
        f"{name} (the trainer is {config.SOLVER.TRAINER})"
        for name in changed
        if name.startswith(others) and not name.startswith(trainer)
    ]
    if issubclass(DATASETS.get(config.DATASET.TYPE), InMemoryDataset):
        notes += [f"{name} ({config.DATASET.TYPE} is kept in memory)" for name in changed if not schema[name].in_memory]
    return notes


def _experiment_name(config: CfgNode, schema: Schema, overrides: Mapping[str, Any], changed: Mapping[str, Any]) -> str:
    """Return TAG, the seed where it is overridden or not 0, and the overrides that are declared as part of the name.

    ``changed`` leaves out defaults, so that a setting which a later version adds does not change a name.
    """
    left_out = having(schema, in_name=False)
    # Only of data sets whose classes are not fixed, such as `folder`, ROOT determines what the data are.
    root_is_data = getattr(DATASETS.get(config.DATASET.TYPE), "num_classes", None) is None

    def described(settings: Mapping[str, Any]) -> dict[str, Any]:
        kept = (key for key in settings if not left_out(key) or (key == "DATASET.ROOT" and root_is_data))
        return {key: settings[key] for key in kept}

    with_seed = config.EXPERIMENT.SEED or "EXPERIMENT.SEED" in overrides
    return experiment_name(
        config.EXPERIMENT.TAG, config.EXPERIMENT.SEED if with_seed else None, described(overrides), described(changed)
    )
