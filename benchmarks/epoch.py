"""Seconds for a whole epoch of DeepKD on the CPU, reading and testing included: the official way against ours.

    python -m benchmarks.epoch

resnet32x4 to resnet8x4, batch 64, on CIFAR-shaped noise. The official way: PIL transforms in a DataLoader whose workers start
anew in each epoch, the step of benchmarks.deepkd_step, loss and hits read after every step for the meters, the student
tested likewise. Ours: ``run_epoch`` of objects as ``train.py`` builds them. Both take turns in one
process. Left out: logs and checkpoints, which take neither of them a hundredth of an epoch of 50,000 images.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdistiller_ext.acceleration import has_bf16
from mdistiller_ext.data import InMemoryLoader

from .common import compare, hardware, our_loader, print_comparison, print_hardware, random_split, save
from .data_pipeline import BATCH, pil_loader
from .deepkd_step import BF16, OfficialStep, networks, our_trainer


def official_training(step: OfficialStep, batches: Iterable[Sequence[Tensor]], device: torch.device) -> None:
    """Upstream's loop: a step, then the meters, which wait for the device."""
    for images, labels in batches:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        logits, loss = step(images, labels)
        _read_meters(logits, loss, labels)


@torch.no_grad()
def official_evaluation(model: nn.Module, batches: Iterable[Sequence[Tensor]], device: torch.device) -> None:
    """Upstream's test of the student, batch by batch with meters too."""
    model.eval()
    for images, labels in batches:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        logits, _ = model(images)
        _read_meters(logits, F.cross_entropy(logits, labels), labels)
    model.train()


def _read_meters(logits: Tensor, loss: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Loss, top-1 and top-5 hits as numbers."""
    hits = logits.topk(5).indices == labels[:, None]
    return loss.item(), hits[:, 0].sum().item(), hits.sum().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=640, help="to train with")
    parser.add_argument("--test-images", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of the official way's DataLoader")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--teacher", default="resnet32x4")
    arguments = parser.parse_args()

    facts = hardware()
    print_hardware(facts)
    torch.manual_seed(0)
    device = torch.device("cpu")
    split, test_split = random_split(arguments.images), random_split(arguments.test_images, seed=1)
    train, test = our_loader(split, training=True, batch_size=BATCH), our_loader(test_split, training=False, batch_size=BATCH)
    pair = networks(arguments.student, arguments.teacher, train)
    images, labels = next(iter(train))
    batch = images, labels
    ways = {"official way": official_way(pair, split, test_split, arguments.workers, batch, device)}
    ways["ours, fp32"] = our_way(pair, train, test, {}, batch)
    if has_bf16(device):
        ways["ours, bf16"] = our_way(pair, train, test, BF16, batch)
    rows = compare(ways, arguments.rounds, warm_up=False)
    print_comparison(rows, f"an epoch: train {arguments.images}, test {arguments.test_images} images")
    save("epoch", facts, {**vars(arguments), "rows": rows})


def official_way(
    pair: tuple[nn.Module, nn.Module],
    split: tuple[Tensor, Tensor],
    test_split: tuple[Tensor, Tensor],
    workers: int,
    batch: tuple[Tensor, Tensor],
    device: torch.device,
) -> Callable[[], None]:
    """An epoch of the official way, after a step to warm up."""
    step = OfficialStep(*copy.deepcopy(pair))
    loader, test_loader = (
        pil_loader(data, training=training, workers=workers) for data, training in ((split, True), (test_split, False))
    )
    step(*batch)

    def run() -> None:
        official_training(step, loader, device)
        official_evaluation(step.student, test_loader, device)

    return run


def our_way(
    pair: tuple[nn.Module, nn.Module],
    train: InMemoryLoader,
    test: InMemoryLoader,
    settings: Mapping[str, Any],
    batch: tuple[Tensor, Tensor],
) -> Callable[[], None]:
    """The next epoch of ours, after a step to warm up."""
    trainer = our_trainer(pair, train, test, settings)
    trainer.train_step(*batch)
    return trainer.run_epoch


if __name__ == "__main__":
    main()
