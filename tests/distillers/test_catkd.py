"""CAT-KD: class activation maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller_ext.errors import ConfigError
from tests.support.distillers import make_batch, make_distiller, run


def test_the_maps_are_those_of_classifiers_turned_into_convolutions_without_bias():
    distiller = make_distiller("CATKD", cat_loss_weight=2.0, if_normalize=False).eval()
    images = make_batch()["images"]
    maps = []
    for network in (distiller.student, distiller.teacher):
        convolution = nn.Conv2d(network.fc.in_features, 10, 1, bias=False).double()
        convolution.weight.data = network.fc.weight.data[:, :, None, None]
        maps.append(F.adaptive_avg_pool2d(convolution(network(images)[1]["feats"][-1]), 2))
    torch.testing.assert_close(run(distiller)[1]["kd/cat"], 2 * F.mse_loss(*maps))


def test_the_student_is_trained_without_the_bias_of_its_classifier():
    distiller = make_distiller("CATKD")
    sum(run(distiller)[1].values()).backward()
    untrained = [name for name, p in distiller.student.named_parameters() if p.grad is None]
    assert untrained == ["fc.bias"]
    assert not distiller.student.fc.bias.any()


def test_the_mean_of_a_class_activation_map_is_the_logit():
    distiller = make_distiller("CATKD").eval()
    logits, features = distiller.student(make_batch()["images"])
    maps = F.conv2d(features["feats"][-1], distiller.student.fc.weight[:, :, None, None])
    torch.testing.assert_close(maps.mean(dim=(2, 3)), logits)


def test_a_resolution_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"CATKD\.LOSS\.CAM_RESOLUTION must be at least 1, not 0"):
        make_distiller("CATKD", cam_resolution=0)
