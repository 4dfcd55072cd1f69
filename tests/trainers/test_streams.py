"""Tables of streams, and what merging streams may change: nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mdistiller_ext.registry import TRAINERS
from mdistiller_ext.trainers import BaseTrainer, Stream
from mdistiller_ext.trainers.streams import merge_streams
from tests.support.trainers import weights


def streams_of(trainer: str, **options: Any) -> list[tuple[str, tuple[str, ...], float, bool]]:
    return [(s.name, s.roles, round(s.momentum, 12), s.decays) for s in TRAINERS.get(trainer).streams(0.9, **options)]


def test_the_tables_of_streams() -> None:
    assert streams_of("base") == [("all", ("task", "target", "nontarget", "kd"), 0.9, True)]
    assert streams_of("dot", delta=0.075) == [
        ("task", ("task",), 0.825, True),
        ("kd", ("target", "nontarget", "kd"), 0.975, False),
    ]
    assert streams_of("deepkd", delta_tog=0.05, delta_tcg=-0.03, delta_ncg=0.07) == [
        ("task", ("task",), 0.95, True),
        ("target", ("target",), 0.87, False),
        ("nontarget", ("nontarget",), 0.97, False),
    ]
    assert streams_of("deepkd", delta_tog=0.05, delta_tcg=-0.03, delta_ncg=0.07, rule="official") == [
        ("task", ("task",), 0.87, False),
        ("target", ("target",), 0.87, True),
        ("nontarget", ("nontarget",), 0.97, False),
    ]


def test_streams_of_equal_momentum_merge_and_keep_roles_and_decay() -> None:
    merged = merge_streams([Stream("a", ("task",), 0.9), Stream("b", ("kd",), 0.8), Stream("c", ("target",), 0.9, decays=True)])
    assert merged == [Stream("a+c", ("task", "target"), 0.9, decays=True), Stream("b", ("kd",), 0.8)]


def backward_passes(trainer: BaseTrainer, monkeypatch: pytest.MonkeyPatch) -> int:
    calls = 0
    backward = Tensor.backward

    def counted(*arguments: Any, **keywords: Any) -> None:
        nonlocal calls
        calls += 1
        backward(*arguments, **keywords)

    trainer.distiller.train()
    images, labels = next(iter(trainer.train_loader))
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "backward", counted)
        trainer.train_step(images, labels)
    return calls


@pytest.mark.parametrize("method", ["DKD", "Auxiliary"])
def test_merged_and_unmerged_streams_train_the_same_weights(
    double_trainer: Callable[..., BaseTrainer], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    merged, separate = (double_trainer("deepkd", method, merge=merge) for merge in (True, False))
    start = weights(merged)
    assert torch.equal(start, weights(separate))
    assert (len(merged.active_streams), len(separate.active_streams)) == (2, 3)
    for trainer in (merged, separate):
        trainer.train()  # 2 epochs of 5 steps
    torch.testing.assert_close(weights(merged), weights(separate), rtol=1e-10, atol=1e-12)
    assert (weights(merged) - start).abs().max() > 1e-3
    for name, value in merged.history[-1].items():
        assert value == pytest.approx(separate.history[-1][name], rel=1e-10)


@pytest.mark.parametrize(
    ("trainer", "keywords", "passes"),
    [
        ("base", {}, 1),
        ("dot", {}, 2),
        ("dot", {"stream_options": {"delta": 0.0}}, 1),
        ("deepkd", {}, 2),
        ("deepkd", {"stream_options": {"rule": "official"}}, 3),  # its weight decay needs the task stream's own update
        ("deepkd", {"merge": False}, 3),
        ("deepkd", {"stream_options": {"delta_tog": 0.05}}, 3),
        ("deepkd", {"stream_options": {"delta_tog": 0.0, "delta_tcg": 0.0, "delta_ncg": 0.0}}, 1),
    ],
)
def test_equal_momenta_share_a_backward_pass(
    double_trainer: Callable[..., BaseTrainer],
    monkeypatch: pytest.MonkeyPatch,
    trainer: str,
    keywords: dict[str, Any],
    passes: int,
) -> None:
    assert backward_passes(double_trainer(trainer, **keywords), monkeypatch) == passes


@pytest.mark.parametrize(
    ("trainer", "options"), [("dot", {"delta": 0.0}), ("deepkd", {"delta_tog": 0.0, "delta_tcg": 0.0, "delta_ncg": 0.0})]
)
@pytest.mark.parametrize("merge", [True, False])
def test_a_trainer_without_deltas_is_the_base_trainer(
    double_trainer: Callable[..., BaseTrainer], trainer: str, options: dict[str, float], merge: bool
) -> None:
    base, other = double_trainer("base"), double_trainer(trainer, stream_options=options, merge=merge)
    for run in (base, other):
        run.train()
    torch.testing.assert_close(weights(base), weights(other), rtol=1e-10, atol=1e-12)
