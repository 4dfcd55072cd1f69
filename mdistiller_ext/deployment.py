"""The student of a run as it is deployed: a network from images to logits, with class names and preprocessing.

It is opened from the run folder alone: neither the data nor the teacher is read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from yacs.config import CfgNode

from . import checkpoint
from .config import load_config
from .data import DataIdentity, dataset_entry, names_of_classes
from .data.preprocessing import Preprocessing, preprocessing
from .errors import ConfigError, MissingFileError, listing
from .networks import create_network, image_size
from .weights import load_state_dict


class Classifier(nn.Module):
    """A network of the zoos that returns its logits ``[N, C]`` alone.

    Attributes:
        network: the network, which returns logits and features; its ``state_dict`` has the names of the zoo.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)[0]
        return logits


@dataclass(frozen=True)
class DeployedStudent:
    """A student in eval mode, float32, on the CPU.

    Attributes:
        classifier: images ``[N, 3, H, W]`` -> logits ``[N, C]``, what a method adds to the student included.
        classes: class names in the order of the logits; the numbers 0 .. C - 1 where the data set has no names.
        preprocessing: how an image file becomes its input.
        config: settings of the run that an evaluation reads.
        weights: file that the weights were read from.
        sha256: hash of that file.
    """

    classifier: Classifier
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    config: CfgNode
    weights: Path
    sha256: str

    @property
    def name(self) -> str:
        """Name of the architecture."""
        return str(self.config.DISTILLER.STUDENT)


def open_student(run: str | Path) -> DeployedStudent:
    """Open the student of a run.

    Args:
        run: run folder, whose ``student_best`` is opened, or the file of a student in it, such as ``<run>/student_latest``.

    Raises:
        MissingFileError: there is no such run, or it has not saved a student yet.
        ConfigError: the settings of the run cannot be read.
        CorruptFileError: the weights cannot be read, or do not fit the network.
    """
    run = Path(run)
    weights = run / "student_best" if run.is_dir() else run
    config = _settings(weights.parent)
    if not weights.is_file():
        found = listing(sorted(file.name for file in weights.parent.glob("student_*")))
        raise MissingFileError(
            f"no student: {weights.absolute()} does not exist; "
            + (f"that folder has {found}" if found else "a run saves its first one at the end of its first epoch")
        )
    raw = weights.read_bytes()
    content = checkpoint.load(weights)
    dataset = dataset_entry(config.DATASET.TYPE)
    identity = DataIdentity.from_plain(dict.get(content, "data")) if isinstance(content, dict) else None
    names = identity.classes if identity is not None else None
    count = len(names) if names is not None else config.DATASET.NUM_CLASSES or dataset.num_classes
    if count is None:
        raise ConfigError(f"{weights} does not say its number of classes: give DATASET.NUM_CLASSES in the run's config.yaml")
    prepare = preprocessing(dataset, image_size(config), mean=config.DATASET.MEAN, std=config.DATASET.STD)
    network = create_network(config, "STUDENT", count, prepare.crop)
    load_state_dict(network, content, weights)
    classes = names_of_classes(identity, count)
    sha256 = hashlib.sha256(raw).hexdigest()
    return DeployedStudent(Classifier(network).eval(), classes, prepare, config, weights, sha256)


def _settings(folder: Path) -> CfgNode:
    file = folder / "config.yaml"
    if not file.is_file():
        raise MissingFileError(
            f"no run in {folder.absolute()}: it has no config.yaml. Name a run folder, such as output/glyphs/kd,res20,res8, or "
            "a file student_... in it"
        )
    return load_config(file, for_evaluation=True)
