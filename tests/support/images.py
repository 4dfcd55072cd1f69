"""Data sets of small images, in memory and as files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mdistiller_ext.data import (
    WorkerLoader,
    create_loaders,
)


def random_images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 32, 32), generator=generator).byte()


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

create = functools.partial(create_loaders, batch_size=4, test_batch_size=4, num_workers=0, image_size=32)


def write_image(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> None:
    """Noise that follows from the path's last two parts, so that no two images are the same."""
    seed = int.from_bytes(hashlib.sha256("/".join(path.parts[-2:]).encode()).digest()[:4], "big")
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def write_classes(folder: Path, counts: dict[str, int], suffix: str = ".jpg") -> None:
    for name, count in counts.items():
        for i in range(count):
            write_image(folder / name / f"{i:03}{suffix}")


def files_of(loader: WorkerLoader) -> list[str]:
    """The last two parts of the loader's paths."""
    paths = [Path(path.decode()) for path in loader._pool.dataset.paths]  # type: ignore[attr-defined]
    return ["/".join(path.parts[-2:]) for path in paths]


def epoch_of(loader: Iterable[tuple[Tensor, Tensor]], epoch: int = 0) -> tuple[Tensor, Tensor]:
    loader.set_epoch(epoch)  # type: ignore[attr-defined]
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def make_cub200(folder: Path) -> None:
    """2 birds, 3 images of each; which of them train follows from the split file alone."""
    names = [f"{bird}/{bird[4:]}_{i:04}.jpg" for bird in ("001.Albatross", "002.Jay") for i in range(3)]
    for name in names:
        write_image(folder / "images" / name)
    tables = {
        "classes.txt": ["001.Albatross", "002.Jay"],
        "images.txt": names,
        "image_class_labels.txt": ["1", "1", "1", "2", "2", "2"],
        "train_test_split.txt": ["0", "1", "0", "1", "1", "0"],
    }
    for name, rows in tables.items():
        (folder / name).write_text("".join(f"{i} {row}\n" for i, row in enumerate(rows, 1)))


def make_food101(folder: Path) -> None:
    write_classes(folder / "images", {"apple_pie": 2, "waffles": 3})
    (folder / "meta").mkdir()
    (folder / "meta/classes.txt").write_text("apple_pie\nwaffles\n")
    (folder / "meta/train.txt").write_text("apple_pie/001\nwaffles/000\nwaffles/002\n")
    (folder / "meta/test.txt").write_text("apple_pie/000\nwaffles/001\n")


def make_dtd(folder: Path) -> None:
    write_classes(folder / "images", {"banded": 3, "zigzagged": 3})
    (folder / "labels").mkdir()
    for split, i in (("train", 2), ("val", 0), ("test", 1)):
        (folder / f"labels/{split}1.txt").write_text(f"banded/{i:03}.jpg\nzigzagged/{i:03}.jpg\n")
