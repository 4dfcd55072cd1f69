"""Classify image files by the student of a run::

python -m mdistiller_ext.predict output/glyphs/kd,res20,res8 image.jpg folder/
python -m mdistiller_ext.predict output/glyphs/kd,res20,res8 folder/ --top 1 --csv predictions.csv

Folders are searched recursively. Images of any size are resized and cropped as the run's test images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .command import Parser, run_command
from .errors import ConfigError, MissingFileError, one_line
from .plugins import load_plugins

if TYPE_CHECKING:
    import torch

    from .data.worker_loader import OnError
    from .deployment import DeployedStudent

_WIDTH = 80  # columns of a terminal
_TOP = 5  # classes of an image, where the student has as many


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, in falling order of their probabilities (0..1)."""

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def text(self) -> str:
        """Path and classes in lines of 80 columns; a single line for a single class."""
        shares = [f"{100 * probability:6.2f} %" for probability in self.probabilities]
        if len(shares) == 1:
            name = shorten(self.classes[0], 24)
            return f"{shares[0]}  {name:<24}  {shorten(self.path, _WIDTH - 36, keep_end=True)}"
        lines = [f"{share}  {shorten(name, _WIDTH - 10)}" for share, name in zip(shares, self.classes, strict=True)]
        return "\n".join([shorten(self.path, _WIDTH, keep_end=True), *lines, ""])

    def row(self) -> dict[str, str]:
        """A row of the CSV: ``path``, then ``class_1``, ``probability_1``, ``class_2`` and so on."""
        row = {"path": self.path}
        for rank, (name, probability) in enumerate(zip(self.classes, self.probabilities, strict=True), 1):
            row |= {f"class_{rank}": name, f"probability_{rank}": f"{probability:.6f}"}
        return row


def find_images(paths: Iterable[str | Path]) -> list[str]:
    """The files named, and the images at any depth of the folders named, each folder's in the order of their paths.

    Raises MissingFileError for a path that does not exist, and for a folder without images.
    """
    from .data.class_folders import images_below
    from .data.folder_listing import EXTENSIONS

    found: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            images = images_below(path)
            if not images:
                raise MissingFileError(f"no images in folder {path.absolute()} (files with the suffix {' '.join(EXTENSIONS)})")
            found += images
        elif path.is_file():
            found.append(str(path))
        else:
            raise MissingFileError(f"no such image file or folder: {path.absolute()}")
    return found


def predict(
    student: DeployedStudent,
    files: Sequence[str | Path],
    *,
    top: int = 0,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    on_error: OnError = "stop",
) -> Iterator[Prediction]:
    """Classify image files, batch by batch, in their order.

    Args:
        top: number of classes of each image; 0: 5, or all of a student with fewer.
        batch_size: images at a time.
        on_error: what to do with a file that cannot be read: ``stop`` raises, ``skip`` warns with a Note and leaves it out.

    Raises:
        ConfigError: ``top`` is more than the number of classes, or ``batch_size`` is not positive.
        CorruptFileError: a file cannot be read as an image; with ``skip``, none of them, or 100 in a row.
    """
    import torch

    from .data import WorkerLoader
    from .data.worker_pool import one_per_core

    classes, prepare = student.classes, student.preprocessing
    if not 0 <= top <= len(classes):
        raise ConfigError(f"--top must be between 1 and {len(classes)}, the number of the student's classes, not {top}")
    top = top or min(_TOP, len(classes))
    loader = WorkerLoader(
        [(file, 0) for file in files],
        prepare.transform,
        image_size=prepare.crop,
        num_classes=len(classes),
        batch_size=batch_size,
        mean=prepare.mean,
        std=prepare.std,
        with_index=True,
        num_workers=one_per_core(student.config.DATASET.NUM_WORKERS) if len(files) > batch_size else 0,
        on_error=on_error,
        device=device,
    )
    network = student.classifier.to(device)
    for images, _, indices in loader:
        if not len(indices):  # all were skipped
            continue
        with torch.no_grad():  # not around the loop: it would also apply to the caller
            probabilities, places = network(images).softmax(dim=1).topk(top)
        for index, shares, named in zip(indices.tolist(), probabilities.tolist(), places.tolist(), strict=True):
            yield Prediction(loader.file_of(index), tuple(classes[place] for place in named), tuple(shares))


def shorten(text: str, width: int, *, keep_end: bool = False) -> str:
    """Printable text of at most ``width`` characters: its beginning, or its end, and an ellipsis."""
    text = one_line(text)
    if len(text) <= width:
        return text
    return f"…{text[1 - width :]}" if keep_end else f"{text[: width - 1]}…"


def parse_arguments() -> argparse.Namespace:
    parser = Parser(
        prog="python -m mdistiller_ext.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="run folder (its best student), or a file student_... in it")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, and folders of them")
    parser.add_argument("--top", type=int, metavar="K", help=f"classes of each image (default: {_TOP}, or all if fewer)")
    parser.add_argument("--csv", metavar="FILE", help="write a row for each image to FILE (- for stdout) in place of the text")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    parser.add_argument("--device", default="auto", help="device of the network (default: auto)")
    parser.add_argument(
        "--on-error", choices=["stop", "skip"], default="stop", help="what to do with an unreadable image (default: stop)"
    )
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="as of train.py")
    arguments = parser.parse_args()
    if arguments.top is not None and arguments.top < 1:
        parser.error(f"--top must be at least 1, not {arguments.top}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    load_plugins(arguments.plugin)
    from .acceleration import choose_device  # imports torch, which takes over a second: --help answers without it
    from .deployment import open_student
    from .reporting.table import csv_text

    files = find_images(arguments.images)
    if arguments.csv is not None:  # before the work, not after it
        if Path(arguments.csv).is_dir():
            raise ConfigError(f"--csv {arguments.csv} is a folder: name a file")
        Path(arguments.csv).parent.mkdir(parents=True, exist_ok=True)
    predictions = predict(
        open_student(arguments.run),
        files,
        top=arguments.top or 0,
        batch_size=arguments.batch_size,
        device=choose_device(arguments.device),
        on_error=arguments.on_error,
    )
    if arguments.csv is None:
        for prediction in predictions:
            print(prediction.text())
        return
    # Names of files that are not UTF-8 keep their bytes in a file; a terminal shows them as question marks.
    table = csv_text([prediction.row() for prediction in predictions]).encode(errors="surrogateescape")
    if arguments.csv == "-":
        sys.stdout.write(table.decode(errors="replace"))
    else:
        Path(arguments.csv).write_bytes(table)
        print(arguments.csv)


if __name__ == "__main__":
    run_command(main)
