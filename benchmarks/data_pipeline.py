"""Images per second of our in-memory loader against upstream's kind of pipeline, on CIFAR-shaped random images.

    python -m benchmarks.data_pipeline

Upstream's kind: PIL images, RandomCrop(32, 4), RandomHorizontalFlip, ToTensor, Normalize, a DataLoader with 2 workers.
Both give batches of 64 on the CPU and take turns in one process. The DataLoader's clock starts after its first batch,
so that starting its workers is not held against it. Takes about half a minute. Run it on a machine with nothing else to
do: torch's threads wait for each other at every operation, so a second busy process slows ours more than the workers.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mdistiller_ext.data.augment import random_crop_flip
from mdistiller_ext.data.cifar100 import CIFAR100
from mdistiller_ext.data.loader import InMemoryLoader

IMAGES, BATCH, WORKERS, ROUNDS = 20_000, 64, 2, 7


class PILImages(Dataset[tuple[Tensor, int]]):
    """What torchvision's CIFAR100 does: an array per image, made a PIL image and transformed at every visit."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(CIFAR100.mean, CIFAR100.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def images_per_second(loader: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Rate over one epoch, counted from the arrival of the first batch."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in batches)
    return count / (time.perf_counter() - start)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 32, 32), generator=generator).byte()
    labels = torch.randint(100, (IMAGES,), generator=generator)
    ours = InMemoryLoader(
        images, labels, batch_size=BATCH, mean=CIFAR100.mean, std=CIFAR100.std, augment=random_crop_flip, shuffle=True
    )
    theirs: DataLoader[tuple[Tensor, int]] = DataLoader(
        PILImages(images, labels), batch_size=BATCH, shuffle=True, num_workers=WORKERS
    )
    print(f"{os.cpu_count()} CPU cores ({platform.processor() or platform.machine()}), Python {platform.python_version()},")
    print(f"torch {torch.__version__} on {torch.get_num_threads()} threads, torchvision {torchvision.__version__}")
    print(f"{IMAGES} images, batch {BATCH}; DataLoader with {WORKERS} workers; load average {os.getloadavg()[0]:.1f}\n")
    print("round   ours images/s   DataLoader images/s   ratio")
    images_per_second(ours)  # warm-up, not counted
    ratios = []
    for number in range(1, ROUNDS + 1):
        new, old = images_per_second(ours), images_per_second(theirs)
        ratios.append(new / old)
        print(f"{number:5d}{new:16,.0f}{old:22,.0f}{ratios[-1]:8.1f}")
    print(f"\nratio: median {statistics.median(ratios):.1f}, min {min(ratios):.1f}, max {max(ratios):.1f}, n = {ROUNDS}")


if __name__ == "__main__":
    main()
