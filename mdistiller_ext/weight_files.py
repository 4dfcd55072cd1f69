"""Find the file with the weights of a teacher, or those that a student starts from; download ImageNet weights.

Relative paths are looked for in the working directory, then in the project.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from .config import default_config
from .errors import MissingFileError
from .fetch import fetch_torchvision_weights
from .models import LIBRARIES, check_model_name, list_models, pretrained_url
from .project import CONFIGS, ROOT, config_word, python_command
from .registry import DATASETS

# ImageNet weights that torchvision does not have, at their path in GDKD's repository.
_OTHER_PRETRAINED = {"MobileNetV1": Path("download_ckpts/imagenet_teachers/mv1/student_100.pth")}


def teacher_path(name: str, dataset: str, asked: str = "", root: str = "") -> Path:
    """The checkpoint of teacher ``name``.

    Args:
        dataset: name of the data set. By default the checkpoint is where it keeps its teachers; ImageNet's teachers are
            torchvision's weights.
        asked: DISTILLER.TEACHER_CKPT: a file, a run folder, or pretrained weights (see :func:`pretrained_path`).
        root: DATASET.ROOT, for the command in the error message.

    Raises:
        UnknownNameError: there is no such network.
        MissingFileError: there is no such file; the message names the expected path and how to get the file.
    """
    check_model_name(name, dataset)
    if _is_pretrained(asked) or (not asked and dataset == "imagenet" and pretrained_url(name, dataset)):
        return pretrained_path(name, dataset, asked)
    description = DATASETS.get(dataset)
    path = Path(asked or description.teachers.format(model=name, lower=name.lower()) or f"teachers/{dataset}/{name}.pth")
    weights = _weights_file(path)
    if weights.is_file():
        return weights
    train = _training_command(name, dataset, root, augmented="_aug" in asked)
    hint = description.teachers_hint.format(model=name, download=python_command("mdistiller_ext.download"))
    hint = f" To get it: {hint}." if hint else ""
    raise MissingFileError(
        f"no checkpoint of teacher '{name}' for {dataset}: looked for {weights.absolute()}.{hint} "
        f"To train it: {train}, then name its run folder by DISTILLER.TEACHER_CKPT"
    )


def student_path(name: str, dataset: str, asked: str = "") -> Path | None:
    """The weights that student ``name`` starts from; None for random initialisation (``random``).

    Args:
        dataset: name of the data set, which sets the default: students for small data sets start from ImageNet weights.
        asked: DISTILLER.STUDENT_CKPT, as ``asked`` of :func:`teacher_path`.

    Raises as :func:`teacher_path`.
    """
    asked = asked or DATASETS.get(dataset).students_start
    if asked == "random":
        return None
    if _is_pretrained(asked):
        return pretrained_path(name, dataset, asked)
    weights = _weights_file(Path(asked))
    if not weights.is_file():
        raise MissingFileError(
            f"DISTILLER.STUDENT_CKPT: no checkpoint {weights.absolute()}.{_pretraining_advice(name)} "
            "DISTILLER.STUDENT_CKPT random starts from chance"
        )
    return weights


def pretrained_path(name: str, dataset: str, asked: str = "") -> Path:
    """ImageNet weights of network ``name``: torchvision's, downloaded if missing, or a file of ``_OTHER_PRETRAINED``.

    Args:
        asked: ``pretrained``, or torchvision's name of the weights, such as ``IMAGENET1K_V2``.

    Raises MissingFileError if there are none, or the download fails.
    """
    url = pretrained_url(name, dataset, "" if asked == "pretrained" else asked)
    if url is None:
        kept = _in_project(_OTHER_PRETRAINED[name]) if name in _OTHER_PRETRAINED else None
        if kept is not None and kept.is_file():
            return kept
        looked = "" if kept is None else f", and {kept.absolute()} does not exist"
        raise MissingFileError(
            f"torchvision has no ImageNet weights of {name} for {dataset}{looked}.{_pretraining_advice(name)} "
            "DISTILLER.STUDENT_CKPT random starts from chance"
        )
    there = _in_project(Path("download_ckpts", "imagenet_teachers", Path(url).name))
    try:
        return fetch_torchvision_weights(url, there.parent)
    except MissingFileError as error:
        raise MissingFileError(
            f"ImageNet weights of {name}: {error}. Other weights: DISTILLER.TEACHER_CKPT or STUDENT_CKPT (random: from chance)"
        ) from error


def _training_command(name: str, dataset: str, root: str = "", *, augmented: bool = False) -> str:
    """The command that trains a network without a teacher, by its recipe in ``configs/<dataset>/`` if there is one."""
    where = ["DATASET.ROOT", shlex.quote(root)] if root not in ("", default_config().DATASET.ROOT) else []
    for kind in (*(["teachers_aug"] * augmented), "teachers", "none"):
        recipe = CONFIGS / dataset / kind / f"{name}.yaml"
        if recipe.is_file():
            return python_command("train.py", "--cfg", config_word(recipe), *where)
    settings = ["DATASET.TYPE", dataset, "DISTILLER.TYPE", "NONE", "DISTILLER.STUDENT", name]
    return python_command("train.py", *settings, *where)


def _pretraining_advice(name: str) -> str:
    """How to train a network on ImageNet, as a sentence; empty for a network that is made for smaller images."""
    if not name.startswith(LIBRARIES) and name not in list_models("imagenet"):
        return ""
    train = _training_command(name, "imagenet")
    return f" To train it on ImageNet: {train}, then name its run folder by DISTILLER.STUDENT_CKPT or TEACHER_CKPT."


def _is_pretrained(asked: str) -> bool:
    """Whether a setting names weights, such as IMAGENET1K_V2, rather than a file."""
    return asked == "pretrained" or bool(re.fullmatch(r"[A-Z][A-Z0-9_]+", asked) and not Path(asked).exists())


def _weights_file(path: Path) -> Path:
    """A file; of a run folder, the last epoch's student, as official teachers are: the best is selected on the test set."""
    path = _in_project(path)
    return path / "student_latest" if path.is_dir() else path


def _in_project(path: Path) -> Path:
    """The path in the project, if it exists there and not in the working directory; otherwise the path itself."""
    in_project = ROOT / path
    return in_project if not path.exists() and in_project.exists() else path
