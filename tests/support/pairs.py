"""Pairs (teacher, student) of networks with published results, at random weights."""

from __future__ import annotations

import functools

import torch

from mdistiller_ext.distillers.outputs import run_network
from mdistiller_ext.models import create_model

# RepDistiller's and mdistiller's tables: the zoo, and the edge of an image in pixels.
PAIRS = {
    ("wrn_40_2", "wrn_16_2"): ("cifar100", 32),
    ("wrn_40_2", "wrn_40_1"): ("cifar100", 32),
    ("wrn_40_2", "ShuffleV1"): ("cifar100", 32),
    ("resnet56", "resnet20"): ("cifar100", 32),
    ("resnet110", "resnet20"): ("cifar100", 32),
    ("resnet110", "resnet32"): ("cifar100", 32),
    ("resnet32x4", "resnet8x4"): ("cifar100", 32),
    ("resnet32x4", "ShuffleV1"): ("cifar100", 32),
    ("resnet32x4", "ShuffleV2"): ("cifar100", 32),
    ("vgg13", "vgg8"): ("cifar100", 32),
    ("vgg13", "MobileNetV2"): ("cifar100", 32),
    ("ResNet50", "vgg8"): ("cifar100", 32),
    ("ResNet50", "MobileNetV2"): ("cifar100", 32),
    ("ResNet34", "ResNet18"): ("imagenet", 64),
    ("ResNet50", "MobileNetV1"): ("imagenet", 64),
}


@functools.cache
def networks(pair):
    """(teacher, student) networks in eval mode."""
    dataset, _ = PAIRS[pair]
    return tuple(create_model(name, dataset=dataset, num_classes=10).eval() for name in pair)


@functools.cache
def outputs(pair):
    """(teacher, student) outputs for two images."""
    _, size = PAIRS[pair]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        teacher, student = networks(pair)
        return run_network(teacher, images, "teacher"), run_network(student, images, "student")
