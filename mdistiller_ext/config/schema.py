"""Schema of the configuration: every setting, declared once.

``GROUPS`` declares the settings that no class takes as an argument. The keyword-only arguments of ``BaseTrainer.__init__``
become ``SOLVER.<ARGUMENT>``, those of a trainer's ``streams`` ``SOLVER.<TRAINER>.<ARGUMENT>`` and those of a method's
``__init__`` ``<METHOD>.<ARGUMENT>``: a new method or trainer needs no line here. Names are mdistiller's.

A setting that may change on resuming does not change what is computed. These are where data and teacher are, whose checksums
are compared, how data are read, how often checkpoints are saved, what follows an error, and logging.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Union, get_args, get_origin

from yacs.config import CfgNode

from ..errors import ConfigError
from ..registry import DISTILLERS, TRAINERS
from ..settings import NOT_A_SETTING, Setting
from ..trainers.base import BaseTrainer
from .reading import flatten

_CAPITALS: Mapping[str, str] = types.MappingProxyType({})  # keys are the arguments' names in capitals
_experiment = functools.partial(Setting, recipe=False)
_data = functools.partial(Setting, evaluation=True)
_hardware = functools.partial(Setting, recipe=False)
_log = functools.partial(Setting, may_change=True, recipe=False, in_name=False)

GROUPS: dict[str, dict[str, Setting]] = {
    "EXPERIMENT": {
        "PROJECT": _experiment("distill", "folder of the run folders, and the project in W&B", in_name=False),
        "NAME": _experiment("", "name of the run folder; empty: TAG, seed and overrides (see naming.py)", in_name=False),
        "TAG": _experiment("default", "beginning of the default name", in_name=False),
        "SEED": _experiment(0, "seed of all random generators; the default name shows it after TAG", in_name=False, least=0),
        "DETERMINISTIC": _experiment(False, "deterministic kernels: the same bits in every run on a GPU too"),
    },
    "DATASET": {
        "TYPE": _data("cifar100", "name of the data set"),
        "ROOT": _data("./data", "folder of the data", may_change=True, recipe=False, in_name=False, path=True),
        "LIMIT": _data(0, "number of training images and of test images to keep; 0: all"),
        "DEVICE": _data("auto", "device that keeps data which fit in memory: auto (the training device) or cpu", recipe=False),
        "NUM_WORKERS": _data(2, "dataloader workers", may_change=True, recipe=False, in_memory=False),
        "CACHE": _data(
            True,
            "keep decoded images and lists of image files for a quicker start",
            may_change=True,
            recipe=False,
            in_name=False,
        ),
        "ON_ERROR": _data("stop", "policy on unreadable images: stop or skip", may_change=True, recipe=False, in_memory=False),
        "TEST.BATCH_SIZE": _data(64, "batch size of the evaluation", recipe=False, least=1),
        "DROP_LAST": _data(False, "drop the last training batch of an epoch where it is smaller than the others"),
        "STRONG": _data([], "augmentations after the usual ones: autoaugment, randaugment, fixmatch, ...", item=str),
        "NUM_CLASSES": _data(0, "image folders: number of classes that there must be; 0: any"),
        "IMAGE_SIZE": _data(0, "image folders: size in pixels; 0: that of the data set"),
        "MEAN": _data([], "image folders: mean of each channel; []: that of the data set", item=float),
        "STD": _data([], "image folders: standard deviation of each channel; []: that of the data set", item=float),
        "VALIDATION": _data(0.0, "fraction of each class of the training images to test on in place of the test images"),
        "TEST_FRACTION": _data(0.2, "image folders without a split: fraction of each class to hold out for the test"),
    },
    "DISTILLER": {
        "TYPE": Setting("NONE", "name of the method"),
        "TEACHER": Setting("ResNet50", "network of the teacher"),
        "STUDENT": Setting("resnet32", "network of the student", evaluation=True),
        # A checkpoint, a run folder (its student_latest is read), `pretrained` (ImageNet weights) or torchvision's name of
        # ImageNet weights.
        "TEACHER_CKPT": Setting(
            "", "weights of the teacher; empty: where the data set keeps its teachers", may_change=True, recipe=False, path=True
        ),
        "STUDENT_CKPT": Setting(
            "", "initial weights of the student; empty: the default of the data set; random: STUDENT_INIT", path=True
        ),
        "TEACHER_CACHE": Setting(
            "off", "compute the teacher's logits once for each view of an image: off, memory or disk", recipe=False
        ),
        "TEACHER_CACHE_DTYPE": Setting("float32", "precision of the cached logits: float32 or float16", recipe=False),
        "TEACHER_CACHE_FOLDER": Setting(
            "",
            "folder of disk caches; empty: teacher_cache in DATASET.ROOT",
            may_change=True,
            recipe=False,
            in_name=False,
            path=True,
        ),
        "TEACHER_FEATURES": Setting(
            [], "modules of the teacher whose outputs are its `feats`; []: the network's own", item=str
        ),
        "STUDENT_FEATURES": Setting(
            [], "modules of the student whose outputs are its `feats`; []: the network's own", evaluation=True, item=str
        ),
        "STUDENT_INIT": Setting("default", "random initial weights: default (the network's own) or fan_out; see create_model"),
    },
    "SOLVER": {
        "TRAINER": Setting("base", "name of the trainer"),
        "TYPE": Setting("SGD", "optimizer: SGD"),
        "BATCH_SIZE": Setting(64, "batch size over all processes", least=1),
        "DEVICE": _hardware("auto", "training device; auto: cuda or mps where there is one, else cpu", evaluation=True),
        "CHANNELS_LAST": _hardware(True, "channels-last memory format, in which CPUs and tensor cores convolve fastest"),
        "FOLD_TEACHER": _hardware(True, "run a copy of the teacher with batch norms folded into its convolutions"),
        "SYNC_BN": Setting(False, "several processes: batch norm over the whole batch"),
        "COMPILE": _hardware(False, "torch.compile the teacher and, except on CPUs, the student"),
    },
    "LOG": {
        "PREFIX": _log("./output", "folder of all projects", path=True),
        "SAVE_CHECKPOINT_FREQ": _log(40, "epochs between checkpoints that are kept; 0: keep only latest and best", least=0),
        "WANDB": _log(False, "log to W&B too"),
    },
}


def declare_group(name: str, settings: Mapping[str, Setting]) -> None:
    """Declare a group of settings beside those of ``GROUPS``, for a part of the program that is loaded on request."""
    GROUPS[name] = dict(settings)


def all_settings() -> dict[str, Setting]:
    """Return every setting by its dotted name, including those of all registered methods and trainers.

    Raises ConfigError for a method or trainer whose name is that of a group or setting, and for an argument without a default.
    """
    groups = {group: dict(settings) for group, settings in GROUPS.items()}
    solver = groups["SOLVER"]
    solver |= _declared(BaseTrainer.__init__)
    own = frozenset(solver)
    for name in TRAINERS:
        trainer, group = TRAINERS.get(name), name.upper()
        if group in own:
            raise ConfigError(f"a trainer cannot be called {name}: SOLVER.{group} is a setting ({trainer.__module__})")
        solver |= {f"{group}.{key}": setting for key, setting in _declared(trainer.streams).items()}
    for name in DISTILLERS:
        method = DISTILLERS.get(name)
        if name in GROUPS:
            raise ConfigError(f"a distiller cannot be called {name}: that is a group of settings ({method.__module__})")
        groups[name] = _declared(method.__init__, method.config_keys)
    return {f"{group}.{key}": setting for group, settings in groups.items() for key, setting in settings.items()}


def default_config() -> CfgNode:
    """Return the default of every setting, including those of all registered methods and trainers."""
    return config_tree(all_settings())


def config_tree(settings: Mapping[str, Setting]) -> CfgNode:
    """Return the defaults of ``settings`` as a tree. Methods without settings are empty groups."""
    tree: dict[str, Any] = {group: {} for group in (*GROUPS, *DISTILLERS)}
    for name, setting in settings.items():
        *groups, leaf = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = setting.default
    return CfgNode(tree)  # copies the lists


def having(settings: Mapping[str, Setting] | None = None, **facts: bool) -> Callable[[str], bool]:
    """Return a predicate on names: whether a setting is declared with all these facts, such as ``may_change=True``.

    A name that is not declared, such as one of another version or of upstream, has the facts that all settings of its group
    share.
    """
    declared: dict[str, bool] = {}
    shared: dict[str, bool] = {}
    for name, setting in (settings or all_settings()).items():
        group = name.split(".")[0]
        declared[name] = all(getattr(setting, fact) == value for fact, value in facts.items())
        shared[group] = shared.get(group, True) and declared[name]
    return lambda name: declared.get(name, shared.get(name.split(".")[0], False))


def hyper_parameters(config: CfgNode, name: str) -> dict[str, Any]:
    """Return the keyword arguments of distiller ``name`` as configured."""
    method = DISTILLERS.get(name)
    arguments = _configured(config[name], method.__init__, method.config_keys)
    # A method of a checkout (bridge/) reads settings of all groups.
    return arguments | ({"settings": flatten(config)} if getattr(method, "takes_settings", False) else {})


def stream_options(config: CfgNode, name: str) -> dict[str, Any]:
    """Return the keyword arguments of trainer ``name``'s ``streams`` as configured."""
    return _configured(config.SOLVER.get(name.upper(), CfgNode()), TRAINERS.get(name).streams)


def solver_arguments(config: CfgNode) -> dict[str, Any]:
    """Return the keyword arguments that every trainer takes, as configured."""
    return _configured(config.SOLVER, BaseTrainer.__init__)


def names_of_arguments(method: str, trainer: str) -> dict[str, list[str]]:
    """Return the settings that a method, a trainer and every trainer take as arguments: argument -> dotted names.

    An argument that several of them take has a name for each.
    """
    distiller = DISTILLERS.get(method)
    names: dict[str, list[str]] = {}
    for group, function, spelling in (
        ("SOLVER", BaseTrainer.__init__, _CAPITALS),
        (f"SOLVER.{trainer.upper()}", TRAINERS.get(trainer).streams, _CAPITALS),
        (method, distiller.__init__, distiller.config_keys),
    ):
        for argument in _arguments(function):
            names.setdefault(argument, []).append(f"{group}.{spelling.get(argument, argument.upper())}")
    return names


def _configured(node: CfgNode, function: Any, spelling: Mapping[str, str] = _CAPITALS) -> dict[str, Any]:
    arguments = {}
    for name in _arguments(function):
        value: Any = node
        for key in spelling.get(name, name.upper()).split("."):
            value = value[key]
        arguments[name] = value
    return arguments


# ---- signatures ---------------------------------------------------------------------------------------------------

_SCALARS = (bool, int, float, str)
_SEQUENCES = (list, tuple, collections.abc.Sequence)


def _declared(function: Any, spelling: Mapping[str, str] = _CAPITALS) -> dict[str, Setting]:
    """Return the settings that a signature declares, by key.

    Args:
        spelling: keys, by argument, that are not its name in capitals.
    """
    return {spelling.get(name, name.upper()): setting for name, setting in _arguments(function).items()}


@functools.cache
def _arguments(function: Any) -> dict[str, Setting]:
    """Return the keyword-only arguments of a function that are settings.

    Those are the arguments of types whose values yaml can express, except for those annotated as ``Plumbing``. An argument
    without an annotation, or with one that cannot be evaluated, is a setting too.
    """
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, TypeError):  # annotations of names that a plug-in imports for type checkers only
        signature = inspect.signature(function)
    settings = {}
    for name, parameter in signature.parameters.items():
        annotation, marks = _unwrap(parameter.annotation)
        if parameter.kind is not parameter.KEYWORD_ONLY or NOT_A_SETTING in marks or not _is_plain(annotation):
            continue
        default = parameter.default
        if default is parameter.empty:
            raise ConfigError(f"{function.__qualname__}: argument '{name}' needs a default to become a setting")
        setting = next((mark for mark in marks if isinstance(mark, Setting)), Setting())
        default = list(default) if isinstance(default, tuple) else default
        settings[name] = replace(setting, default=default, item=_item_type(annotation))
    return settings


def _unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split an annotation into the type and the metadata of ``Annotated``."""
    return (annotation.__origin__, annotation.__metadata__) if get_origin(annotation) is Annotated else (annotation, ())


def _is_plain(annotation: Any) -> bool:
    """Whether yaml can express the values of a type; of an unknown one it can."""
    annotation, _ = _unwrap(annotation)
    origin = get_origin(annotation) or annotation
    if origin in (Union, types.UnionType, *_SEQUENCES):
        return all(map(_is_plain, get_args(annotation)))
    return origin in (Any, inspect.Parameter.empty, types.NoneType, *_SCALARS) or not isinstance(origin, type)


def _item_type(annotation: Any) -> Any:
    """Return the type of the items of an annotated sequence, or None where it is not one of yaml's scalar types."""
    items = get_args(annotation) if get_origin(annotation) in _SEQUENCES else ()
    return items[0] if items and items[0] in _SCALARS else None
