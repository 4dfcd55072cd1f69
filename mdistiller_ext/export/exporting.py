"""Export the student of a run into a file, and check that the file predicts as the student does."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import write_atomically
from ..data import dataset_entry
from ..data.preprocessing import Preprocessing, preprocessing
from ..deployment import DeployedStudent, open_student
from ..errors import ConfigError
from ..extras import optional
from .description import beside, describe, sha256_of
from .formats import ExportError, exporting, format_named

BATCHES = (1, 2, 5)
"""Numbers of images on which a file is compared with the student"""
TOLERANCE = 1e-4
"""Largest difference of a logit, as a fraction of the largest logit where that exceeds 1"""


@dataclass(frozen=True)
class Exported:
    """An exported student.

    Attributes:
        file: its file; the description is in the file of that name with ``.json`` appended.
        description: what that file says.
        largest_logit: of the student, on the images on which the file was compared with it.
        lines: Python that predicts the class of an image file, ``image.png``, without the run.
    """

    file: Path
    description: dict[str, Any]
    largest_logit: float
    lines: list[str]


def export_student(
    run: str | Path,
    to: str = "onnx",
    *,
    out: str | Path | None = None,
    image_size: int | None = None,
    opset: int | None = None,
    plugins: Sequence[str] = (),
) -> Exported:
    """Export the student of a run, alone and in float32, into ``<out>/student.<suffix>``.

    The file gets its name only after it was opened again and gave the student's logits on batches of random images.

    Args:
        run: as of `open_student`.
        to: a name of `formats.FORMATS`.
        out: folder of the files. Default: ``export`` in the run folder.
        image_size: edge in pixels of the images. Default: that of the run.
        opset: version of ONNX's operators. Default: that of torch's exporter.
        plugins: files that must be loaded before the network can be created, for `Exported.lines`.

    Raises:
        UserError: as of `open_student`.
        UnknownNameError: there is no such format.
        ConfigError: an option is invalid, or a package is not installed.
        ExportError: the network cannot take images of this size, cannot be converted, or the file's logits differ.
    """
    form = format_named(to)
    if opset is not None and to != "onnx":
        raise ConfigError(f"--opset is a setting of --to onnx, not of {to}")
    if image_size is not None and image_size < 1:
        raise ConfigError(f"--image-size must be at least 1 pixel, not {image_size}")
    for package in form.packages:
        optional(package, extra="export")
    student = open_student(run)
    prepare = _of_size(student, image_size) if image_size is not None else student.preprocessing
    folder = Path(out) if out is not None else student.weights.parent / "export"
    with exporting(f"{student.name} cannot take {prepare.crop}x{prepare.crop} images"), torch.no_grad():
        batches = _random_batches(prepare)
        expected = [student.classifier(images) for images in batches]
    with exporting(f"{student.name} cannot be converted to {to}"):
        content = form.convert(student.classifier, batches[1], opset)
    largest = max(float(logits.abs().max()) for logits in expected)

    description = describe(student, prepare, to, form.opset(content))
    final = folder.absolute() / description["file"]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        file = Path(temporary) / final.name
        for _ in range(2):  # the second file contains the difference that was measured of the first
            with exporting(f"{to}: the exported file cannot be used"), torch.no_grad():
                form.save(content, file, description)
                difference = _largest_difference(form.open(file, student), batches, expected)
            if not difference <= TOLERANCE * max(1.0, largest):  # also NaN
                raise ExportError(
                    f"{to}: the logits of the exported file differ from the student's by {difference:.1e}, of at most "
                    f"{largest:.1e}; nothing was written"
                )
            description["largest_difference"] = difference
        description["sha256"] = sha256_of(file)
        os.replace(file, final)
    write_atomically(beside(final), json.dumps(description, indent=1, ensure_ascii=False).encode())
    lines = _usage(final, prepare, form.lines(student, [os.path.abspath(plugin) for plugin in plugins]))
    return Exported(final, description, largest, lines)


def _of_size(student: DeployedStudent, size: int) -> Preprocessing:
    """The preprocessing of a student for images of another size."""
    own = student.preprocessing
    return preprocessing(dataset_entry(student.config.DATASET.TYPE), size, mean=own.mean, std=own.std)


def _random_batches(prepare: Preprocessing) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(number, 3, prepare.crop, prepare.crop) for number in BATCHES]
    return [prepare.normalise(torch.randint(256, shape, dtype=torch.uint8, generator=generator)) for shape in shapes]


def _largest_difference(network: Callable[[Tensor], Tensor], batches: list[Tensor], expected: list[Tensor]) -> float:
    differences = [network(images) - logits for images, logits in zip(batches, expected, strict=True)]
    return float(torch.cat(differences).abs().max())


def _usage(file: Path, prepare: Preprocessing, load: list[str]) -> list[str]:
    """Python that predicts the class of ``image.png``; ``load`` are the lines from ``images`` to ``logits``."""
    crop = prepare.crop
    return [
        "import json, numpy, pathlib",
        "from PIL import Image, ImageOps",
        f"path = {str(file)!r}",
        f"mean, std = {prepare.mean}, {prepare.std}",
        'image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")',
        f"size = [side * {prepare.resize} // min(image.size) for side in image.size]",
        "image = image.resize(size, Image.Resampling.BILINEAR)",
        f"x, y = [round((side - {crop}) / 2) for side in size]",
        f"image = image.crop((x, y, x + {crop}, y + {crop}))",
        "pixels = (numpy.asarray(image) / 255 - mean) / std",
        'images = pixels.transpose(2, 0, 1)[None].astype("float32")',
        "",
        *load,
        "",
        f'description = pathlib.Path(path + "{beside(file).suffix}").read_text("utf-8")',
        'print(json.loads(description)["classes"][logits.argmax()])',
    ]
