"""Students as points of weight space."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from mdistiller_ext.analyze.runs import open_runs
from mdistiller_ext.analyze.weight_space import (
    batch_norm_images,
    filter_normalized,
    random_directions,
    recompute_batch_norm,
    require_same_network,
    weights_of,
)
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.evaluate import evaluate


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).double()


def test_each_filter_of_a_direction_has_the_norm_of_that_of_the_weights() -> None:
    weights = weights_of(network())
    direction = random_directions(weights, 1, seed=0)[0]
    scaled = filter_normalized(direction, weights)
    for name in ("0.weight", "3.weight"):
        for part, weight, raw in zip(scaled[name], weights[name], direction[name], strict=True):
            assert part.norm() == pytest.approx(float(weight.norm()))
            assert torch.allclose(part / part.norm(), raw / raw.norm())
    assert not any(scaled[name].any() for name in ("0.bias", "1.weight", "1.bias", "3.bias"))
    with_vectors = filter_normalized(direction, weights, "scaled")
    assert with_vectors["1.weight"].norm() == pytest.approx(2)  # four ones
    assert not with_vectors["1.bias"].any()  # zeros are not moved


def test_directions_depend_on_shapes_and_seed_only_and_more_are_drawn_after_them() -> None:
    first, second = (weights_of(network()) for _ in range(2))
    name = "0.weight"
    one, (same, other) = random_directions(first, 1, seed=3)[0], random_directions(second, 2, seed=3)
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], random_directions(first, 1, seed=4)[0][name])


def test_statistics_are_those_of_the_images() -> None:
    model, images = network().eval(), torch.randn(50, 3, 3, 3, dtype=torch.float64)
    recompute_batch_norm(model, images)
    found = model[0](images)
    assert torch.allclose(model[1].running_mean, found.mean(dim=(0, 2, 3)))
    assert torch.allclose(model[1].running_var, found.var(dim=(0, 2, 3)))
    assert not model.training


def test_images_of_batch_norm_are_augmented_and_always_the_same(trained: Path) -> None:
    (run,) = open_runs([trained / "kd0"])[0].runs
    first = batch_norm_images(run, 40)
    assert first.shape == (40, 3, 32, 32)
    assert torch.equal(first, batch_norm_images(run, 40))
    plain = torch.cat([images for images, _ in run.images("train")])
    assert not any((image == plain).flatten(1).all(dim=1).any() for image in first[:5])
    before = evaluate(run.student(), run.images("test"))["loss"]
    student = run.student()
    recompute_batch_norm(student, first)
    assert evaluate(student, run.images("test"))["loss"] != before


def test_runs_of_several_networks_are_refused(trained: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained / "kd0", tmp_path / "other")
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("STUDENT: resnet8", "STUDENT: resnet14"))
    with pytest.raises(ConfigError, match=r"one student only: resnet14 in \S+other, resnet8 in \S+kd1"):
        require_same_network(open_runs([trained / "kd1", other]))
