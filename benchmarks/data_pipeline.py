"""Seconds to read an epoch of training batches: our in-memory loader against upstream's kind of pipeline, CIFAR-shaped.

    python -m benchmarks.data_pipeline

Upstream's kind: PIL images, RandomCrop(32, 4), RandomHorizontalFlip, ToTensor, Normalize, a DataLoader with 2 workers.
Both give batches of 64 on the CPU and take turns in one process. The workers live through all rounds, so that starting them
is not held against the DataLoader. Nothing is trained here; see benchmarks.epoch. Takes about half a minute. Run it on a
machine with nothing else to do: torch's threads wait for each other at every operation, so a second busy process slows ours
more than the workers.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterable, Sequence

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mdistiller_ext.data.cifar100 import CIFAR100

from .common import compare, hardware, our_loader, print_comparison, print_hardware, random_split, save

BATCH = 64


class PILImages(Dataset[tuple[Tensor, int]]):
    """What torchvision's CIFAR100 does: an array per image, made a PIL image and transformed at every visit."""

    def __init__(self, images: Tensor, labels: Tensor, *, training: bool) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if training else []
        self.transform = transforms.Compose(
            [*augment, transforms.ToTensor(), transforms.Normalize(CIFAR100.mean, CIFAR100.std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def pil_loader(
    split: tuple[Tensor, Tensor], *, training: bool, workers: int, keep_workers: bool = False
) -> DataLoader[tuple[Tensor, int]]:
    """Upstream's loader of a split; like upstream's it starts its workers anew in every epoch, unless they shall be kept."""
    data = PILImages(*split, training=training)
    return DataLoader(data, BATCH, shuffle=training, num_workers=workers, persistent_workers=keep_workers and workers > 0)


def read(loader: Iterable[Sequence[Tensor]]) -> None:
    """One epoch, kept by nobody."""
    collections.deque(loader, maxlen=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="in an epoch")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    facts = hardware()
    print_hardware(facts)
    split = random_split(arguments.images)
    theirs = pil_loader(split, training=True, workers=arguments.workers, keep_workers=True)
    ours = our_loader(split, training=True, batch_size=BATCH)
    rows = compare({"DataLoader": lambda: read(theirs), "ours": lambda: read(ours)}, arguments.rounds)
    print_comparison(rows, f"{arguments.images} images")
    old, new = (arguments.images / row["seconds"]["median"] for row in rows)
    print(f"images per second, median: DataLoader {old:,.0f}, ours {new:,.0f}")
    save("data_pipeline", facts, {"images": arguments.images, "workers": arguments.workers, "rows": rows})


if __name__ == "__main__":
    main()
