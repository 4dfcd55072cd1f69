"""Glyphs: 100 characters rendered as 32x32 RGB images with matplotlib's fonts, in an easy and a hard version. No download.

Similar classes (O 0 Q, l I 1 |, é è ê ë) make a teacher's predictions for wrong classes informative. For trying and comparing
methods and for tests, not for results in papers.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import ClassVar

from .. import checkpoint
from ..errors import UserError
from ..registry import register_dataset
from .augment import random_crop
from .base import InMemoryDataset, Split
from .rendering import CHARACTERS, Rendering, render

VERSION = 1  # of the rendering, part of the cache's file name: increase it with every change of the images


@register_dataset("glyphs")
class Glyphs(InMemoryDataset):
    """10,000 training and 2,000 test images `[3, 32, 32]` of 100 characters, the same on every run; cached below root.

    Augmented by random crops without flips: a mirrored b is a d.
    """

    classes = CHARACTERS
    num_classes = len(CHARACTERS)
    mean = (0.4943, 0.4960, 0.4959)
    std = (0.2930, 0.2928, 0.2921)
    augment = staticmethod(random_crop)
    teachers = "teachers/glyphs/{model}.pth"

    name: ClassVar[str] = "glyphs"  # of the cache
    rendering: ClassVar[Rendering] = Rendering()
    test_images: ClassVar[int] = 2_000

    def load(self, root: Path) -> tuple[Split, Split]:
        """Both splits, from the cache or newly rendered."""
        return self._cached(root, count=10_000, seed=0), self.load_test(root)

    def load_test(self, root: Path) -> Split:
        """The test split, from the cache or newly rendered."""
        return self._cached(root, count=self.test_images, seed=1)

    def _cached(self, root: Path, count: int, seed: int) -> Split:
        """Rendered images with a cache on disk; an unreadable cache is replaced."""
        path = root / "glyphs" / f"{self.name}-v{VERSION}-n{count}-seed{seed}.pt"
        try:
            saved = checkpoint.load(path)
            return saved["images"], saved["labels"]
        except (UserError, KeyError, TypeError):
            images, labels = render(self.rendering, count, seed)
        with contextlib.suppress(UserError, OSError):  # a read-only or full disk: continue without cache
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.save(path, {"images": images, "labels": labels})
        return images, labels


@register_dataset("glyphs_hard")
class HardGlyphs(Glyphs):
    """As `Glyphs`, smaller, more distorted and cluttered by pieces of other characters; 10,000 training and 4,000 test images.

    A small student alone stays far below its teacher however long it is trained, so that methods can be compared.
    """

    mean = (0.5002, 0.4947, 0.5038)
    std = (0.2986, 0.2979, 0.2991)
    teachers = "teachers/glyphs_hard/{model}.pth"

    name = "glyphs_hard"
    rendering = Rendering(
        em=(14, 28), rotation=25, shear=0.3, shift=4, contrast=(0.2, 0.6), clouds=(6, 0.15), noise=0.12, fragments=2
    )
    test_images = 4_000
