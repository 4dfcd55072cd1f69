"""VID."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext.distillers import create_distiller
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import TinyModel, close, make_distiller
from tests.support.maps import LARGE, SMALL, assert_upstreams, detached, losses_of, random_output, set_up


@pytest.mark.parametrize(("key", "rule"), [("vid", "paper"), ("vid_mdistiller", "mdistiller")])
def test_loss_and_gradients_are_upstreams(key, rule):
    """With ``paper`` for other variances than the initial ones, which mdistiller cannot reach by training."""
    assert_upstreams(key, "VID", SMALL, LARGE, rule=rule)


def test_variances_are_trained_unless_the_rule_is_mdistillers():
    student, teacher = random_output(SMALL), random_output(LARGE, 1)
    for rule, trained in (("paper", True), ("mdistiller", False)):
        distiller = set_up("VID", student, teacher, rule=rule)
        names = [f"regressors.{i}.log_scale" for i in range(3)]
        parameters = dict(distiller.named_parameters())
        assert all((name in parameters) == trained for name in names)
        assert all(name in distiller.own_state_dict() for name in names)
        if trained:
            losses_of(distiller, student, teacher)["kd/vid"].backward()
            assert all(parameters[name].grad.abs().max() > 0 for name in names)


@pytest.mark.parametrize("variance", [0.01, 5.0, 2000.0])
def test_every_channel_starts_at_the_initial_variance(variance):
    distiller = create_distiller("VID", TinyModel(), TinyModel(), init_pred_var=variance)
    distiller.setup(detached(random_output(SMALL)), detached(random_output(LARGE)))
    for regressor, shape in zip(distiller.regressors, LARGE[1:], strict=True):
        close(F.softplus(regressor.log_scale) + 1e-5, torch.full((shape[1],), variance, dtype=torch.float64))


def test_variances_that_are_no_variances_are_refused():
    with pytest.raises(ConfigError, match=r"VID needs INIT_PRED_VAR > EPS >= 0, not 1e-06 and 1e-05"):
        make_distiller("VID", init_pred_var=1e-6)
    with pytest.raises(ConfigError, match=r"VID needs INIT_PRED_VAR > EPS >= 0"):
        make_distiller("VID", eps=-1e-5)
    with pytest.raises(ConfigError, match=r"VID\.RULE must be paper or mdistiller, not 'official'"):
        make_distiller("VID", rule="official")
