"""Seconds until the loaders of Tiny-ImageNet exist: by decoding its JPEGs, and from the file of decoded images.

    python -m benchmarks.image_cache

The data set is made, with the archive's layout, number of files and sizes (100,000 + 10,000 JPEGs of 64x64, 1.9 KB each), in a
temporary folder, which must have 2 GB. The ways take turns in one process; listing, checks and hashes are included, importing
torch is not. "Read from the disk" drops the cache file from the page cache before, but not the list of files: it is between a
second start and the first one after a reboot; a virtual machine's host may still have the file in its memory. Takes about 3
minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mdistiller_ext.data import create_loaders

from .common import compare, hardware, print_comparison, print_hardware, save

CLASSES = 200
DIFFERENT = 3000  # JPEGs; the files repeat them


def jpegs() -> Iterator[bytes]:
    """JPEGs of 64x64, in a cycle."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(DIFFERENT):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).resize((64, 64)).save(buffer, "jpeg")
        made.append(buffer.getvalue())
    while True:
        yield from made


def make(root: Path, train: int, val: int) -> None:
    """Write a Tiny-ImageNet with ``train`` and ``val`` images of each class."""
    folder, contents = root / "tiny-imagenet-200", jpegs()
    wnids = [f"n{number:08d}" for number in range(CLASSES)]
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(wnids))
    for wnid in wnids:
        (folder / "train" / wnid / "images").mkdir(parents=True)
        for number in range(train):
            (folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG").write_bytes(next(contents))
    names = [f"val_{number}.JPEG" for number in range(CLASSES * val)]
    for name in names:
        (folder / "val" / "images" / name).write_bytes(next(contents))
    lines = (f"{name}\t{wnids[number % CLASSES]}\t0\t0\t62\t62\n" for number, name in enumerate(names))
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


def start(root: Path, *, cache: bool, from_disk: bool = False) -> None:
    """Create the loaders."""
    if from_disk:
        for file in root.glob("*/*.cache"):
            with open(file, "rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    create_loaders("tiny_imagenet", root=root, batch_size=64, test_batch_size=64, cache=cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=500, help="training images of a class")
    parser.add_argument("--val", type=int, default=50, help="validation images of a class")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    facts = hardware()
    print_hardware(facts)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, arguments.train, arguments.val)
        start(root, cache=True)
        variants = {
            "decoding the JPEGs": lambda: start(root, cache=False),
            "from the cache": lambda: start(root, cache=True),
            "from the cache, read from the disk": lambda: start(root, cache=True, from_disk=True),
        }
        rows = compare(
            variants, arguments.rounds, after={"from the cache, read from the disk": "from the cache"}, warm_up=False
        )
    images = CLASSES * (arguments.train + arguments.val)
    print_comparison(rows, f"{images} images")
    save("image_cache", facts, {"images": images, "rows": rows})


if __name__ == "__main__":
    main()
