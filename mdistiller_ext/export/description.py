"""The description of an exported student, in a json file beside it, and whether a file is the one that it describes."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mdistiller_ext

from ..errors import CorruptFileError, MissingFileError
from .formats import FORMATS, INPUT, OUTPUT, format_named

if TYPE_CHECKING:  # it imports torch, and checking a file needs none
    from ..data.preprocessing import Preprocessing
    from ..deployment import DeployedStudent


def describe(student: DeployedStudent, prepare: Preprocessing, to: str, opset: int | None) -> dict[str, Any]:
    """What a program that uses an exported student has to know, as JSON can hold it.

    The measured difference is added when it is known, and the file's hash last, beside the file only.
    """
    packages = ("torch", *FORMATS[to].packages)
    return {
        "format": to,
        "file": f"student{FORMATS[to].suffix}",
        "versions": {"mdistiller_ext": mdistiller_ext.__version__} | {package: version(package) for package in packages},
        "opset": opset,
        "architecture": student.name,
        "dataset": student.config.DATASET.TYPE,
        "weights": {"file": student.weights.name, "sha256": student.sha256},
        "input": {
            "name": INPUT,
            "shape": ["batch", 3, prepare.crop, prepare.crop],
            "dtype": "float32",
            "layout": "NCHW",
            "colours": "RGB",
            "range": "(value in 0..1 - mean) / std, per colour",
        },
        "output": {"name": OUTPUT, "shape": ["batch", len(student.classes)], "dtype": "float32"},
        "preprocessing": {
            "resize": prepare.resize,
            "resized": "shorter side",
            "interpolation": "bilinear, antialiased",
            "crop": prepare.crop,
            "cropped": "centre",
            "mean": list(prepare.mean),
            "std": list(prepare.std),
        },
        "classes": list(student.classes),
        "largest_difference": None,
    }


def beside(file: Path) -> Path:
    """The json file beside an exported file: ``student.onnx.json``."""
    return file.with_name(f"{file.name}.json")


def check(file: Path) -> dict[str, Any]:
    """Read the description beside an exported file.

    Returns the description, which has at least ``format``, ``sha256``, ``architecture`` and ``dataset``.

    Raises:
        MissingFileError: one of both does not exist.
        CorruptFileError: the description is none, or describes another file.
        UnknownNameError: the format is not known.
    """
    for each in (file, beside(file)):
        if not each.is_file():
            raise MissingFileError(f"{each.absolute()} does not exist; an exported student is a file and its description")
    try:
        description = json.loads(beside(file).read_text(encoding="utf-8"))
        form, sha256, *_ = (str(description[key]) for key in ("format", "sha256", "architecture", "dataset"))
    except (ValueError, TypeError, LookupError) as error:
        raise CorruptFileError(f"{beside(file)} is no description of an exported student: export the run anew") from error
    format_named(form)  # raises for a format of a later version
    if sha256_of(file) != sha256:
        raise CorruptFileError(
            f"{file} is not the file that {beside(file).name} describes (SHA-256 {sha256_of(file)[:12]}..., not "
            f"{sha256[:12]}...): files of two exports are mixed, or it has changed. Export the run anew"
        )
    return dict(description)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
