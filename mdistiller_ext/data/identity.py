"""The identity of a data set: class names, number of images and a hash of each split.

Saved in checkpoints as plain values, so that evaluation, distillation and resuming detect changed data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Any

from ..errors import listing
from .base import Samples, Split


@dataclasses.dataclass(frozen=True)
class SplitIdentity:
    """Number of images of a split, before any limit, and a SHA-256 hash of it."""

    images: int
    sha256: str

    @classmethod
    def of_tensors(cls, split: Split) -> SplitIdentity:
        """Hash data in memory: the bytes of images and labels. About 1 s for the 1.35 GB of Tiny-ImageNet."""
        digest = hashlib.sha256()
        for tensor in split:
            digest.update(tensor.cpu().contiguous().numpy().data)
        return cls(len(split[1]), digest.hexdigest())

    @classmethod
    def of_files(cls, samples: Samples) -> SplitIdentity:
        """Hash labels and paths of image files, relative to their common folder. Contents are not read.

        About 3 s for the 1.28 million files of ImageNet.
        """
        paths = [os.fspath(path) for path, _ in samples]
        start = len(os.path.commonpath([os.path.dirname(min(paths)), os.path.dirname(max(paths))]))
        lines = (f"{label}\t{path[start:]}\n" for path, (_, label) in zip(paths, samples, strict=True))
        return cls(len(samples), hashlib.sha256(os.fsencode("".join(lines))).hexdigest())


@dataclasses.dataclass(frozen=True)
class DataIdentity:
    """Identity of a data set.

    Attributes:
        classes: class names in the order of the labels; None for a data set without names.
        test, train: identities of the splits; ``train`` is None if only the test split was read.
    """

    classes: tuple[str, ...] | None
    test: SplitIdentity
    train: SplitIdentity | None = None

    def plain(self) -> dict[str, Any]:
        """Convert to plain values, for a checkpoint."""
        return dataclasses.asdict(self)

    def fingerprint(self) -> dict[str, Any]:
        """Number of classes, and number of images and hash of each split, as JSON can hold them."""
        return self.plain() | {"classes": None if self.classes is None else len(self.classes)}

    @classmethod
    def from_plain(cls, value: object) -> DataIdentity | None:
        """Inverse of :meth:`plain`; None for any other value, such as an entry of another program."""
        if type(value) is not dict or value.keys() != {"classes", "train", "test"}:
            return None
        classes, test, train = value["classes"], _split_from_plain(value["test"]), _split_from_plain(value["train"])
        named = type(classes) is tuple and all(type(name) is str for name in classes)
        return cls(classes, test, train) if test is not None and (named or classes is None) else None

    def changes(self, now: DataIdentity) -> list[str]:
        """Describe how another data set differs from this one, in phrases; empty if equal."""
        return self.class_changes(now) or [*self.split_changes(now, "train"), *self.split_changes(now, "test")]

    def class_changes(self, now: DataIdentity) -> list[str]:
        """Describe how the class names differ; empty if equal, or if one data set has no names."""
        if self.classes is None or now.classes is None or self.classes == now.classes:
            return []
        missing, new = (
            [name for name in names if name not in others]
            for names, others in ((self.classes, set(now.classes)), (now.classes, set(self.classes)))
        )
        phrases = [
            f"{what} {listing(names, limit=80)}"
            for what, names in (("missing classes", missing), ("new classes", new))
            if names
        ]
        return phrases or ["the same classes in another order"]

    def split_changes(self, now: DataIdentity, part: str) -> list[str]:
        """Describe how the split ``train`` or ``test`` differs; empty if equal, or if one data set lacks it."""
        before, after = getattr(self, part), getattr(now, part)
        if before is None or after is None or before == after:
            return []
        if before.images != after.images:
            return [f"{part} images {before.images:,} -> {after.images:,}"]
        return [
            f"{part} images {before.images:,}, but not the same (SHA-256 {before.sha256[:12]}... -> {after.sha256[:12]}...)"
        ]


def names_of_classes(identity: DataIdentity | None, count: int) -> tuple[str, ...]:
    """Names of ``count`` classes in the order of the labels; the numbers 0 .. count - 1 for a data set without names."""
    named = identity.classes if identity is not None else None
    return named if named is not None else tuple(map(str, range(count)))


def _split_from_plain(value: object) -> SplitIdentity | None:
    if type(value) is not dict or value.keys() != {"images", "sha256"}:
        return None
    known = type(value["images"]) is int and type(value["sha256"]) is str
    return SplitIdentity(value["images"], value["sha256"]) if known else None
