"""Translate single settings of mdistiller's dialects.

``HANDLERS`` has a function for each foreign setting; their order does not matter. Every translation, and every setting without
an equivalent, adds a note, except for flags that are off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import ConfigError, shown
from .upstream_tables import (
    AUG_TEACHERS,
    DEEPKD_GROUPS,
    DEEPKD_TRAINERS,
    DKD_WEIGHTS,
    KD_SETTINGS_OF_MLKD,
    MEANINGLESS,
    RENAMED,
    SWITCHES,
    TRAINERS,
    TWO_VIEWS,
    VIEWS,
)


@dataclass(frozen=True)
class Context:
    """Settings that the meaning of another one may depend on: those given together with it, and the current ones of the run."""

    given: Mapping[str, Any]
    current: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.given[name] if name in self.given else self.current[name]


class Translation(NamedTuple):
    """A setting translated: the settings that it is, settings that it implies unless they are given, and a note."""

    settings: Mapping[str, Any] = MappingProxyType({})
    implied: Mapping[str, Any] = MappingProxyType({})
    note: str = ""


def unchanged(name: str, value: Any, context: Context) -> Translation:
    """Take a setting over as it is."""
    return Translation({name: value})


def _renamed(name: str, value: Any, context: Context) -> Translation:
    new = RENAMED[name]
    settings, implied, note = HANDLERS.get(new, unchanged)(new, value, context)
    return Translation(settings, implied, f"{name} is {new}" + (f"; {note}" if note else ""))


def _meaningless(name: str, value: Any, context: Context) -> Translation:
    return Translation(note=f"{name} means nothing here: {MEANINGLESS[name]}")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {shown(value)}")
    return value


def _switch(name: str, value: Any, context: Context) -> Translation:
    if _flag(name, value):
        raise ConfigError(f"{name}: {SWITCHES[name]} is not offered")
    return Translation()


def _only_cat(name: str, value: Any, context: Context) -> Translation:
    on = _flag(name, value)
    return Translation({"CATKD.LOSS.CE_WEIGHT": 0.0}, note=f"{name} is CATKD.LOSS.CE_WEIGHT 0") if on else Translation()


def _kd_setting(name: str, value: Any, context: Context) -> Translation:
    """A setting of KD, which is MLKD's in files of the DeepKD and LSKD repositories; other files for MLKD have MLKD's own."""
    if context["DISTILLER.TYPE"] != "MLKD" or any(setting.startswith("MLKD.") for setting in context.given):
        return Translation({name: value})
    new = KD_SETTINGS_OF_MLKD[name]
    return Translation({new: value}, note=f"{name} of MLKD is {new}")


def _dkd_flag(name: str, value: Any, context: Context) -> Translation:
    on, method = _flag(name, value), context["DISTILLER.TYPE"]  # of KD, where it has an effect, it is removed by upstream.py
    if method not in TWO_VIEWS:
        return _meaningless(name, value, context)
    if not on:  # the release then has the parts of the KL itself, as here
        return Translation()
    rule = f"{method}.RULE"
    return Translation({rule: "deepkd"}, note=f"{name} of {method} is {rule} deepkd, the loss of DeepKD's release")


def _dkd_weight(name: str, value: Any, context: Context) -> Translation:
    method = context["DISTILLER.TYPE"]
    if method not in TWO_VIEWS:
        return _meaningless(name, value, context)
    new = f"{method}.{name.removeprefix('SOLVER.DEEPKD.').removesuffix('_FACTOR')}"
    return Translation({new: value}, note=f"{name} of {method} is {new}")


def _trainer(name: str, value: str, context: Context) -> Translation:
    if value in TRAINERS:
        trainer, more = TRAINERS[value]
    elif value == "ours" and not any(setting.startswith(DEEPKD_GROUPS) for setting in context.given):
        trainer, more = "base", VIEWS  # of MLKD's repository and LSKD's; DeepKD's files of that name have its settings
    elif value in DEEPKD_TRAINERS[1:]:
        trainer, more = "deepkd", VIEWS if value == "deepkd_aug" else ""
    else:
        return Translation({name: value})
    more = more and f"; {more}"
    return Translation({name: trainer}, note=f"{name} {value} is {trainer}{more}")


def _cosine(name: str, value: Any, context: Context) -> Translation:
    if not _flag(name, value):
        return Translation(implied={"SOLVER.LR_SCHEDULER": "step", "SOLVER.WARMUP_EPOCHS": 0})
    defaults = {"SOLVER.MIN_LR": 0.00005, "SOLVER.WARMUP_EPOCHS": 20, "SOLVER.WARMUP_FACTOR": 0.1}  # of LR_COS in DeepKD
    epochs = context.given.get("SOLVER.WARMUP_EPOCHS", defaults["SOLVER.WARMUP_EPOCHS"])
    note = f"{name} is LR_SCHEDULER cosine after a warm-up of {epochs} epochs"
    if not epochs:
        note += ", whose first epoch has the full rate; the release is one epoch ahead"
    return Translation({"SOLVER.LR_SCHEDULER": "cosine"}, defaults, note)


def _policy(name: str, value: Any, context: Context) -> Translation:
    """A flag in DeepKD's files, whose code reads LR_COS instead."""
    if value not in (True, False, "cosine", "step"):
        raise ConfigError(f"{name} must be true, cosine or step, not {shown(value)}")
    if value == "step":
        return Translation({"SOLVER.LR_SCHEDULER": "step"}, note=f"{name} step is LR_SCHEDULER step")
    return _cosine(name, value == "cosine" or value, context)


def _logit_stand(name: str, value: Any, context: Context) -> Translation:
    method = context["DISTILLER.TYPE"]
    standardize, on = f"{method}.STANDARDIZE", _flag(name, value)
    if standardize in context.current:
        return (
            Translation({standardize: True}, note=f"{name} is {standardize}")
            if on
            else Translation(implied={standardize: False})
        )
    if on and method != "LSKD":
        able = sorted(other.removesuffix(".STANDARDIZE") for other in context.current if other.endswith(".STANDARDIZE"))
        raise ConfigError(f"{name}: {method} has no standardisation of logits (STANDARDIZE); {', '.join(able)} and LSKD have")
    return Translation(note=f"{name}: LSKD standardises logits always" if on else "")


def aug_teacher(name: str, value: Any, context: Context) -> Translation:
    """GDKD's flag: the path of the augmented teacher."""
    model, checkpoint = context["DISTILLER.TEACHER"], "DISTILLER.TEACHER_CKPT"
    path = AUG_TEACHERS.get(context["DATASET.TYPE"], "").format(model=model, lower=model.lower())
    if not _flag(name, value):  # undoes the flag of a file that these settings are merged over
        return Translation(implied={checkpoint: ""} if path and context.current[checkpoint] == path else {})
    if not path:
        return Translation(note=f"{name} means nothing here: there are no augmented teachers for {context['DATASET.TYPE']}")
    if context.given.keys() & {checkpoint, "DISTILLER.TEACHER_WEIGHTS"}:
        return Translation(note=f"{name} means nothing here: {checkpoint} is given too")
    return Translation(implied={checkpoint: path}, note=f"{name} is {checkpoint} {path}")


def _enhance_augment(name: str, value: Any, context: Context) -> Translation:
    if not _flag(name, value):
        return Translation(implied={"DATASET.STRONG": []})
    strong = ["autoaugment", "cutout"] if context["DATASET.TYPE"] == "cifar100" else ["randaugment", "erasing"]
    return Translation({"DATASET.STRONG": strong}, note=f"{name} is DATASET.STRONG {strong}")


def _strategy(name: str, value: Any, context: Context) -> Translation:
    if value != "best":
        raise ConfigError(f"{name}: only best is offered, the classes that the teacher ranks highest, not {shown(value)}")
    return Translation(note=f"{name} best is the only one here")


def _topk(name: str, value: Any, context: Context) -> Translation:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{name} must be a whole number from 0, not {shown(value)}")
    if value and context["DISTILLER.TYPE"] == "DKD":
        raise ConfigError(
            f"{name}: DKD on the teacher's {value} first classes is DISTILLER.TYPE DEEPKD with DEEPKD.K_INITIAL 1.0, "
            f"K_STATIC {value}, PHASE_ENDS [1, {context['SOLVER.EPOCHS']}], and DKD's settings under DEEPKD"
        )
    if value and context["DISTILLER.TYPE"] == "KD":
        note = f"{name} means nothing here: DeepKD's release does not pass it on for KD either, by a misspelling"
        return Translation(note=note)
    return _meaningless(name, value, context)


HANDLERS: dict[str, Callable[[str, Any, Context], Translation]] = {
    **dict.fromkeys(RENAMED, _renamed),
    **dict.fromkeys(MEANINGLESS, _meaningless),
    **dict.fromkeys(KD_SETTINGS_OF_MLKD, _kd_setting),
    **dict.fromkeys(SWITCHES, _switch),
    "CAT_KD.onlyCAT": _only_cat,
    "SOLVER.TRAINER": _trainer,
    "SOLVER.LR_COS": _cosine,
    "SOLVER.LR_POLICY": _policy,
    "SOLVER.DEEPKD.DKD": _dkd_flag,
    **{f"SOLVER.DEEPKD.{key}": _dkd_weight for key in DKD_WEIGHTS},
    "SOLVER.DEEPKD.TOPK": _topk,
    "EXPERIMENT.LOGIT_STAND": _logit_stand,
    "DISTILLER.AUG_TEACHER": aug_teacher,
    "DATASET.ENHANCE_AUGMENT": _enhance_augment,
    "GDKD.STRATEGY": _strategy,
}
