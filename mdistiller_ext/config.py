"""The configuration: declared defaults in one yacs tree, yaml files over it, overrides over those, checked and frozen.

Spelling is mdistiller's. A method's settings are the keyword-only arguments of its class, a trainer's those of its
``streams``: this room reads the signatures, so a new method needs no line here. No room below is handed a config node.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import itertools
import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from .data import InMemoryDataset
from .distillers import check_hyper_parameters
from .errors import ROOT, ConfigError, ConfigWarning, UnknownNameError, did_you_mean, from_here, listing, shown
from .naming import experiment_name
from .registry import DATASETS, DISTILLERS, TRAINERS
from .trainers.base import BaseTrainer
from .upstream import OTHER_METHODS, translate

_GROUPS = ("EXPERIMENT", "DATASET", "DISTILLER", "SOLVER", "LOG")
# Arguments of BaseTrainer that are objects or plumbing, not settings of the recipe.
_NOT_SETTINGS = {"save_checkpoint_freq", "merge", "stream_options"}
# What the items of lists are that are empty by default.
_ITEMS = {"DATASET.STRONG": "", "DATASET.MEAN": 0.0, "DATASET.STD": 0.0, "SOLVER.NO_DECAY": ""}
_LEAST = {
    "SOLVER.BATCH_SIZE": 1,
    "DATASET.TEST.BATCH_SIZE": 1,
    "SOLVER.EPOCHS": 1,
    "EXPERIMENT.SEED": 0,
    "LOG.SAVE_CHECKPOINT_FREQ": 0,
}
_MOST_SETTINGS = 10_000  # of one file: a short one of nested aliases can stand for billions
_MOST_FILES = 100  # that one builds on, each counted as often as it is named: that may double from file to file
_LONGEST_KEY = 200  # characters


def default_config() -> CfgNode:
    """Every setting with its default, those of all registered methods and trainers included."""
    tree: dict[str, Any] = {
        "EXPERIMENT": {
            "PROJECT": "distill",
            "NAME": "",  # of the run folder; TAG, seed and command-line overrides by default (see naming.py)
            "TAG": "default",
            "SEED": 0,
            "DETERMINISTIC": False,  # the same bits in every run on a GPU too, where kernels for that exist
        },
        "DATASET": {
            "TYPE": "cifar100",
            "ROOT": "./data",
            "LIMIT": 0,  # keep this many training and test images; 0 keeps all
            "DEVICE": "auto",  # that keeps data which fit in memory: the training device, or cpu
            "NUM_WORKERS": 2,  # for data sets that do not fit in memory
            "ON_ERROR": "stop",  # there, at an image that cannot be read; or skip
            "TEST": {"BATCH_SIZE": 64},
            "DROP_LAST": False,  # leave out an epoch's last training batch where it is smaller than the others
            "STRONG": [],  # augmentations after the usual ones: autoaugment, randaugment, cutout, erasing
            # For image folders; 0 and [] are what the data set has.
            "NUM_CLASSES": 0,
            "IMAGE_SIZE": 0,
            "MEAN": [],
            "STD": [],
            "TEST_FRACTION": 0.2,  # of each class, in a tree that comes without a split
        },
        "DISTILLER": {
            "TYPE": "NONE",
            "TEACHER": "ResNet50",
            "STUDENT": "resnet32",
            # A checkpoint, a run folder (its student_latest is read), or "pretrained" for ImageNet weights (or torchvision's
            # name for them). By default where the data set keeps its teachers, and what its students start from: chance
            # or, for some, ImageNet.
            "TEACHER_CKPT": "",
            "STUDENT_CKPT": "",
            "STUDENT_INIT": "default",  # initial weights as the network draws them, or fan_out; see create_model
        },
        "SOLVER": {
            "TRAINER": "base",
            "TYPE": "SGD",
            "BATCH_SIZE": 64,
            "DEVICE": "auto",  # cuda or mps where there is one, else cpu
            "CHANNELS_LAST": True,  # the memory layout in which CPUs and tensor cores convolve fastest
            "FOLD_TEACHER": True,  # run a copy of the teacher whose batch norms are folded into its convolutions
            "SYNC_BN": False,  # with several processes, batch norm over the whole batch
            "COMPILE": False,  # torch.compile the teacher and, but on CPUs, the student: slow at first, faster then
            **_settings(BaseTrainer.__init__, skip=_NOT_SETTINGS),
        },
        "LOG": {
            "PREFIX": "./output",
            "SAVE_CHECKPOINT_FREQ": 40,  # epochs between kept checkpoints; 0 keeps only latest and best
            "WANDB": False,
        },
    }
    for name in TRAINERS:
        options = _settings(TRAINERS.get(name).streams)
        if options:
            tree["SOLVER"][name.upper()] = options
    for name in DISTILLERS:
        distiller = DISTILLERS.get(name)
        if name in _GROUPS:
            raise ConfigError(f"a distiller cannot be called {name}: that is a group of settings ({distiller.__module__})")
        tree[name] = _settings(distiller.__init__, spelling=distiller.config_keys)
    return CfgNode(tree)


def load_config(
    path: str | os.PathLike[str] | None, overrides: Sequence[Any] = (), *, only: tuple[str, ...] = ("",)
) -> CfgNode:
    """The configuration of a yaml file, frozen. An empty EXPERIMENT.NAME becomes TAG, seed and overrides (naming.py).

    Args:
        path: yaml file, or None for the defaults; a ``_BASE_`` key names files that it builds on, looked for beside it, then
            in the working directory.
        overrides: ``["SOLVER.LR", 0.1, ...]``, over the file; values may be text as on a command line.
        only: beginnings of the settings to take from the file, such as ``("DATASET.",)``; all by default.

    Raises ConfigError for a missing or unreadable file or a value of the wrong type, UnknownNameError for an unknown key or
    name; both say the nearest known one.
    """
    config = default_config()
    if path is not None:
        if not str(path):
            raise ConfigError("the name of the config file is empty")
        for file, settings, whole in _files(Path(path), itertools.count()):
            settings = {name: value for name, value in settings.items() if name.startswith(only)}
            _merge_settings(config, settings, where=str(file), whole_file=whole)
    known, given = _flat(config), _pairs(overrides)
    # A setting that is text takes the words as they are: a TAG of 0.10 is no number.
    settings = {key: value if isinstance(known.get(key), str) else _parse(value) for key, value in given.items()}
    _merge_settings(config, settings, where="the command line")
    _check(config)
    unused = _without_effect(config)
    if unused:
        warnings.warn(f"without effect in this run: {'; '.join(unused)}", ConfigWarning, stacklevel=2)
    if not config.EXPERIMENT.NAME:
        config.EXPERIMENT.NAME = _experiment_name(config, given)
    config.freeze()
    return config


def written_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a yaml file and those that its ``_BASE_`` names set, by dotted names: as written, unchecked. Raises ConfigError."""
    return {key: value for _, settings, _ in _files(Path(path), itertools.count()) for key, value in settings.items()}


def hyper_parameters(config: CfgNode, name: str) -> dict[str, Any]:
    """The keyword arguments of distiller ``name`` as configured."""
    distiller = DISTILLERS.get(name)
    return _arguments(config[name], distiller.__init__, distiller.config_keys)


def stream_options(config: CfgNode, name: str) -> dict[str, Any]:
    """The keyword arguments of trainer ``name``'s streams as configured."""
    streams = TRAINERS.get(name).streams
    return _arguments(config.SOLVER.get(name.upper(), CfgNode()), streams, {})


def solver_arguments(config: CfgNode) -> dict[str, Any]:
    """The keyword arguments that every trainer takes, as configured."""
    keywords = _keyword_only(BaseTrainer.__init__)
    return {k: config.SOLVER[k.upper()] for k in keywords if k not in _NOT_SETTINGS}


def differences(old: str, new: str) -> list[str]:
    """Settings that differ between two dumped configurations, as ``KEY: old -> new``. Raises ConfigError for other text."""
    a, b = (_read(text, "the dumped configuration") for text in (old, new))
    keys = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
    return [f"{k}: {_brief(a.get(k))} -> {_brief(b.get(k))}" for k in keys]


def _brief(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 100 else shown(value)


# ---- signatures ---------------------------------------------------------------------------------------------------


def _keyword_only(function: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _settings(function: Any, *, skip: Collection[str] = (), spelling: dict[str, str] | None = None) -> dict[str, Any]:
    """Keyword-only arguments of a function as a tree of settings with their defaults."""
    tree: dict[str, Any] = {}
    for name, parameter in _keyword_only(function).items():
        if name in skip:
            continue
        if parameter.default is inspect.Parameter.empty:
            raise ConfigError(f"{function.__qualname__}: argument '{name}' needs a default to become a setting")
        default = parameter.default
        node = tree
        *parents, leaf = (spelling or {}).get(name, name.upper()).split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = list(default) if isinstance(default, tuple) else default
    return tree


def _arguments(node: CfgNode, function: Any, spelling: dict[str, str]) -> dict[str, Any]:
    arguments = {}
    for name in _keyword_only(function):
        value: Any = node
        for key in spelling.get(name, name.upper()).split("."):
            value = value[key]
        arguments[name] = value
    return arguments


# ---- reading and merging ------------------------------------------------------------------------------------------


def _files(path: Path, count: Iterator[int], children: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[str, Any], bool]]:
    """A yaml file after those that its ``_BASE_`` names: path, settings, and whether it may be a whole file of upstream's.

    ``count`` counts the files.
    """
    # os.path's questions have an answer for any text, also for one that cannot be a name.
    if os.path.isdir(path):
        raise ConfigError(f"the config file {path} is a folder{_file_in(path)}")
    if not os.path.isfile(path):
        raise ConfigError(f"config file not found: {path}{_near_file(path)}")
    if path.resolve() in children:
        raise ConfigError(f"{path}: _BASE_ leads back to itself")
    if next(count) > _MOST_FILES:
        raise ConfigError(f"{path}: more than {_MOST_FILES} files through _BASE_")
    try:
        text = path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not readable yaml: {error}") from error
    settings = _read(text, str(path))
    bases = settings.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"_BASE_ in {path} must be a file name or a list of them, not {shown(bases)}")
    for base in bases:
        if not base:
            raise ConfigError(f"_BASE_ in {path} is empty")
        beside, here = path.parent / base, Path(base)
        chosen = here if os.path.isfile(here) and not os.path.isfile(beside) else beside
        yield from _files(chosen, count, (*children, path.resolve()))
    # Neither do upstream's files build on others, nor do they have our keys, such as every run's own config.yaml has.
    yield path, settings, not bases and "EXPERIMENT.SEED" not in settings


class _Loader(yaml.SafeLoader):
    """yaml in which no mapping has a key twice: the last one would count, in silence. Nor are keys or merges without end."""

    merged = 0  # entries of mappings, each counted as often as it is merged into one

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if len(key.value) > _LONGEST_KEY:
                    raise yaml.composer.ComposerError(None, None, f"a key of {len(key.value):,} characters", key.start_mark)
                if key.value in names:
                    raise yaml.composer.ComposerError(None, None, f"the key {key.value} stands twice", key.start_mark)
                names.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > _MOST_SETTINGS:
            raise yaml.constructor.ConstructorError(None, None, f"more than {_MOST_SETTINGS:,} settings", node.start_mark)


def _read(text: str, name: str) -> dict[str, Any]:
    """The settings of a yaml text by dotted names. Raises ConfigError that says ``name`` for anything else."""
    try:
        content = yaml.load(text, _Loader)
    except Exception as error:  # of a value that does not fit its tag, yaml raises many things
        raise ConfigError(f"{name} is not readable yaml: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{name} must hold settings, KEY: value, not a {type(content).__name__}")
    settings: dict[str, Any] = {}
    try:
        for count, (key, value) in enumerate(_nodes(content)):
            if count >= _MOST_SETTINGS:
                raise ConfigError(f"{name} has more than {_MOST_SETTINGS:,} settings")
            if key in settings:  # one as SOLVER.LR, one as LR in SOLVER
                raise ConfigError(f"{name} is ambiguous: the key {key} stands twice")
            if not isinstance(value, dict):
                settings[key] = value
    except RecursionError as error:
        raise ConfigError(f"{name} contains itself") from error
    return settings


def _merge_settings(config: CfgNode, settings: dict[str, Any], where: str, whole_file: bool = False) -> None:
    """Put settings by dotted names into the tree, upstream's dialects translated; one warning says what was understood."""
    known = _flat(config)
    # Types first: what is looked up below, in a translation or a registry, is then text.
    settings = {name: _coerce(known[name], value, name, where) if name in known else value for name, value in settings.items()}
    method = settings.get("DISTILLER.TYPE")
    if method in OTHER_METHODS and method not in DISTILLERS:
        names = ", ".join(DISTILLERS)
        raise UnknownNameError(f"{where}: {method} is a method of mdistiller's family, not of this project. Known: {names}")
    try:
        settings, notes = translate(settings, before=known, whole_file=whole_file)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    foreign = [name for name in settings if name.split(".")[0] in OTHER_METHODS and name.split(".")[0] not in config]
    if foreign:
        notes.append(f"{listing(foreign)}: settings of a method that is not here, and not the one of this run")
    for name, value in settings.items():
        if name not in foreign:
            _merge(config, _nested(name, value), where)
    if notes:
        warnings.warn(f"{where}: {'; '.join(notes)}", ConfigWarning, stacklevel=2)


def _near_file(path: Path) -> str:
    """A hint at an existing yaml file, for a path that is not one."""
    folder = path.parent if os.path.isdir(path.parent) else path.parent.parent
    folders = [folder] if os.path.isdir(folder) and folder != Path(folder.anchor) else []
    # Recipes are compared by their paths in the repository, wherever the user stands.
    files = {str(file.relative_to(ROOT)): file for file in (ROOT / "configs").rglob("*.yaml")}
    with contextlib.suppress(OSError):  # a folder that is removed meanwhile
        files |= {str(file): file for each in folders for file in itertools.islice(each.rglob("*.yaml"), 2000)}
    near = difflib.get_close_matches(str(path), files, n=1, cutoff=0.5)
    return f"; did you mean {from_here(files[near[0]])}?" if near else ""


def _file_in(folder: Path) -> str:
    """A hint at the yaml files in a folder, a run's ``config.yaml`` among them."""
    names = sorted(file.name for file in itertools.islice(folder.glob("*.yaml"), 2000))
    return f"; name a file in it: {listing(names)}" if names else ""


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    tree: dict[str, Any] = value
    return tree


def _parse(text: Any) -> Any:
    """A command-line value as Python or, like in the files, yaml reads it; anything else stays what it is."""
    for parse in (ast.literal_eval, partial(yaml.load, Loader=_Loader)) if isinstance(text, str) else ():
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's about what is no Python
            return parse(text)
    return text


def _pairs(overrides: Sequence[Any]) -> dict[str, Any]:
    """Overrides by key. Raises ConfigError for words that are not KEY VALUE."""
    for key in map(str, overrides[::2]):
        if "=" in key:
            raise ConfigError(f"{key} is one word; a setting and its value are two: {key.replace('=', ' ', 1)}")
        if key.endswith((".yaml", ".yml")):
            raise ConfigError(f"{key} is not a setting; a config file is named by --cfg {key}")
    if len(overrides) % 2:
        raise ConfigError(f"overrides come in pairs, KEY VALUE; '{overrides[-1]}' has no partner")
    return {str(key): value for key, value in zip(overrides[::2], overrides[1::2], strict=True)}


def _experiment_name(config: CfgNode, overrides: Mapping[str, Any]) -> str:
    """TAG, the seed where it is overridden or not 0, and the overrides, but for what says where the run or its data lie."""
    elsewhere = ["LOG.", "EXPERIMENT.PROJECT", "EXPERIMENT.NAME", "EXPERIMENT.TAG", "EXPERIMENT.SEED"]
    if getattr(DATASETS.get(config.DATASET.TYPE), "num_classes", None) is not None:
        elsewhere.append("DATASET.ROOT")  # of any other kind of data it says which data these are

    def described(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if not key.startswith(tuple(elsewhere))}

    # Without defaults, so that a setting which a later version adds changes no name.
    defaults = _flat(default_config())
    changed = {key: value for key, value in _flat(config).items() if defaults[key] != value}
    with_seed = config.EXPERIMENT.SEED or "EXPERIMENT.SEED" in overrides
    return experiment_name(
        config.EXPERIMENT.TAG, config.EXPERIMENT.SEED if with_seed else None, described(overrides), described(changed)
    )


def _merge(config: CfgNode, settings: dict[str, Any], where: str, prefix: str = "") -> None:
    """Put settings into the tree, each checked against the default it replaces."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if key not in config:
            near = _near_setting(name)
            known = listing(f"{prefix}{k}" for k in config)
            plugin = " Settings of a method of your own are known once its file is named by --plugin." if not prefix else ""
            raise UnknownNameError(f"unknown setting {name} in {where}{near or '.'} Known here: {known}.{plugin}")
        default = config[key]
        if isinstance(default, CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{name} in {where} is a group of settings ({listing(default)}), not {shown(value)}")
            _merge(default, value, where, f"{name}.")
        else:
            config[key] = _coerce(default, value, name, where)


def _near_setting(name: str) -> str:
    """A hint at the setting that was meant: of the same last word in the same group, or the nearest in spelling."""
    tree = default_config()
    known = list(_flat(tree))
    group, _, leaf = name.rpartition(".")
    namesakes = [k for k in known if k.endswith(f".{leaf}") and k.startswith(group.split(".")[0])]
    if namesakes:
        return did_you_mean(name, namesakes, cutoff=0.0)
    return did_you_mean(name, known) if group else did_you_mean(name, [*tree, *known])


def _coerce(default: Any, value: Any, name: str, where: str) -> Any:
    """The value as the default's type: an int may stand for a float, and a list for a list. Else ConfigError."""
    if isinstance(value, int) and value.bit_length() > 64:
        raise ConfigError(f"{name} in {where} is out of all bounds: {shown(value)}")
    if isinstance(default, float):
        try:
            if not isinstance(value, bool) and isinstance(value, int | float | str):
                return float(value)  # a str: yaml 1.1 reads 1e-3 as text
        except ValueError:
            pass
    elif isinstance(default, str) and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # such as EXPERIMENT.TAG 3
    elif isinstance(default, list) and isinstance(value, list | tuple):
        kind = default[0] if default else _ITEMS.get(name)
        return [_coerce(kind, item, f"{name}[{i}]", where) for i, item in enumerate(value)]
    elif default is None or type(value) is type(default):
        return value
    raise ConfigError(f"{name} in {where} must be {_kind(default)}, not {shown(value)} ({_kind(value)})")


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a group"}
    return kinds.get(type(value), "nothing" if value is None else type(value).__name__)


def _nodes(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All groups and settings of a tree by dotted names, a group before what is in it."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _nodes(value, f"{prefix}{key}.")


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in _nodes(tree) if not isinstance(value, dict)}


def _without_effect(config: CfgNode) -> list[str]:
    """Settings that were changed and that this run does not read, such as another method's."""
    used = {config.DISTILLER.TYPE, *_GROUPS}
    defaults = _flat(default_config())
    changed = [name for name, value in _flat(config).items() if defaults.get(name) != value]
    notes = [f"{name} (the method is {config.DISTILLER.TYPE})" for name in changed if name.split(".")[0] not in used]
    trainer = f"SOLVER.{config.SOLVER.TRAINER.upper()}."
    others = tuple(f"SOLVER.{name.upper()}." for name in TRAINERS)
    notes += [
        f"{name} (the trainer is {config.SOLVER.TRAINER})"
        for name in changed
        if name.startswith(others) and not name.startswith(trainer)
    ]
    if issubclass(DATASETS.get(config.DATASET.TYPE), InMemoryDataset):
        of_files = ("DATASET.NUM_WORKERS", "DATASET.ON_ERROR")
        notes += [f"{name} ({config.DATASET.TYPE} is kept in memory)" for name in of_files if name in changed]
    return notes


def _check(config: CfgNode) -> None:
    """Names and values that no later stage would explain as well."""
    DISTILLERS.get(config.DISTILLER.TYPE)
    TRAINERS.get(config.SOLVER.TRAINER)
    DATASETS.get(config.DATASET.TYPE)
    if config.SOLVER.TYPE != "SGD":
        raise ConfigError(f"SOLVER.TYPE must be SGD (DOT and DeepKD are rules about SGD's momentum), not {config.SOLVER.TYPE}")
    flat = _flat(config)
    for key, least in _LEAST.items():
        if flat[key] < least:
            raise ConfigError(f"{key} must be at least {least}, not {flat[key]}")
    if not 0 < config.SOLVER.LR < math.inf:
        raise ConfigError(f"SOLVER.LR must be a positive number, not {config.SOLVER.LR}")
    stages = config.SOLVER.LR_DECAY_STAGES  # those after the last epoch are of a long recipe that is tried briefly
    if any(later <= earlier for earlier, later in itertools.pairwise([0, *stages])):
        raise ConfigError(f"SOLVER.LR_DECAY_STAGES must be positive and increasing epochs, not {shown(stages)}")
    check_hyper_parameters(config.DISTILLER.TYPE, hyper_parameters(config, config.DISTILLER.TYPE))
    for key in ("DATASET.ROOT", "LOG.PREFIX", "DISTILLER.TEACHER_CKPT", "DISTILLER.STUDENT_CKPT"):
        if not _can_be_a_path(flat[key]):
            raise ConfigError(f"{key} cannot be the name of a file or folder: {shown(flat[key])}")


def _can_be_a_path(text: str) -> bool:
    with contextlib.suppress(UnicodeEncodeError):
        return b"\0" not in os.fsencode(text)
    return False
