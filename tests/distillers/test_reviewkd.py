"""REVIEWKD."""

from __future__ import annotations

import pytest
import torch

from mdistiller_ext.distillers import create_distiller
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import close, make_distiller
from tests.support.maps import LARGE, SMALL, assert_upstreams, losses_of, random_output, set_up
from tests.support.pairs import networks, outputs


@pytest.mark.parametrize(
    ("key", "student", "teacher", "maps", "options"),
    [
        ("reviewkd", SMALL, LARGE, "feats", {}),
        ("reviewkd_larger", LARGE, SMALL, "feats", {}),
        ("reviewkd_preact", SMALL, LARGE, "preact_feats", {"stu_preact": True}),
    ],
)
def test_loss_and_gradients_are_upstreams(key, student, teacher, maps, options):
    assert_upstreams(key, "REVIEWKD", student, teacher, maps, **options)


# Settings of the authors' and mdistiller's configurations: channels of student and teacher, and edges of their maps, from the
# first level to the pooled features, and channels of the fused maps.
SETTINGS = {
    ("resnet56", "resnet20"): ([16, 32, 64, 64], [16, 32, 64, 64], [32, 16, 8, 1], [32, 16, 8, 1], 64),
    ("resnet32x4", "resnet8x4"): ([64, 128, 256, 256], [64, 128, 256, 256], [32, 16, 8, 1], [32, 16, 8, 1], 256),
    ("wrn_40_2", "wrn_16_2"): ([32, 64, 128, 128], [32, 64, 128, 128], [32, 16, 8, 1], [32, 16, 8, 1], 128),
    ("wrn_40_2", "wrn_40_1"): ([16, 32, 64, 64], [32, 64, 128, 128], [32, 16, 8, 1], [32, 16, 8, 1], 64),
    ("wrn_40_2", "ShuffleV1"): ([240, 480, 960, 960], [32, 64, 128, 128], [16, 8, 4, 1], [32, 16, 8, 1], 512),
    ("resnet32x4", "ShuffleV1"): ([240, 480, 960, 960], [64, 128, 256, 256], [16, 8, 4, 1], [32, 16, 8, 1], 512),
    ("resnet32x4", "ShuffleV2"): ([116, 232, 464, 1024], [64, 128, 256, 256], [16, 8, 4, 1], [32, 16, 8, 1], 512),
    ("vgg13", "vgg8"): ([128, 256, 512, 512, 512],) * 2 + ([16, 8, 4, 4, 1],) * 2 + (512,),
    ("ResNet50", "vgg8"): ([128, 256, 512, 512, 512], [256, 512, 1024, 2048, 2048], [16, 8, 4, 4, 1], [32, 16, 8, 4, 1], 512),
    ("vgg13", "MobileNetV2"): ([12, 16, 48, 160, 1280], [128, 256, 512, 512, 512], [16, 8, 4, 2, 1], [16, 8, 4, 4, 1], 512),
    ("ResNet34", "ResNet18"): ([64, 128, 256, 512, 512],) * 2 + ([16, 8, 4, 2, 1],) * 2 + (512,),
    ("ResNet50", "MobileNetV1"): (
        [128, 256, 512, 1024, 1024],
        [256, 512, 1024, 2048, 2048],
        [16, 8, 4, 2, 1],
        [16, 8, 4, 2, 1],
        512,
    ),
}


@pytest.mark.parametrize("pair", SETTINGS, ids="-".join)
def test_channels_and_sizes_are_those_that_others_configure(pair):
    teacher, student = outputs(pair)
    distiller = create_distiller("REVIEWKD", *networks(pair)[::-1])
    distiller.setup(student, teacher)
    s_channels, t_channels, s_sizes, t_sizes, mid_channels = SETTINGS[pair]
    fusions = distiller.fusions[::-1]
    assert [fusion.enter[0].in_channels for fusion in fusions] == s_channels
    assert [fusion.leave[0].out_channels for fusion in fusions] == t_channels
    assert {fusion.enter[0].out_channels for fusion in fusions} == {mid_channels}
    assert [fusion.attention is None for fusion in fusions] == [False] * (len(fusions) - 1) + [True]
    levels = distiller._levels(student, teacher)[::-1]
    assert [s.shape[-1] for s, _ in levels] == s_sizes
    assert [t.shape[-1] for _, t in levels] == t_sizes


def test_maps_need_not_be_square():
    student = random_output([(3, 3, 8, 6), (3, 4, 8, 6), (3, 5, 4, 3)])
    teacher = random_output([(3, 3, 16, 6), (3, 4, 16, 6), (3, 6, 4, 3)])
    assert losses_of(set_up("REVIEWKD", student, teacher), student, teacher)["kd/hcl"].isfinite()


def test_the_weight_warms_up():
    student, teacher = random_output(SMALL), random_output(LARGE, 1)
    distiller = set_up("REVIEWKD", student, teacher, reviewkd_weight=4.0, warmup_epochs=8).eval()
    losses = [losses_of(distiller, student, teacher, epoch=epoch) for epoch in (2, 8, 100)]
    assert list(losses[0]) == ["task/ce", "kd/hcl"]
    close(losses[0]["kd/hcl"], losses[1]["kd/hcl"] / 4)
    close(losses[2]["kd/hcl"], losses[1]["kd/hcl"])
    close(losses[0]["task/ce"], losses[1]["task/ce"])


@pytest.mark.parametrize(("limit", "mid_channels"), [(512, 6), (4, 4)])
def test_the_channels_of_fused_maps_are_limited(limit, mid_channels):
    distiller = set_up("REVIEWKD", random_output(SMALL), random_output(LARGE), max_mid_channel=limit)
    assert {fusion.enter[0].out_channels for fusion in distiller.fusions} == {mid_channels}


def test_a_student_without_maps_before_their_relu_is_refused_where_these_are_asked_for():
    teacher, student = outputs(("vgg13", "MobileNetV2"))
    distiller = create_distiller("REVIEWKD", *networks(("vgg13", "MobileNetV2"))[::-1], stu_preact=True)
    with pytest.raises(ConfigError, match=r"'preact_feats' of the student \(MobileNetV2\)"):
        distiller.setup(student, teacher)


def test_a_limit_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"REVIEWKD\.MAX_MID_CHANNEL must be at least 1, not 0"):
        make_distiller("REVIEWKD", max_mid_channel=0)


def test_each_level_sees_the_ones_after_it():
    """What the pooled features pass on reaches the first stage."""
    student, teacher = random_output(SMALL), random_output(LARGE, 1)
    distiller = set_up("REVIEWKD", student, teacher).eval()
    passed_on = None
    for fusion, (s, t) in zip(distiller.fusions, distiller._levels(student, teacher), strict=True):
        fused, passed_on = fusion(s, passed_on, t.shape[2:])
        assert fused.shape == t.shape
    assert torch.autograd.grad(fused.sum(), student.features["pooled_feat"])[0].abs().max() > 0
