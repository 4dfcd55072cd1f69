"""Methods on feature maps build their layers and give finite losses for all pairs with published results."""

from __future__ import annotations

import pytest
import torch

from mdistiller_ext.distillers import Batch, Progress, create_distiller
from mdistiller_ext.errors import ConfigError
from tests.support.pairs import PAIRS, networks, outputs

METHODS = ["AT", "FITNET", "NST", "VID", "OFD", "REVIEWKD"]
# KDSVD compares singular vectors over channels, which must be equally many.
OTHER_CHANNELS = [
    ("wrn_40_2", "wrn_40_1"),
    ("wrn_40_2", "ShuffleV1"),
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "vgg8"),
    ("ResNet50", "MobileNetV2"),
]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids="-".join)


def distillation_loss(method, pair):
    teacher_network, student_network = networks(pair)
    teacher, student = outputs(pair)
    distiller = create_distiller(method, student_network, teacher_network)
    distiller.setup(student, teacher)
    batch = Batch(torch.zeros(2, 3, 1, 1), torch.zeros(2, dtype=torch.long))
    task, loss = distiller.losses(student, teacher, batch, Progress(20, 240)).values()
    assert task.isfinite()
    return loss


@every_pair
@pytest.mark.parametrize("method", METHODS)
def test_pairs_with_published_results_have_a_finite_loss(method, pair):
    loss = distillation_loss(method, pair)
    assert loss.isfinite()
    assert loss > 0


@every_pair
def test_kdsvd_needs_stages_of_equally_many_channels(pair):
    if pair in OTHER_CHANNELS:
        with pytest.raises(ConfigError, match=r"KDSVD with RULE paper compares maps .* of equal channels, and a stage has"):
            distillation_loss("KDSVD", pair)
    else:
        assert distillation_loss("KDSVD", pair) > 0
