"""Networks, batches and loops of one's own, for tests of Distillation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mdistiller_ext import Distillation

RKD = {"distance_weight": 0.1, "angle_weight": 0.2}


class Head(nn.Module):
    """A small network of one's own, which returns its logits by ``form``."""

    def __init__(self, form: Callable[[Tensor], Any] = lambda logits: logits, channels: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, channels, 3, stride=2), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.extra = nn.Linear(channels, channels)
        self.fc = nn.Linear(channels, 10)
        self.form = form

    def forward(self, images: Tensor) -> Any:
        return self.form(self.fc(self.extra(self.body(images).mean(dim=(2, 3)))))


@dataclasses.dataclass
class Logits:
    logits: Tensor


def networks(form: Callable[[Tensor], Any] = lambda logits: logits) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    return Head(form), Head(form, channels=9)


def batches(count: int = 4, size: int = 8, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.randint(10, (size,), generator=generator)) for _ in range(count)
    ]


def weights_after(distillation: Distillation, given: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    for images, labels in given:
        distillation.step(images, labels)
    return {name: value.clone() for name, value in distillation.student.state_dict().items()}
