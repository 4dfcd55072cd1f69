"""FITNET."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mdistiller_ext.distillers.fitnet import joining_convolution
from mdistiller_ext.errors import ConfigError
from tests.support.maps import LARGE, SMALL, assert_upstreams, random_maps, random_output, set_up

WIDE = ((3, 3, 9, 9), (3, 4, 9, 9), (3, 5, 7, 7), (3, 6, 2, 2))


@pytest.mark.parametrize(
    ("key", "student", "teacher", "layer"),
    [("transposed", SMALL, LARGE, 2), ("strided", LARGE, SMALL, 2), ("equal", SMALL, LARGE, 1), ("window", WIDE, SMALL, 2)],
)
def test_loss_and_gradients_are_upstreams(key, student, teacher, layer):
    assert_upstreams(f"fitnet_{key}", "FITNET", student, teacher, hint_layer=layer)


@pytest.mark.parametrize(
    ("student", "teacher", "kind"),
    [
        ((5, 8, 6), (7, 4, 3), nn.Conv2d),
        ((5, 4, 3), (7, 8, 6), nn.ConvTranspose2d),
        ((5, 8, 6), (7, 8, 6), nn.Conv2d),
        ((5, 8, 6), (7, 4, 6), nn.Conv2d),
        ((5, 9, 8), (7, 7, 3), nn.Conv2d),
    ],
)
def test_the_convolution_leads_from_one_shape_to_the_other(student, teacher, kind):
    convolution = joining_convolution(torch.Size(student), torch.Size(teacher))
    assert type(convolution) is kind
    (maps,) = random_maps([(2, *student)])
    assert convolution.double()(maps).shape == (2, *teacher)


@pytest.mark.parametrize("teacher", [(7, 9, 9), (7, 8, 3), (7, 5, 4)])
def test_sizes_without_a_convolution_are_an_error_that_names_both(teacher):
    message = rf"student's map \[C, H, W\] = \[5, 4, 4\] to the teacher's \[{', '.join(map(str, teacher))}\]"
    with pytest.raises(ConfigError, match=message):
        joining_convolution(torch.Size((5, 4, 4)), torch.Size(teacher))


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_hint_layer_that_a_network_lacks_is_refused(layer):
    with pytest.raises(ConfigError, match=rf"FITNET\.HINT_LAYER must be in \[0, 3\] for the student, not {layer}"):
        set_up("FITNET", random_output(SMALL), random_output(LARGE), hint_layer=layer)
