"""The data sets of GDKD's transfer experiments, under its names: photographs at 224x224 for ImageNet networks.

Students start from ImageNet weights, as in GDKD.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ..registry import register_dataset
from .archives import CUB200, DTD, FOOD101, Archive
from .base import ImageFolderDataset, Samples
from .tiny_imagenet import tiny_imagenet_samples, tiny_imagenet_test_samples


class _Transfer(ImageFolderDataset):
    students_start = "pretrained"


class _FromArchive(_Transfer):
    """Base of data sets whose archives contain lists of their files."""

    archive: ClassVar[Archive]

    def samples(self, root: Path, test_fraction: float) -> tuple[Samples, Samples, list[str]]:
        """Both splits, from the archive's lists."""
        return self.archive.load(root)


@register_dataset("cub2011")
class CUB2011(_FromArchive):
    """CUB-200-2011: 5,994 + 5,794 photographs of 200 kinds of birds (Wah et al., 2011)."""

    num_classes = 200
    archive = CUB200
    teachers = "download_ckpts/cub2011_teachers/{lower}/student_100.pth"


@register_dataset("food101")
class Food101(_FromArchive):
    """Food-101: 75,750 + 25,250 photographs of 101 dishes; the labels of the training half are noisy (Bossard et al., 2014)."""

    num_classes = 101
    archive = FOOD101
    teachers = "download_ckpts/food101_teachers/{lower}/student_100.pth"


@register_dataset("dtd")
class DescribableTextures(_FromArchive):
    """DTD, partition 1: 1,880 + 1,880 photographs of 47 textures (Cimpoi et al., 2014)."""

    num_classes = 47
    archive = DTD
    teachers = "download_ckpts/dtd_teachers/{lower}/student_100.pth"


@register_dataset("tiny-imagenet")
class TinyImageNetAt224(_Transfer):
    """Tiny-ImageNet's 100,000 + 10,000 images enlarged for ImageNet's networks; ``tiny_imagenet`` keeps them at 64x64."""

    num_classes = 200
    teachers = "download_ckpts/tiny_imagenet_teachers/{lower}/student_100.pth"

    def samples(self, root: Path, test_fraction: float) -> tuple[Samples, Samples, list[str]]:
        """Training and validation images."""
        return tiny_imagenet_samples(root)

    def test_samples(self, root: Path, test_fraction: float) -> tuple[Samples, list[str]]:
        """The validation images."""
        return tiny_imagenet_test_samples(root)
