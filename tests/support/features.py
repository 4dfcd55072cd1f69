"""Outputs with random features, for methods that read them."""

from __future__ import annotations

import torch

from mdistiller_ext.distillers import Output, Progress
from mdistiller_ext.distillers.outputs import Batch
from tests.support.distillers import make_distiller, make_logits

SAMPLES = 16


def make_outputs(seed=0):
    """(student, teacher, batch): logits of make_logits, pooled features of 6 and 8 numbers, and two maps each."""
    generator = torch.Generator().manual_seed(seed + 100)

    def output(logits, width):
        maps = [torch.randn(SAMPLES, width, size, size, generator=generator, dtype=torch.float64) for size in (4, 2)]
        pooled = torch.randn(SAMPLES, width, generator=generator, dtype=torch.float64)
        return Output(logits, {"feats": maps, "pooled_feat": pooled})

    student, teacher, labels = make_logits(SAMPLES, seed=seed)
    return output(student, 6), output(teacher, 8), Batch(torch.zeros(SAMPLES, 3, 2, 2), labels)


def make_views():
    """(student, teacher, batch) with two views each; their logits; the labels."""
    (weak, teacher_weak, batch), (strong, teacher_strong, _) = make_outputs(0), make_outputs(1)
    student, teacher = (weak, strong), (teacher_weak, teacher_strong)
    logits = [tuple(output.logits for output in pair) for pair in (student, teacher)]
    return (student, teacher, batch), logits, batch.labels


def pooled_features(seed=0):
    return [output.features["pooled_feat"] for output in make_outputs(seed)[:2]]


def feature_losses(name, *, seed=0, **hyper_parameters):
    """The components of a method without layers of its own."""
    return make_distiller(name, **hyper_parameters).losses(*make_outputs(seed), Progress(20, 240))
