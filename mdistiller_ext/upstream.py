"""mdistiller's dialects: what the yaml files of mdistiller, DeepKD, GDKD and LSKD's repository say in other words than ours.

``_HANDLERS`` says how: a function for each foreign key, in no order. Every translation, and every key that means nothing
here, is a line of the notes that come with it; only flags that are off are not worth one. Plain settings go in and out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from .errors import ConfigError, shown

# Nodes of methods that those repositories have and this project has not.
OTHER_METHODS = frozenset(
    [
        "ADKD",
        "AT",
        "CRD",
        "CRLD",
        "DIST_GDKD",
        "DKDMOD",
        "DKDMod",
        "DKD_aug",
        "FITNET",
        "GDKDAUTOK",
        "GDKDAutoW",
        "GDKDAutok",
        "KDSVD",
        "KD_ours",
        "LS_GDKD",
        "MLKD",
        "NST",
        "OFD",
        "PKT",
        "REVIEWKD",
        "REVIEWKD_GDKD",
        "RKD",
        "SGDKD",
        "SKD",
        "SP",
        "VID",
    ]
)
_RENAMED = {
    "SOLVER.LR_MIN": "SOLVER.MIN_LR",
    "SOLVER.SGD_NESTEROV": "SOLVER.NESTEROV",
    "SOLVER.DKDOT.DELTA_TASK": "SOLVER.DEEPKD.DELTA_TOG",
    "SOLVER.DKDOT.DELTA_TCKD": "SOLVER.DEEPKD.DELTA_TCG",
    "SOLVER.DKDOT.DELTA_NCKD": "SOLVER.DEEPKD.DELTA_NCG",
    "SOLVER.DKDOT.DKD": "SOLVER.DEEPKD.DKD",
    "SOLVER.DKDOT.TOPK": "SOLVER.DEEPKD.TOPK",
    "DISTILLER.TEACHER_WEIGHTS": "DISTILLER.TEACHER_CKPT",
}
_MEANINGLESS = {
    "LOG.TENSORBOARD_FREQ": "scalars are written once an epoch",
    "LOG.WANDB_MODEL_LOG": "weights are not sent to W&B",
    "LOG.WANDB_MODEL_LOG_FREQ": "weights are not sent to W&B",
    "LOG.ENABLE_PROGRESS_BAR": "there is one where the output is a terminal",
    "SOLVER.DEEPKD.CE_WEIGHT": "DeepKD's release reads it nowhere; the method's CE_WEIGHT counts",
    "SOLVER.DEEPKD.TOPK": "the mask is DISTILLER.TYPE DEEPKD's (DEEPKD.K_STATIC, DEEPKD.DTM)",
    "SOLVER.DEEPKD.DKD": "DISTILLER.TYPE says it",
    "SOLVER.DEEPKD.ALPHA": "DKD.ALPHA counts",
    "SOLVER.DEEPKD.BETA": "DKD.BETA counts",
    "SOLVER.DEEPKD.WARMUP_FACTOR": "DKD.WARMUP counts",
}
_AUG_TEACHERS = {
    "cifar100": "download_ckpts/cifar_teachers/{model}_aug/ckpt_epoch_240.pth",
    **{
        name: f"download_ckpts/{name.replace('-', '_')}_teachers/{{lower}}/student_100_aug.pth"
        for name in ("cub2011", "dtd", "food101", "tiny-imagenet")
    },
}


@dataclass(frozen=True)
class _Run:
    """What a setting may mean something together with: those beside it, and those that the run has so far."""

    beside: Mapping[str, Any]
    before: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.beside[name] if name in self.beside else self.before[name]


class _Meaning(NamedTuple):
    """A setting in our words: what it says, what it implies unless something beside it says otherwise, and a note."""

    says: Mapping[str, Any] = MappingProxyType({})
    implies: Mapping[str, Any] = MappingProxyType({})
    note: str = ""


def translate(settings: dict[str, Any], *, before: Mapping[str, Any], whole_file: bool) -> tuple[dict[str, Any], list[str]]:
    """Settings in our words, by dotted names, and notes on what was understood.

    Args:
        settings: by dotted names, such as ``{"SOLVER.LR_COS": True}``; those that are ours have our types.
        before: all settings of the run so far.
        whole_file: whether ``settings`` are all of an upstream file, which may then mean more than it says.

    Raises ConfigError for what cannot be had here, and for two settings that contradict each other.
    """
    notes, written = [], frozenset(settings)
    if _Run(settings, before)["DISTILLER.TYPE"] == "KD" and any(settings.get(name) is True for name in _DKD_FLAGS):
        settings, note = _kd_that_is_dkd(_Run(settings, before))
        notes.append(note)
    run = _Run(settings, before)
    said: dict[str, tuple[str, Any]] = {}  # what the key was called there, and the value
    implied: dict[str, Any] = {}
    for meaning in _of_repository(run, written) if whole_file else ():
        implied.update(meaning.implies)
        notes.append(meaning.note)
    for name, value in settings.items():
        meaning = _HANDLERS.get(name, _as_it_is)(name, value, run)
        for key, new in meaning.says.items():
            other, old = said.setdefault(key, (name, new))
            if other != name and old != new:
                raise ConfigError(f"{other} and {name} contradict each other: {key} {shown(old)} and {shown(new)}")
        implied.update(meaning.implies)
        if meaning.note:
            notes.append(meaning.note)
    ours = implied | {key: value for key, (_, value) in said.items()}
    if whole_file:
        notes += _silent_meaning(_Run(ours, before), settings)
    return ours, notes


# ---- one key ------------------------------------------------------------------------------------------------------


def _as_it_is(name: str, value: Any, run: _Run) -> _Meaning:
    return _Meaning({name: value})


def _renamed(name: str, value: Any, run: _Run) -> _Meaning:
    new = _RENAMED[name]
    says, implies, note = _HANDLERS.get(new, _as_it_is)(new, value, run)
    return _Meaning(says, implies, f"{name} is {new}" + (f"; {note}" if note else ""))


def _meaningless(name: str, value: Any, run: _Run) -> _Meaning:
    return _Meaning(note=f"{name} means nothing here: {_MEANINGLESS[name]}")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {shown(value)}")
    return value


def _dkd_flag(name: str, value: Any, run: _Run) -> _Meaning:
    _flag(name, value)  # where it counts, translate has seen it
    return _meaningless(name, value, run)


def _trainer(name: str, value: str, run: _Run) -> _Meaning:
    if value not in _DEEPKD_TRAINERS[1:]:
        return _Meaning({name: value})
    views = "; the second, strongly augmented view is not here: only MLKD and CRLD use it" if value == "deepkd_aug" else ""
    return _Meaning({name: "deepkd"}, note=f"{name} {value} is deepkd{views}")


def _cosine(name: str, value: Any, run: _Run) -> _Meaning:
    if not _flag(name, value):
        return _Meaning(implies={"SOLVER.LR_SCHEDULER": "step", "SOLVER.WARMUP_EPOCHS": 0})
    defaults = {"SOLVER.MIN_LR": 0.00005, "SOLVER.WARMUP_EPOCHS": 20, "SOLVER.WARMUP_FACTOR": 0.1}  # LR_COS's in DeepKD
    epochs = run.beside.get("SOLVER.WARMUP_EPOCHS", defaults["SOLVER.WARMUP_EPOCHS"])
    note = f"{name} is LR_SCHEDULER cosine after a warm-up of {epochs} epochs"
    if not epochs:
        note += ", whose first epoch has the full rate; the release is one epoch ahead"
    return _Meaning({"SOLVER.LR_SCHEDULER": "cosine"}, defaults, note)


def _policy(name: str, value: Any, run: _Run) -> _Meaning:
    """DeepKD's files have it as a flag, for the LR_COS that its code reads."""
    if value not in (True, False, "cosine", "step"):
        raise ConfigError(f"{name} must be true, cosine or step, not {shown(value)}")
    if value == "step":
        return _Meaning({"SOLVER.LR_SCHEDULER": "step"}, note=f"{name} step is LR_SCHEDULER step")
    return _cosine(name, value == "cosine" or value, run)


def _logit_stand(name: str, value: Any, run: _Run) -> _Meaning:
    method = run["DISTILLER.TYPE"]
    ours, on = f"{method}.STANDARDIZE", _flag(name, value)
    if ours in run.before:
        return _Meaning({ours: True}, note=f"{name} is {ours}") if on else _Meaning(implies={ours: False})
    if on and method != "LSKD":
        able = sorted(other.removesuffix(".STANDARDIZE") for other in run.before if other.endswith(".STANDARDIZE"))
        raise ConfigError(f"{name}: {method} has no standardisation of logits (STANDARDIZE); {', '.join(able)} and LSKD have")
    return _Meaning(note=f"{name}: LSKD standardises logits always" if on else "")


def _aug_teacher(name: str, value: Any, run: _Run) -> _Meaning:
    model, ours = run["DISTILLER.TEACHER"], "DISTILLER.TEACHER_CKPT"
    path = _AUG_TEACHERS.get(run["DATASET.TYPE"], "").format(model=model, lower=model.lower())
    if not _flag(name, value):
        return _Meaning(implies={ours: ""} if path and run.before[ours] == path else {})  # over a file that has it on
    if not path:
        return _Meaning(note=f"{name} means nothing here: there are no augmented teachers for {run['DATASET.TYPE']}")
    if run.beside.keys() & {ours, "DISTILLER.TEACHER_WEIGHTS"}:
        return _Meaning(note=f"{name} means nothing here: {ours} is given too")
    return _Meaning(implies={ours: path}, note=f"{name} is {ours} {path}")


def _enhance_augment(name: str, value: Any, run: _Run) -> _Meaning:
    if not _flag(name, value):
        return _Meaning(implies={"DATASET.STRONG": []})
    strong = ["autoaugment", "cutout"] if run["DATASET.TYPE"] == "cifar100" else ["randaugment", "erasing"]
    return _Meaning({"DATASET.STRONG": strong}, note=f"{name} is DATASET.STRONG {strong}")


def _strategy(name: str, value: Any, run: _Run) -> _Meaning:
    if value != "best":
        raise ConfigError(f"{name}: only best is offered, the classes that the teacher ranks highest, not {shown(value)}")
    return _Meaning(note=f"{name} best is the only one here")


def _topk(name: str, value: Any, run: _Run) -> _Meaning:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{name} must be a whole number from 0, not {shown(value)}")
    if value and run["DISTILLER.TYPE"] == "DKD":
        raise ConfigError(
            f"{name}: DKD on the teacher's {value} first classes is DISTILLER.TYPE DEEPKD with DEEPKD.K_INITIAL 1.0, "
            f"K_STATIC {value}, PHASE_ENDS [1, {run['SOLVER.EPOCHS']}], and DKD's settings under DEEPKD"
        )
    if value and run["DISTILLER.TYPE"] == "KD":
        return _Meaning(note=f"{name} means nothing here: DeepKD's release does not pass it on for KD either, by a misspelling")
    return _meaningless(name, value, run)


_HANDLERS: dict[str, Callable[[str, Any, _Run], _Meaning]] = {
    **dict.fromkeys(_RENAMED, _renamed),
    **dict.fromkeys(_MEANINGLESS, _meaningless),
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


# ---- all keys together --------------------------------------------------------------------------------------------

_GIVES_TEACHER = frozenset(["DISTILLER.AUG_TEACHER", "DISTILLER.TEACHER_CKPT", "DISTILLER.TEACHER_WEIGHTS"])
# What only DeepKD's release spells, and the trainers that are its optimizer there.
_DEEPKD_KEYS = ("SOLVER.DKDOT.", "SOLVER.DEEPKD.DKD", "SOLVER.DEEPKD.TOPK", "SOLVER.DEEPKD.CE_WEIGHT")
_DEEPKD_TRAINERS = ("deepkd", "ours", "dkdot", "deepkd_aug")
_DKD_FLAGS = ("SOLVER.DEEPKD.DKD", "SOLVER.DKDOT.DKD")
_TOPK = ("SOLVER.DEEPKD.TOPK", "SOLVER.DKDOT.TOPK")


def _kd_that_is_dkd(run: _Run) -> tuple[dict[str, Any], str]:
    """DeepKD's release computes DKD's two parts for a KD whose SOLVER.DEEPKD.DKD is set: the same under the right name."""
    alpha, beta, warmup = (f"SOLVER.DEEPKD.{name}" for name in ("ALPHA", "BETA", "WARMUP_FACTOR"))
    dkd = {
        "DKD.T": run["KD.TEMPERATURE"],
        "DKD.CE_WEIGHT": run["KD.LOSS.CE_WEIGHT"],
        "DKD.ALPHA": run.beside.get(alpha, 1.0),
        "DKD.BETA": run.beside.get(beta, 8.0),
        "DKD.WARMUP": run.beside.get(warmup, 20),
    }
    spelled = {"KD.TEMPERATURE", "KD.LOSS.CE_WEIGHT", alpha, beta, warmup, *_DKD_FLAGS, *_TOPK}
    rest = {name: value for name, value in run.beside.items() if name not in spelled}
    values = ", ".join(f"{name} {shown(value)}" for name, value in dkd.items())
    note = f"KD with SOLVER.DEEPKD.DKD is DISTILLER.TYPE DKD, with what the release then computes ({values})"
    if any(run.beside.get(name) for name in _TOPK):
        note += "; its TOPK means nothing: the release does not pass it on for KD, by a misspelling"
    return rest | dkd | {"DISTILLER.TYPE": "DKD"}, note


def _of_repository(run: _Run, written: Collection[str]) -> Iterator[_Meaning]:
    """What a file implies by the defaults and the code of the repository that its keys ``written`` show it to be from."""
    method, dataset = run["DISTILLER.TYPE"], run["DATASET.TYPE"]
    if run.beside.get("SOLVER.TRAINER") in _DEEPKD_TRAINERS and any(name.startswith(_DEEPKD_KEYS) for name in written):
        rules = {"SOLVER.DEEPKD.RULE": "official"} | ({"KD.RULE": "official"} if method == "KD" else {})
        yield _Meaning(
            implies=rules,
            note=f"a file of DeepKD's release trains as the release does: {', '.join(map(' '.join, rules.items()))}; the "
            "paper's rule is `paper`",
        )
    tag = re.fullmatch(r"kd,.*,(\d+),(\d+)", str(run.beside.get("EXPERIMENT.TAG")))
    if method == "KD" and tag and not any(name.startswith("KD.") for name in written):
        yield _Meaning(
            implies={"KD.TEMPERATURE": float(tag[1]), "KD.LOSS.KD_WEIGHT": float(tag[2])},
            note=f"a file of LSKD's repository, whose defaults its TAG names: KD.TEMPERATURE {tag[1]}, KD.LOSS.KD_WEIGHT "
            f"{tag[2]}; with its --logit-stand it is DISTILLER.TYPE LSKD",
        )
    if method != "NONE" and dataset in _AUG_TEACHERS and dataset != "cifar100" and _GIVES_TEACHER.isdisjoint(written):
        yield _aug_teacher("DISTILLER.AUG_TEACHER (by default in GDKD's repository)", True, run)


def _silent_meaning(run: _Run, written: Collection[str]) -> list[str]:
    """What an upstream file says only together with its repository's code; ``written`` are its keys as they stand there."""
    notes = []
    settings, method = run.beside, run.beside.get("DISTILLER.TYPE")
    networks = (settings.get("DISTILLER.STUDENT"), settings.get("DISTILLER.TEACHER"))
    if settings.get("DATASET.TYPE") == "imagenet" and "MobileNetV2" in networks:
        notes.append(
            "MobileNetV2 is the network of that name; the DeepKD and LSKD repositories give that name to a MobileNetV1, "
            "which is DISTILLER.STUDENT MobileNetV1 here"
        )
    if method in ("GDKD", "GDKD3", "LSKD", "DIST") and run["DATASET.TYPE"] == "cifar100" and _GIVES_TEACHER.isdisjoint(written):
        notes.append(
            "GDKD's repository means its augmented teacher: DISTILLER.AUG_TEACHER True, trained by "
            "configs/cifar100/teachers_aug/; this run uses the vanilla one"
        )
    if method == "KD" and not any(name.startswith("KD.") for name in (*written, *settings)):
        defaults = [f"{name} {run[name]}" for name in ("KD.TEMPERATURE", "KD.LOSS.CE_WEIGHT", "KD.LOSS.KD_WEIGHT")]
        notes.append(
            f"KD with the defaults of mdistiller and DeepKD ({', '.join(defaults)}); a file of LSKD's repository means "
            "KD.TEMPERATURE 2 and KD.LOSS.KD_WEIGHT 9 or, run with its --logit-stand, DISTILLER.TYPE LSKD"
        )
    if settings.get("SOLVER.LR_SCHEDULER") == "cosine" and "SOLVER.MIN_LR" not in settings:
        notes.append(f"cosine ends at SOLVER.MIN_LR {run['SOLVER.MIN_LR']}; in a file of GDKD's repository that is 0.0001")
    return notes
