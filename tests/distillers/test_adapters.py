"""Layers between student and teacher, of all methods that have such."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mdistiller_ext.distillers.adapters import BatchNorm
from tests.support.distillers import close
from tests.support.maps import LARGE, SMALL, detached, losses_of, random_maps, random_output, set_up

METHODS = ["FITNET", "VID", "OFD", "REVIEWKD"]


@pytest.mark.parametrize("name", METHODS)
def test_layers_learn_the_teachers_features_from_the_students(name):
    student, teacher = random_output(SMALL), random_output(LARGE, 1)
    distiller = set_up(name, student, teacher)
    layers = [p for key, p in distiller.named_parameters() if key.split(".")[0] not in ("student", "teacher")]
    losses = []
    for _ in range(60):
        loss = list(losses_of(distiller, detached(student), teacher).values())[1]
        gradients = torch.autograd.grad(loss, layers)
        assert all(gradient.abs().max() > 0 for gradient in gradients)
        with torch.no_grad():
            for p, gradient in zip(layers, gradients, strict=True):
                p -= 0.01 * gradient.sign()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_last_batch_of_one_sample_trains(name):
    student, teacher = (random_output([(1, *shape[1:]) for shape in shapes]) for shapes in (SMALL, LARGE))
    for loss in losses_of(set_up(name, student, teacher), student, teacher).values():
        assert loss.isfinite()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 2, 2), (4, 3, 5, 5)])
def test_batch_norm_is_torchs_where_that_is_defined(shape, training):
    (maps,) = random_maps([shape])
    ours, torchs = (kind(3).double().train(training) for kind in (BatchNorm, nn.BatchNorm2d))
    close(ours(maps), torchs(maps))
    close(ours.running_var, torchs.running_var)


def test_batch_norm_of_single_values_uses_the_running_statistics_and_leaves_them():
    norm = BatchNorm(3).double()
    norm(*random_maps([(4, 3, 2, 2)]))
    before = norm.running_mean.clone()
    (maps,) = random_maps([(1, 3, 1, 1)], 1)
    close(norm.train()(maps), norm.eval()(maps))
    assert torch.equal(norm.running_mean, before)
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm2d(3).double()(maps)
