"""mdistiller's dialects: what the yaml files of mdistiller, DeepKD, GDKD and LSKD's repository say in other words than ours.

A file is translated key by key and nothing is dropped in silence: every translation, and every key that means nothing
here, is a line of the notes that come with it. Plain trees of settings go in and out.
"""

from __future__ import annotations

from typing import Any

from .errors import ConfigError

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
_COSINE = {  # the defaults of DeepKD's LR_COS
    "SOLVER.LR_SCHEDULER": "cosine",
    "SOLVER.MIN_LR": 0.00005,
    "SOLVER.WARMUP_EPOCHS": 20,
    "SOLVER.WARMUP_FACTOR": 0.1,
}


def translate(settings: dict[str, Any], *, method: str, teacher: str, whole_file: bool) -> tuple[dict[str, Any], list[str]]:
    """Settings in our words, by dotted names, and notes on what was understood.

    Args:
        settings: by dotted names, such as ``{"SOLVER.LR_COS": True}``.
        method, teacher: DISTILLER.TYPE and TEACHER where ``settings`` do not say.
        whole_file: whether ``settings`` are all of an upstream file, which may then mean more than it says.

    Raises ConfigError for what cannot be had here.
    """
    ours: dict[str, Any] = {}
    notes = []
    for name, value in settings.items():
        if name in _RENAMED:
            notes.append(f"{name} is {_RENAMED[name]}")
        ours[_RENAMED.get(name, name)] = value
    method = ours.get("DISTILLER.TYPE", method)

    if ours.get("SOLVER.TRAINER") in ("ours", "dkdot", "deepkd_aug"):
        notes.append(f"SOLVER.TRAINER {ours['SOLVER.TRAINER']} is deepkd")
        ours["SOLVER.TRAINER"] = "deepkd"
    for key in ("SOLVER.LR_COS", "SOLVER.LR_POLICY"):
        if ours.pop(key, False):
            ours = _COSINE | ours
            notes.append(f"{key} is LR_SCHEDULER cosine after a warm-up of {ours['SOLVER.WARMUP_EPOCHS']} epochs")
    if ours.pop("SOLVER.SGD_NESTEROV", False):
        raise ConfigError(
            "SOLVER.SGD_NESTEROV: Nesterov's momentum is not offered; every method here is a rule about plain SGD's"
        )
    if ours.pop("EXPERIMENT.LOGIT_STAND", False):
        ours[f"{method}.STANDARDIZE"] = True
        notes.append(f"EXPERIMENT.LOGIT_STAND is {method}.STANDARDIZE")
    if ours.pop("DISTILLER.AUG_TEACHER", False):
        teacher = ours.get("DISTILLER.TEACHER", teacher)
        path = f"download_ckpts/cifar_teachers/{teacher}_aug/ckpt_epoch_240.pth"
        ours.setdefault("DISTILLER.TEACHER_CKPT", path)
        notes.append(f"DISTILLER.AUG_TEACHER is DISTILLER.TEACHER_CKPT {path}")
    if ours.pop("DATASET.ENHANCE_AUGMENT", False):
        in_memory = ours.get("DATASET.TYPE", "cifar100") == "cifar100"
        ours["DATASET.STRONG"] = ["autoaugment", "cutout"] if in_memory else ["randaugment", "erasing"]
        notes.append(f"DATASET.ENHANCE_AUGMENT is DATASET.STRONG {ours['DATASET.STRONG']}")
    if method == "KD" and ours.get("SOLVER.DEEPKD.DKD") is True:
        ours, note = _kd_that_is_dkd(ours)
        notes.append(note)

    for name, why in _MEANINGLESS.items():
        if name in ours:
            del ours[name]
            notes.append(f"{name} means nothing here: {why}")
    if whole_file:
        notes += _silent_meaning(ours)
    return ours, notes


def _kd_that_is_dkd(settings: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """DeepKD's release computes DKD's two parts for a KD whose SOLVER.DEEPKD.DKD is set: the same under the right name."""
    spelled = {
        "KD.TEMPERATURE": ("DKD.T", 4.0),
        "KD.LOSS.CE_WEIGHT": ("DKD.CE_WEIGHT", 0.1),
        "SOLVER.DEEPKD.ALPHA": ("DKD.ALPHA", 1.0),
        "SOLVER.DEEPKD.BETA": ("DKD.BETA", 8.0),
        "SOLVER.DEEPKD.WARMUP_FACTOR": ("DKD.WARMUP", 20),
    }
    rest = {name: value for name, value in settings.items() if name not in spelled and name != "SOLVER.DEEPKD.DKD"}
    dkd = {new: settings.get(old, default) for old, (new, default) in spelled.items()}
    values = ", ".join(f"{name} {value}" for name, value in dkd.items())
    note = f"KD with SOLVER.DEEPKD.DKD is DISTILLER.TYPE DKD, with what the release then computes ({values})"
    return rest | dkd | {"DISTILLER.TYPE": "DKD"}, note


def _silent_meaning(settings: dict[str, Any]) -> list[str]:
    """What an upstream file says only together with its repository's code."""
    notes = []
    if settings.get("SOLVER.TRAINER") == "deepkd":
        notes.append("the momenta follow DeepKD's paper; SOLVER.DEEPKD.RULE official is its release's optimizer")
    networks = {settings.get("DISTILLER.STUDENT"), settings.get("DISTILLER.TEACHER")}
    if settings.get("DATASET.TYPE") == "imagenet" and "MobileNetV2" in networks:
        notes.append(
            "MobileNetV2 is the network of that name; the DeepKD and LSKD repositories give that name to a MobileNetV1, "
            "which is DISTILLER.STUDENT MobileNetV1 here"
        )
    return notes
