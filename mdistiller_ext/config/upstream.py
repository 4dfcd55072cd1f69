"""Translate settings from mdistiller's dialects: the yaml files of mdistiller, DeepKD, GDKD and LSKD's repository.

``_HANDLERS`` has a function for each foreign setting; their order does not matter. Every translation, and every setting without
an equivalent, adds a note, except for flags that are off. Input and output are plain values by dotted names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import ConfigError, shown
from .upstream_tables import (
    AUG_TEACHERS,
    DEEPKD_SETTINGS,
    DEEPKD_TRAINERS,
    DKD_FLAGS,
    MEANINGLESS,
    OTHER_METHODS,
    RENAMED,
    TEACHER_SETTINGS,
    TOPK_SETTINGS,
)

__all__ = ["OTHER_METHODS", "translate"]


@dataclass(frozen=True)
class _Context:
    """Settings that the meaning of another one may depend on: those given together with it, and the current ones of the run."""

    given: Mapping[str, Any]
    current: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.given[name] if name in self.given else self.current[name]


class _Translation(NamedTuple):
    """A setting translated: the settings that it is, settings that it implies unless they are given, and a note."""

    settings: Mapping[str, Any] = MappingProxyType({})
    implied: Mapping[str, Any] = MappingProxyType({})
    note: str = ""


def translate(settings: dict[str, Any], *, current: Mapping[str, Any], whole_file: bool) -> tuple[dict[str, Any], list[str]]:
    """Return settings of this project by dotted names, and notes on what was translated.

    Args:
        settings: by dotted names, such as ``{"SOLVER.LR_COS": True}``. Values of settings of this project have their types.
        current: all settings of the run before these are merged.
        whole_file: Whether ``settings`` are a complete upstream file, whose meaning may depend on its repository.

    Raises ConfigError for what this project does not offer, and for two settings that contradict each other.
    """
    notes, written = [], frozenset(settings)
    if _Context(settings, current)["DISTILLER.TYPE"] == "KD" and any(settings.get(name) is True for name in DKD_FLAGS):
        settings, note = _kd_with_dkd_flag(_Context(settings, current))
        notes.append(note)
    context = _Context(settings, current)
    explicit: dict[str, tuple[str, Any]] = {}  # foreign name and value, by name in this project
    implied: dict[str, Any] = {}
    for translation in _repository_defaults(context, written) if whole_file else ():
        implied.update(translation.implied)
        notes.append(translation.note)
    for name, value in settings.items():
        translation = _HANDLERS.get(name, _unchanged)(name, value, context)
        for key, new in translation.settings.items():
            other, old = explicit.setdefault(key, (name, new))
            if other != name and old != new:
                raise ConfigError(f"{other} and {name} contradict each other: {key} {shown(old)} and {shown(new)}")
        implied.update(translation.implied)
        if translation.note:
            notes.append(translation.note)
    translated = implied | {key: value for key, (_, value) in explicit.items()}
    if whole_file:
        notes += _file_notes(_Context(translated, current), settings)
    return translated, notes


# ---- single settings ----------------------------------------------------------------------------------------------


def _unchanged(name: str, value: Any, context: _Context) -> _Translation:
    return _Translation({name: value})


def _renamed(name: str, value: Any, context: _Context) -> _Translation:
    new = RENAMED[name]
    settings, implied, note = _HANDLERS.get(new, _unchanged)(new, value, context)
    return _Translation(settings, implied, f"{name} is {new}" + (f"; {note}" if note else ""))


def _meaningless(name: str, value: Any, context: _Context) -> _Translation:
    return _Translation(note=f"{name} means nothing here: {MEANINGLESS[name]}")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {shown(value)}")
    return value


def _dkd_flag(name: str, value: Any, context: _Context) -> _Translation:
    _flag(name, value)  # where it has an effect, _kd_with_dkd_flag has removed it
    return _meaningless(name, value, context)


def _trainer(name: str, value: str, context: _Context) -> _Translation:
    if value not in DEEPKD_TRAINERS[1:]:
        return _Translation({name: value})
    views = "; the second, strongly augmented view is not here: only MLKD and CRLD use it" if value == "deepkd_aug" else ""
    return _Translation({name: "deepkd"}, note=f"{name} {value} is deepkd{views}")


def _cosine(name: str, value: Any, context: _Context) -> _Translation:
    if not _flag(name, value):
        return _Translation(implied={"SOLVER.LR_SCHEDULER": "step", "SOLVER.WARMUP_EPOCHS": 0})
    defaults = {"SOLVER.MIN_LR": 0.00005, "SOLVER.WARMUP_EPOCHS": 20, "SOLVER.WARMUP_FACTOR": 0.1}  # of LR_COS in DeepKD
    epochs = context.given.get("SOLVER.WARMUP_EPOCHS", defaults["SOLVER.WARMUP_EPOCHS"])
    note = f"{name} is LR_SCHEDULER cosine after a warm-up of {epochs} epochs"
    if not epochs:
        note += ", whose first epoch has the full rate; the release is one epoch ahead"
    return _Translation({"SOLVER.LR_SCHEDULER": "cosine"}, defaults, note)


def _policy(name: str, value: Any, context: _Context) -> _Translation:
    """A flag in DeepKD's files, whose code reads LR_COS instead."""
    if value not in (True, False, "cosine", "step"):
        raise ConfigError(f"{name} must be true, cosine or step, not {shown(value)}")
    if value == "step":
        return _Translation({"SOLVER.LR_SCHEDULER": "step"}, note=f"{name} step is LR_SCHEDULER step")
    return _cosine(name, value == "cosine" or value, context)


def _logit_stand(name: str, value: Any, context: _Context) -> _Translation:
    method = context["DISTILLER.TYPE"]
    standardize, on = f"{method}.STANDARDIZE", _flag(name, value)
    if standardize in context.current:
        return (
            _Translation({standardize: True}, note=f"{name} is {standardize}")
            if on
            else _Translation(implied={standardize: False})
        )
    if on and method != "LSKD":
        able = sorted(other.removesuffix(".STANDARDIZE") for other in context.current if other.endswith(".STANDARDIZE"))
        raise ConfigError(f"{name}: {method} has no standardisation of logits (STANDARDIZE); {', '.join(able)} and LSKD have")
    return _Translation(note=f"{name}: LSKD standardises logits always" if on else "")


def _aug_teacher(name: str, value: Any, context: _Context) -> _Translation:
    model, checkpoint = context["DISTILLER.TEACHER"], "DISTILLER.TEACHER_CKPT"
    path = AUG_TEACHERS.get(context["DATASET.TYPE"], "").format(model=model, lower=model.lower())
    if not _flag(name, value):  # undoes the flag of a file that these settings are merged over
        return _Translation(implied={checkpoint: ""} if path and context.current[checkpoint] == path else {})
    if not path:
        return _Translation(note=f"{name} means nothing here: there are no augmented teachers for {context['DATASET.TYPE']}")
    if context.given.keys() & {checkpoint, "DISTILLER.TEACHER_WEIGHTS"}:
        return _Translation(note=f"{name} means nothing here: {checkpoint} is given too")
    return _Translation(implied={checkpoint: path}, note=f"{name} is {checkpoint} {path}")


def _enhance_augment(name: str, value: Any, context: _Context) -> _Translation:
    if not _flag(name, value):
        return _Translation(implied={"DATASET.STRONG": []})
    strong = ["autoaugment", "cutout"] if context["DATASET.TYPE"] == "cifar100" else ["randaugment", "erasing"]
    return _Translation({"DATASET.STRONG": strong}, note=f"{name} is DATASET.STRONG {strong}")


def _strategy(name: str, value: Any, context: _Context) -> _Translation:
    if value != "best":
        raise ConfigError(f"{name}: only best is offered, the classes that the teacher ranks highest, not {shown(value)}")
    return _Translation(note=f"{name} best is the only one here")


def _topk(name: str, value: Any, context: _Context) -> _Translation:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{name} must be a whole number from 0, not {shown(value)}")
    if value and context["DISTILLER.TYPE"] == "DKD":
        raise ConfigError(
            f"{name}: DKD on the teacher's {value} first classes is DISTILLER.TYPE DEEPKD with DEEPKD.K_INITIAL 1.0, "
            f"K_STATIC {value}, PHASE_ENDS [1, {context['SOLVER.EPOCHS']}], and DKD's settings under DEEPKD"
        )
    if value and context["DISTILLER.TYPE"] == "KD":
        note = f"{name} means nothing here: DeepKD's release does not pass it on for KD either, by a misspelling"
        return _Translation(note=note)
    return _meaningless(name, value, context)


_HANDLERS: dict[str, Callable[[str, Any, _Context], _Translation]] = {
    **dict.fromkeys(RENAMED, _renamed),
    **dict.fromkeys(MEANINGLESS, _meaningless),
    "SOLVER.TRAINER": _trainer,
    "SOLVER.LR_COS": _cosine,
    "SOLVER.LR_POLICY": _policy,
    "SOLVER.DEEPKD.DKD": _dkd_flag,
    "SOLVER.DEEPKD.TOPK": _topk,
    "EXPERIMENT.LOGIT_STAND": _logit_stand,
    "DISTILLER.AUG_TEACHER": _aug_teacher,
    "DATASET.ENHANCE_AUGMENT": _enhance_augment,
    "GDKD.STRATEGY": _strategy,
}


# ---- combinations of settings and complete files -------------------------------------------------------------------


def _kd_with_dkd_flag(context: _Context) -> tuple[dict[str, Any], str]:
    """Return the settings of a KD with SOLVER.DEEPKD.DKD, for which DeepKD's release computes DKD's two parts, as DKD's."""
    alpha, beta, warmup = (f"SOLVER.DEEPKD.{name}" for name in ("ALPHA", "BETA", "WARMUP_FACTOR"))
    dkd = {
        "DKD.T": context["KD.TEMPERATURE"],
        "DKD.CE_WEIGHT": context["KD.LOSS.CE_WEIGHT"],
        "DKD.ALPHA": context.given.get(alpha, 1.0),
        "DKD.BETA": context.given.get(beta, 8.0),
        "DKD.WARMUP": context.given.get(warmup, 20),
    }
    consumed = {"KD.TEMPERATURE", "KD.LOSS.CE_WEIGHT", alpha, beta, warmup, *DKD_FLAGS, *TOPK_SETTINGS}
    rest = {name: value for name, value in context.given.items() if name not in consumed}
    values = ", ".join(f"{name} {shown(value)}" for name, value in dkd.items())
    note = f"KD with SOLVER.DEEPKD.DKD is DISTILLER.TYPE DKD, with what the release then computes ({values})"
    if any(context.given.get(name) for name in TOPK_SETTINGS):
        note += "; its TOPK means nothing: the release does not pass it on for KD, by a misspelling"
    return rest | dkd | {"DISTILLER.TYPE": "DKD"}, note


def _repository_defaults(context: _Context, written: Collection[str]) -> Iterator[_Translation]:
    """Yield what defaults and code of a file's repository imply; the settings ``written`` in it show which one it is from."""
    method, dataset = context["DISTILLER.TYPE"], context["DATASET.TYPE"]
    if context.given.get("SOLVER.TRAINER") in DEEPKD_TRAINERS and any(name.startswith(DEEPKD_SETTINGS) for name in written):
        rules = {"SOLVER.DEEPKD.RULE": "official"} | ({"KD.RULE": "official"} if method == "KD" else {})
        yield _Translation(
            implied=rules,
            note=f"a file of DeepKD's release trains as the release does: {', '.join(map(' '.join, rules.items()))}; the "
            "paper's rule is `paper`",
        )
    tag = re.fullmatch(r"kd,.*,(\d+),(\d+)", str(context.given.get("EXPERIMENT.TAG")))
    if method == "KD" and tag and not any(name.startswith("KD.") for name in written):
        yield _Translation(
            implied={"KD.TEMPERATURE": float(tag[1]), "KD.LOSS.KD_WEIGHT": float(tag[2])},
            note=f"a file of LSKD's repository, whose defaults its TAG names: KD.TEMPERATURE {tag[1]}, KD.LOSS.KD_WEIGHT "
            f"{tag[2]}; with its --logit-stand it is DISTILLER.TYPE LSKD",
        )
    if method != "NONE" and dataset in AUG_TEACHERS and dataset != "cifar100" and TEACHER_SETTINGS.isdisjoint(written):
        yield _aug_teacher("DISTILLER.AUG_TEACHER (by default in GDKD's repository)", True, context)


def _file_notes(context: _Context, written: Collection[str]) -> list[str]:
    """Return notes on what an upstream file means only with its repository's code. ``written`` are the settings in it."""
    notes = []
    settings, method = context.given, context.given.get("DISTILLER.TYPE")
    networks = (settings.get("DISTILLER.STUDENT"), settings.get("DISTILLER.TEACHER"))
    if settings.get("DATASET.TYPE") == "imagenet" and "MobileNetV2" in networks:
        notes.append(
            "MobileNetV2 is the network of that name; the DeepKD and LSKD repositories give that name to a MobileNetV1, "
            "which is DISTILLER.STUDENT MobileNetV1 here"
        )
    if (
        method in ("GDKD", "GDKD3", "LSKD", "DIST")
        and context["DATASET.TYPE"] == "cifar100"
        and TEACHER_SETTINGS.isdisjoint(written)
    ):
        notes.append(
            "GDKD's repository means its augmented teacher: DISTILLER.AUG_TEACHER True, trained by "
            "configs/cifar100/teachers_aug/; this run uses the vanilla one"
        )
    if method == "KD" and not any(name.startswith("KD.") for name in (*written, *settings)):
        defaults = [f"{name} {context[name]}" for name in ("KD.TEMPERATURE", "KD.LOSS.CE_WEIGHT", "KD.LOSS.KD_WEIGHT")]
        notes.append(
            f"KD with the defaults of mdistiller and DeepKD ({', '.join(defaults)}); a file of LSKD's repository means "
            "KD.TEMPERATURE 2 and KD.LOSS.KD_WEIGHT 9 or, run with its --logit-stand, DISTILLER.TYPE LSKD"
        )
    if settings.get("SOLVER.LR_SCHEDULER") == "cosine" and "SOLVER.MIN_LR" not in settings:
        notes.append(f"cosine ends at SOLVER.MIN_LR {context['SOLVER.MIN_LR']}; in a file of GDKD's repository that is 0.0001")
    return notes
