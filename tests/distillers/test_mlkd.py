"""MLKD's weights and rules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L
from mdistiller_ext.distillers import Progress
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import close, make_distiller
from tests.support.features import make_views
from tests.support.golden import golden


@pytest.mark.parametrize("rule", ["official", "paper"])
@pytest.mark.parametrize("standardize", [False, True])
def test_mlkd_is_its_weighted_parts(rule, standardize):
    outputs, logits, labels = make_views()
    settings = {"temperature": 2.0, "ce_weight": 0.5, "kd_weight": 3.0, "standardize": standardize, "rule": rule}
    losses = make_distiller("MLKD", **settings).losses(*outputs, Progress(20, 240))
    close(losses.pop("task/ce"), 0.5 * sum(F.cross_entropy(view, labels) for view in logits[0]))
    parts = L.mlkd_parts(*logits, labels, temperature=2.0, rule=rule, standardized=standardize)
    assert list(losses) == ["target/tckd", "nontarget/nckd", "kd/batch", "kd/class"]
    close(torch.stack(list(losses.values())), 3 * torch.stack(parts))


def test_the_defaults_are_the_authors_rule_and_weights():
    arrays = golden("multi_view")
    (student, teacher, batch), _, _ = make_views()
    student, teacher = (
        tuple(output._replace(logits=arrays[f"{who}_{view}"]) for output, view in zip(pair, ("weak", "strong"), strict=True))
        for who, pair in (("student", student), ("teacher", teacher))
    )
    batch = batch.map(lambda part: arrays["labels"])
    losses = make_distiller("MLKD").losses(student, teacher, batch, Progress(20, 240))
    close(sum(losses.values()), sum(arrays[f"mlkd/loss_{name}"] for name in ("ce", "kd", "cc", "bc")))


@pytest.mark.parametrize(("epoch", "weight"), [(5, 0.25), (20, 1.0), (200, 1.0)])
def test_by_deepkds_rule_the_relations_are_a_task_and_the_parts_have_dkds_weights(epoch, weight):
    outputs, logits, labels = make_views()
    distiller = make_distiller("MLKD", rule="deepkd", alpha=1.5, beta=3.0, kd_weight=0.5)
    losses = distiller.losses(*outputs, Progress(epoch, 240))
    parts = L.mlkd_parts(*logits, labels, temperature=4.0, rule="deepkd")
    assert list(losses) == ["task/ce", "target/tckd", "nontarget/nckd", "task/batch", "task/class"]
    expected = [0.5 * factor * part for factor, part in zip((1.5 * weight, 3 * weight, 1, 1), parts, strict=True)]
    close(torch.stack(list(losses.values())[1:]), torch.stack(expected))


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match=r"^MLKD\.RULE must be official, paper or deepkd, not 'release'$"):
        make_distiller("MLKD", rule="release")
