"""Translate settings from mdistiller's dialects: the yaml files of mdistiller, DeepKD and GDKD, and
those of the repositories of LSKD, MLKD, CRLD and CAT-KD.

Input and output are plain values by dotted names. Each setting is translated by ``upstream_settings.py``; combinations of
settings, and what a complete file means only with the code of its repository, are here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..errors import ConfigError, shown
from .upstream_settings import HANDLERS, Context, Translation, aug_teacher, unchanged
from .upstream_tables import (
    AUG_TEACHERS,
    DEEPKD_GROUPS,
    DEEPKD_SETTINGS,
    DEEPKD_TRAINERS,
    DKD_FLAGS,
    DKD_WEIGHTS,
    METHODS,
    OTHER_METHODS,
    TEACHER_SETTINGS,
    TOPK_SETTINGS,
)

__all__ = ["OTHER_METHODS", "translate"]


def translate(settings: dict[str, Any], *, current: Mapping[str, Any], whole_file: bool) -> tuple[dict[str, Any], list[str]]:
    """Return settings of this project by dotted names, and notes on what was translated.

    Args:
        settings: by dotted names, such as ``{"SOLVER.LR_COS": True}``. Values of settings of this project have their types.
        current: all settings of the run before these are merged.
        whole_file: Whether ``settings`` are a complete upstream file, whose meaning may depend on its repository.

    Raises ConfigError for what this project does not offer, and for two settings that contradict each other.
    """
    notes, written = [], frozenset(settings)
    if Context(settings, current)["DISTILLER.TYPE"] == "KD" and any(settings.get(name) is True for name in DKD_FLAGS):
        settings, note = _kd_with_dkd_flag(Context(settings, current))
        notes.append(note)
    context = Context(settings, current)
    explicit: dict[str, tuple[str, Any]] = {}  # foreign name and value, by name in this project
    implied: dict[str, Any] = {}
    for translation in _repository_defaults(context, written) if whole_file else ():
        implied.update(translation.implied)
        notes.append(translation.note)
    method = settings.get("DISTILLER.TYPE")
    if method in METHODS:
        notes.append(f"DISTILLER.TYPE {method} is {METHODS[method]}")
        settings = settings | {"DISTILLER.TYPE": METHODS[method]}
        context = Context(settings, current)
    for name, value in settings.items():
        translation = HANDLERS.get(name, unchanged)(name, value, context)
        for key, new in translation.settings.items():
            other, old = explicit.setdefault(key, (name, new))
            if other != name and old != new:
                raise ConfigError(f"{other} and {name} contradict each other: {key} {shown(old)} and {shown(new)}")
        implied.update(translation.implied)
        if translation.note:
            notes.append(translation.note)
    translated = implied | {key: value for key, (_, value) in explicit.items()}
    if whole_file:
        notes += _file_notes(Context(translated, current), settings)
    return translated, notes


# ---- combinations of settings and complete files -------------------------------------------------------------------


def _kd_with_dkd_flag(context: Context) -> tuple[dict[str, Any], str]:
    """Return the settings of a KD with SOLVER.DEEPKD.DKD, for which DeepKD's release computes DKD's two parts, as DKD's."""
    weights = {f"SOLVER.DEEPKD.{name}": default for name, default in DKD_WEIGHTS.items()}
    alpha, beta, warmup = (context.given.get(name, default) for name, default in weights.items())
    dkd = {
        "DKD.T": context["KD.TEMPERATURE"],
        "DKD.CE_WEIGHT": context["KD.LOSS.CE_WEIGHT"],
        "DKD.ALPHA": alpha,
        "DKD.BETA": beta,
        "DKD.WARMUP": warmup,
    }
    consumed = {"KD.TEMPERATURE", "KD.LOSS.CE_WEIGHT", *weights, *DKD_FLAGS, *TOPK_SETTINGS}
    rest = {name: value for name, value in context.given.items() if name not in consumed}
    values = ", ".join(f"{name} {shown(value)}" for name, value in dkd.items())
    note = f"KD with SOLVER.DEEPKD.DKD is DISTILLER.TYPE DKD, with what the release then computes ({values})"
    if any(context.given.get(name) for name in TOPK_SETTINGS):
        note += "; its TOPK means nothing: the release does not pass it on for KD, by a misspelling"
    return rest | dkd | {"DISTILLER.TYPE": "DKD"}, note


def _repository_defaults(context: Context, written: Collection[str]) -> Iterator[Translation]:
    """Yield what defaults and code of a file's repository imply; the settings ``written`` in it show which one it is from."""
    method, dataset = context["DISTILLER.TYPE"], context["DATASET.TYPE"]
    if context.given.get("SOLVER.TRAINER") in DEEPKD_TRAINERS and any(name.startswith(DEEPKD_SETTINGS) for name in written):
        rules = {"SOLVER.DEEPKD.RULE": "official"} | ({"KD.RULE": "official"} if method == "KD" else {})
        yield Translation(
            implied=rules,
            note=f"a file of DeepKD's release trains as the release does: {', '.join(map(' '.join, rules.items()))}; the "
            "paper's rule is `paper`",
        )
    tag = re.fullmatch(r"kd,.*,(\d+),(\d+)", str(context.given.get("EXPERIMENT.TAG")))
    if method == "KD" and tag and not any(name.startswith("KD.") for name in written):
        yield Translation(
            implied={"KD.TEMPERATURE": float(tag[1]), "KD.LOSS.KD_WEIGHT": float(tag[2])},
            note=f"a file of LSKD's repository, whose defaults its TAG names: KD.TEMPERATURE {tag[1]}, KD.LOSS.KD_WEIGHT "
            f"{tag[2]}; with its --logit-stand it is DISTILLER.TYPE LSKD",
        )
    trainer = context.given.get("SOLVER.TRAINER")
    if (
        method == "MLKD"
        and trainer == "ours"
        and not any(name.startswith((*DEEPKD_GROUPS, "KD.", "MLKD.")) for name in written)
    ):
        yield Translation(
            implied={"MLKD.TEMPERATURE": 2.0, "MLKD.KD_WEIGHT": 9.0},
            note="a file of LSKD's repository, whose defaults are MLKD.TEMPERATURE 2 and MLKD.KD_WEIGHT 9 (MLKD's own: "
            f"{context['MLKD.TEMPERATURE']} and {context['MLKD.KD_WEIGHT']}); its --logit-stand is MLKD.STANDARDIZE True",
        )
    if method != "NONE" and dataset in AUG_TEACHERS and dataset != "cifar100" and TEACHER_SETTINGS.isdisjoint(written):
        yield aug_teacher("DISTILLER.AUG_TEACHER (by default in GDKD's repository)", True, context)


def _file_notes(context: Context, written: Collection[str]) -> list[str]:
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
        (method in ("GDKD", "GDKD3", "LSKD", "DIST") or (method == "MLKD" and "SOLVER.TRAINER" not in written))
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
    mid = "REVIEWKD.MAX_MID_CHANNEL"
    if method == "REVIEWKD" and mid in settings:
        notes.append(f"{mid} {settings[mid]} has an effect here, as in ReviewKD's repository; mdistiller always uses 512")
    if settings.get("SOLVER.LR_SCHEDULER") == "cosine" and "SOLVER.MIN_LR" not in settings:
        notes.append(f"cosine ends at SOLVER.MIN_LR {context['SOLVER.MIN_LR']}; in a file of GDKD's repository that is 0.0001")
    return notes
