"""Small networks, batches and logits for tests of distillers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller_ext.distillers import Output, Progress, create_distiller

CLASSES = 10


class TinyModel(nn.Module):
    """A linear classifier behind a batch norm, with the zoo's outputs."""

    def __init__(self, classes=CLASSES, seed=0):
        super().__init__()
        features = 3 * 2 * 2
        self.norm = nn.BatchNorm1d(features)
        self.fc = nn.Linear(features, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.fc.weight.copy_(2 * torch.randn(self.fc.weight.shape, generator=generator))
        self.double()

    def forward(self, images):
        return self.fc(self.norm(images.flatten(1))), {}


def make_distiller(name, **hyper_parameters):
    return create_distiller(name, TinyModel(seed=1), TinyModel(seed=2), **hyper_parameters)


def make_logits(samples=16, classes=CLASSES, seed=0):
    """(student, teacher, labels) for what needs no modules."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, samples, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (samples,), generator=generator)


def losses_of(name, student, teacher, labels, *, epoch=20, epochs=240, **hyper_parameters):
    distiller = make_distiller(name, **hyper_parameters)
    return distiller.losses(Output(student, {}), Output(teacher, {}), labels, Progress(epoch, epochs))


def close(actual, expected, tolerance=1e-11):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def sum_of(name, **options):
    student, teacher, labels = make_logits()
    return sum(losses_of(name, student, teacher, labels, **options).values())


def cross_entropy():
    student, _, labels = make_logits()
    return F.cross_entropy(student, labels)
