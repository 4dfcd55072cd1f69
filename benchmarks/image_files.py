"""Images per second from JPEG files: our loader against torchvision's ImageFolder; start of a run on a large tree.

    python -m benchmarks.image_files
    python -m benchmarks.image_files --tree 200000

Generated photographs (noise of several scales, 500x375 pixels, quality 90, about 100 KB) become training batches: crop of 8 to
100 % of the area to 224 pixels, flip, normalization; batches of 64 on the CPU. The variants, each with one thread, take turns:

- `PIL`: torchvision's ImageFolder, RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize in a DataLoader;
- `decode_image`: the same with torchvision.io.decode_image and transforms.v2 on tensors (deprecated in torchvision 0.29);
- `ours`: the loader that `create_loaders` makes.

Each without workers, where a core does everything, and with 1 and 2 dataloader workers, which live through all rounds.
`--parts` times what an image costs, one by one. `--tree` instead makes a tree of that many (linked) files and times
`create_loaders` in fresh processes: without kept names, when they are written, and when they are read. About 2 minutes each.
"""

from __future__ import annotations

import argparse
import collections
import io
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import v2

from mdistiller_ext.data import create_loaders
from mdistiller_ext.data.base import ImageFolderDataset
from mdistiller_ext.data.image_files import read_image

from .common import compare, hardware, print_comparison, print_hardware, print_table, save, spread

BATCH, SIZE = 64, 224
HEIGHT, WIDTH = 375, 500
MEAN, STD = ImageFolderDataset.mean, ImageFolderDataset.std
START = """
import time; start = time.perf_counter()
from mdistiller_ext.data import create_loaders
imported = time.perf_counter()
create_loaders("imagenet", root={root!r}, batch_size=64, test_batch_size=64, num_workers=0, cache={cache})
print(imported - start, time.perf_counter() - imported)
"""


def photograph(generator: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """Noise of several scales, the coarser the stronger, and a little of every pixel's own, as photographs have it."""
    pixels = generator.normal(size=(height, width, 1)) * 2.2
    for scale in (2, 4, 8, 16, 32, 64, 128):
        coarse = torch.from_numpy(generator.normal(size=(1, 3, height // scale + 2, width // scale + 2)))
        fine = F.interpolate(coarse, size=(height, width), mode="bicubic")[0].permute(1, 2, 0)
        pixels = pixels + fine.numpy() * scale**0.45
    return Image.fromarray((128 + 50 * pixels / pixels.std()).clip(0, 255).astype(np.uint8))


def write_photographs(root: Path, count: int) -> None:
    """Write ``train/<class>/`` with ``count`` photographs of two classes, every fourth upright, and a small ``val/``."""
    generator = np.random.default_rng(0)
    for part, images in (("train", count), ("val", 2)):
        for i in range(images):
            file = root / part / "ab"[i % 2] / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            photograph(generator, *((HEIGHT, WIDTH) if i % 4 else (WIDTH, HEIGHT))).save(file, quality=90)


def decoded(path: str) -> Tensor:
    """torchvision's tensor of an image file."""
    from torchvision.io import decode_image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        return decode_image(path, mode="RGB")


def their_loader(root: Path, workers: int, *, tensors: bool) -> DataLoader[tuple[Tensor, int]]:
    """torchvision's ImageFolder in a DataLoader, on PIL images or on tensors."""
    steps: list[Any]
    if tensors:
        steps = [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        transform: Callable[[Any], Any] = v2.Compose([*steps, v2.Normalize(MEAN, STD)])
    else:
        steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
    loader = decoded if tensors else datasets.folder.default_loader
    folder = datasets.ImageFolder(str(root / "train"), transform, loader=loader)
    return DataLoader(folder, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def read(loader: Iterable[Any]) -> None:
    """Read an epoch."""
    collections.deque(loader, maxlen=0)


def loaders_of(root: Path, workers: int) -> dict[str, Iterable[Any]]:
    ours, _ = create_loaders("folder", root=root, image_size=SIZE, batch_size=BATCH, test_batch_size=BATCH, num_workers=workers)
    theirs = {
        "PIL": their_loader(root, workers, tensors=False),
        "decode_image": their_loader(root, workers, tensors=True),
    }
    return {**theirs, "ours": ours}


def measure_loaders(root: Path, images: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds an image of all loaders with 0, 1 and 2 workers."""
    variants: dict[str, Callable[[], None]] = {}
    for workers in (0, 1, 2):
        for name, loader in loaders_of(root, workers).items():
            variants[f"{name}, {workers} workers"] = lambda loader=loader: read(loader)  # type: ignore[misc]
    first = {name: f"PIL,{name.partition(',')[2]}" for name in variants}
    rows = compare(variants, rounds, per=images, after=first)
    print_comparison(rows, "an image")
    cells = [
        [
            row["variant"],
            f"{1 / row['seconds']['median']:.0f}",
            *(f"{row['gain'][key]:.2f}" for key in ("median", "min", "max")),
        ]
        for row in rows
    ]
    print_table(["training batches", "images/s", "over PIL, as many workers", "min", "max"], cells)
    return rows


def measure_parts(root: Path, rounds: int) -> list[dict[str, Any]]:
    """Seconds of decoding an image and of resizing a crop, in every way that was considered."""
    import simplejpeg
    from torchvision.io import decode_jpeg

    contents = [file.read_bytes() for file in sorted(root.glob("train/*/*.jpg"))[:64]]
    encoded = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    pixels = [read_image("", content) for content in contents]
    images = [Image.fromarray(array) for array in pixels]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in pixels]
    half = {"min_height": HEIGHT // 2, "min_width": HEIGHT // 2, "min_factor": 2}
    size = (SIZE, SIZE)

    def each(action: Callable[[int], object]) -> Callable[[], object]:
        return lambda: collections.deque(map(action, range(len(contents))), maxlen=0)

    variants = {
        "decode: Pillow": each(lambda i: np.asarray(Image.open(io.BytesIO(contents[i])).convert("RGB"))),
        "decode: torchvision": each(lambda i: decode_jpeg(encoded[i])),
        "decode: simplejpeg": each(lambda i: simplejpeg.decode_jpeg(contents[i])),
        "decode: simplejpeg, half the size": each(lambda i: simplejpeg.decode_jpeg(contents[i], **half)),
        "resize 300x300: Pillow": each(
            lambda i: np.asarray(images[i].crop((20, 20, 320, 320)).resize(size, Image.Resampling.BILINEAR))
        ),
        "resize 300x300: uint8 tensors": each(
            lambda i: F.interpolate(tensors[i][None, :, 20:320, 20:320], size=size, mode="bilinear", antialias=True)
        ),
        "flip: uint8 tensors": each(lambda i: tensors[i][:, :SIZE, :SIZE].flip(2)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decode_jpeg is deprecated
        rows = compare(variants, rounds, per=len(contents))
    print_table(
        ["of an image", "milliseconds", "min", "max"],
        [[row["variant"], *(f"{1e3 * row['seconds'][key]:.3f}" for key in ("median", "min", "max"))] for row in rows],
    )
    return rows


def measure_start(root: Path, files: int, rounds: int) -> dict[str, Any]:
    """Seconds until the loaders of a tree of ``files`` images in 1,000 classes exist, in fresh processes."""
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "JPEG")
    linked = root / "image"
    for number in range(files):
        if number % 50_000 == 0:  # file systems limit the links of a file
            linked = root / f"image{number}"
            linked.write_bytes(content.getvalue())
        file = root / ("val" if number < 1_000 else "train") / f"n{number % 1000:08}" / f"n{number % 1000:08}_{number}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(linked, file)
    time.sleep(3)  # folders changed a moment ago are not kept
    cache = root / "cache"

    def start(keep: bool) -> list[float]:
        command = [sys.executable, "-c", START.format(root=str(root), cache=keep)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        return [float(seconds) for seconds in output.split()]

    start(False)  # not counted: folders and modules come from the disk
    times: dict[str, list[list[float]]] = {"listed": [], "listed and written": [], "read": []}
    for _ in range(rounds):
        times["listed"].append(start(False))
        for file in cache.rglob("*.json"):
            file.unlink()
        times["listed and written"].append(start(True))
        times["read"].append(start(True))
    rows = {
        name: {"import": spread([both[0] for both in pairs]), "loaders": spread([both[1] for both in pairs])}
        for name, pairs in times.items()
    }
    cells = [
        [name, f"{row['import']['median']:.2f}", *(f"{row['loaders'][key]:.2f}" for key in ("median", "min", "max"))]
        for name, row in rows.items()
    ]
    print_table([f"start with {files:,} files", "import, s", "loaders, s", "min", "max"], cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=320, help="in an epoch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--parts", action="store_true", help="time decoding, resizing and flipping alone")
    parser.add_argument("--tree", type=int, default=0, metavar="FILES", help="time the start with a tree of so many files")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    facts = hardware()
    print_hardware(facts)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if arguments.tree:
            start = measure_start(root, arguments.tree, arguments.rounds)
            save("image_tree", facts, {"files": arguments.tree, "rows": start})
            return
        write_photographs(root, arguments.images)
        sizes = [file.stat().st_size for file in root.glob("train/*/*.jpg")]
        print(f"{len(sizes)} images of {sum(sizes) / len(sizes) / 1e3:.0f} KB on average\n")
        if arguments.parts:
            save("image_parts", facts, {"rows": measure_parts(root, arguments.rounds)})
        else:
            rows = measure_loaders(root, arguments.images, arguments.rounds)
            save("image_files", facts, {"images": arguments.images, "bytes": sum(sizes), "rows": rows})


if __name__ == "__main__":
    main()
