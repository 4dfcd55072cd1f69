"""Recorded gradients are those that train, and recording them changes nothing."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.distillers import Distiller, Output, Progress
from mdistiller_ext.distillers.outputs import Batch
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.models import register_model
from mdistiller_ext.trainers import BaseTrainer
from mdistiller_ext.trainers.gradient_records import GradientRecords
from mdistiller_ext.trainers.streams import Stream
from tests.support.runs import assert_identical, stop_after

DEEPKD = ["DISTILLER.TYPE", "DEEPKD", "SOLVER.TRAINER", "deepkd", "SOLVER.DEEPKD.DELTA_NCG", "0.05", "SOLVER.BATCH_SIZE", "8"]
RECORD = ["SOLVER.RECORD", "[gsnr, conflict]", "SOLVER.RECORD_EVERY", "2", "SOLVER.RECORD_WINDOW", "4"]


class Dropping(nn.Module):
    """A network with batch norm and dropout."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.Dropout(0.3)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        pooled = self.drop(self.norm(self.conv(images)).relu().mean(dim=(2, 3)))
        return self.fc(pooled), {"feats": [], "pooled_feat": pooled}


@pytest.fixture
def dropping(forget_plugins: None) -> str:
    """Name of the registered network ``Dropping``."""
    register_model("dropping", zoo="cifar100")(Dropping)
    return "dropping"


def state_of(trainer: BaseTrainer) -> dict[str, Any]:
    """All that training has made, without the records and times."""
    state = trainer.state.state_dict()
    return {name: value for name, value in state.items() if name not in ("records", "seconds", "cost")}


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_training_is_bit_identical_with_and_without_records(tiny: list[str], dropping: str, amp: str) -> None:
    states = []
    for record in (RECORD, []):
        trainer = build_trainer(load_config(None, [*tiny, *DEEPKD, "DISTILLER.STUDENT", dropping, "SOLVER.AMP", amp, *record]))
        trainer.train()
        states.append(state_of(trainer))
        if record:
            assert trainer.state.records is not None
            assert trainer.state.records.state_dict()["windows"]["samples"].tolist() == [4, 2]
    assert_identical(*states)


def test_a_run_stopped_within_an_epoch_and_window_records_the_same(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*tiny, *DEEPKD, *RECORD, "SOLVER.CHECKPOINT_STEPS", "1", "SOLVER.RECORD_WINDOW", "5"]
    whole = build_trainer(load_config(None, arguments), tmp_path / "whole")
    whole.train()
    stopped = build_trainer(load_config(None, arguments), tmp_path / "stopped")
    with monkeypatch.context() as patch:
        stop_after(patch, steps=7)
        with pytest.raises(KeyboardInterrupt):
            stopped.train()
    saved = checkpoint.load(tmp_path / "stopped" / "latest")
    assert (saved["epoch"], saved["step"]) == (1, 3)
    assert saved["records"]["windows"]["samples"].tolist() == []
    assert saved["records"]["open"]["sample_step"].tolist() == [0, 2, 4, 6]
    build_trainer(load_config(None, arguments), tmp_path / "stopped", resume=True).train()
    ends = [checkpoint.load(tmp_path / name / "latest") for name in ("stopped", "whole")]
    assert_identical(ends[0]["records"], ends[1]["records"])
    assert ends[0]["records"]["windows"]["samples"].tolist() == [5]


# ---- values -------------------------------------------------------------------------------------------------------


def test_records_are_what_autograd_gives_at_each_step(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each role, and of all of them together: by bilinearity those of the gradient of the whole loss."""
    settings = [*DEEPKD, "SOLVER.RECORD", "[gsnr, conflict]", "SOLVER.RECORD_EVERY", "1", "SOLVER.RECORD_WINDOW", "6"]
    trainer = build_trainer(load_config(None, [*tiny, *settings, "SOLVER.FOLD_TEACHER", "False"]))
    names = [name for name, _ in trainer.distiller.student.named_parameters()]
    step, kept = BaseTrainer.train_step, []

    def train_step(self: BaseTrainer, *inputs: Tensor) -> Any:
        distiller = copy.deepcopy(self.distiller)
        _, losses = distiller(*inputs[:2], self.progress)
        gradients = {}
        for name, loss in (losses | {"total": torch.stack(list(losses.values())).sum()}).items():
            distiller.zero_grad()
            loss.backward(retain_graph=True)
            gradients[name.split("/")[0]] = [p.grad.double() for p in distiller.student.parameters() if p.grad is not None]
        kept.append(gradients)
        return step(self, *inputs)

    monkeypatch.setattr(BaseTrainer, "train_step", train_step)
    trainer.train()
    found = trainer.state.state_dict()["records"]
    roles, windows = ["task", "target", "nontarget"], found["windows"]
    assert (found["roles"], found["parameters"]) == (roles, names)
    assert found["streams"]["nontarget"] == {"roles": ["nontarget"], "momentum": pytest.approx(0.95)}
    assert windows["sample_step"].tolist() == list(range(12))
    assert (windows["first_step"].tolist(), windows["last_step"].tolist()) == ([0, 6], [5, 11])

    def close(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))

    total = torch.tensor([sum(float(g.square().sum()) for g in gradients["total"]) for gradients in kept])
    close(windows["sample_gram"].sum(dim=(1, 2)).float(), total)
    for w in range(2):
        samples = kept[6 * w : 6 * w + 6]
        for p in range(len(names)):
            vectors = torch.stack(
                [torch.stack([sample[role][p].flatten() for role in roles]) for sample in samples]
            )  # [6, R, D]
            mean = vectors.mean(dim=0)
            close(windows["gram"][w, p], torch.einsum("nrd,nsd->rs", vectors, vectors) / 6)
            close(windows["mean_gram"][w, p], mean @ mean.T)
            close(windows["centred_gram"][w, p], torch.einsum("nrd,nsd->rs", vectors - mean, vectors - mean) / 6)
            whole = torch.stack([sample["total"][p].flatten() for sample in samples])
            close(windows["centred_gram"][w, p].sum(), whole.var(dim=0, correction=0).sum())


class Given(Distiller):
    """The gradients of task and kd are the images' mean ``[2, 5]``: the first three of them of ``a``, the others of ``b``."""

    needs_teacher = False

    def compute(self, batch: Batch, progress: Progress) -> tuple[Output, dict[str, Tensor]]:
        weights = torch.cat([self.student.a, self.student.b])
        task, kd = (batch.images.mean(dim=0)[..., 0] * weights).sum(dim=1)
        return Output(weights[None], {}), {"task/given": task, "kd/given": kd}


def given_records(*kinds: str, window: int) -> GradientRecords:
    student = nn.Module()
    student.a, student.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    components, streams = ["task/given", "kd/given"], [Stream("all", ("task", "kd"), 0.9)]
    progress = Progress(1, 1)
    return GradientRecords(
        Given(student, None), progress, kinds, streams=streams, components=components, every=1, window=window
    )


def give(records: GradientRecords, step: int, gradients: Tensor) -> None:
    """Observe a batch of one image whose gradients ``[2, 5]`` these are."""
    records.observe(Batch(gradients[None, ..., None], torch.zeros(1, dtype=torch.long), sizes=[1]), step)


def test_opposite_and_orthogonal_gradients() -> None:
    records = given_records("conflict", window=2)
    opposite = torch.tensor([[1.0, 2.0, 2.0, 0.0, 4.0], [-2.0, -4.0, -4.0, 0.0, -8.0]])
    orthogonal = torch.tensor([[3.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0, 0.0]])
    give(records, 0, opposite)
    give(records, 1, orthogonal)
    windows = records.state_dict()["windows"]
    assert windows["sample_gram"].tolist() == [[[25.0, -50.0], [-50.0, 100.0]], [[9.0, 0.0], [0.0, 2.0]]]
    of_a, of_b = windows["gram"][0]
    assert of_a.tolist() == [[9.0, -9.0], [-9.0, 18.5]]
    assert of_b.tolist() == [[8.0, -16.0], [-16.0, 32.5]]
    assert "mean_gram" not in windows


def test_means_and_variances_of_gaussian_gradients() -> None:
    """Within five standard errors; the two roles share a part of their noise."""
    n, generator = 1000, torch.Generator().manual_seed(3)
    means = torch.tensor([[1.0, -2.0, 0.5, 3.0, 0.0], [0.5, 0.5, 0.0, -1.0, 2.0]])
    mixing = torch.tensor([[2.0, 0.0], [0.6, 0.8]])  # covariance [[4, 1.2], [1.2, 1]] of the roles in each coordinate
    records = given_records("gsnr", window=n)
    for step in range(n):
        give(records, step, means + mixing @ torch.randn(2, 5, generator=generator))
    windows = records.state_dict()["windows"]
    covariance = mixing @ mixing.T
    for p, part in enumerate((slice(0, 3), slice(3, 5))):
        mu, size = means[:, part], means[:, part].shape[1]
        deviation = size * covariance.diagonal().outer(covariance.diagonal()) + size * covariance.square()
        assert bool(((windows["centred_gram"][0, p] - size * covariance).abs() < 5 * (deviation / n).sqrt()).all())
        wanted, lengths = mu @ mu.T + size * covariance / n, mu.square().sum(dim=1)
        error = (lengths[:, None] * covariance.diagonal() + lengths * covariance.diagonal()[:, None]) * 2 / n
        assert bool(((windows["mean_gram"][0, p] - wanted).abs() < 5 * error.sqrt()).all())


def test_a_batch_that_is_not_finite_and_skipped_leaves_no_trace(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [*DEEPKD, "SOLVER.ON_NAN", "skip", "SOLVER.RECORD_EVERY", "1"]

    def train(*more: str) -> BaseTrainer:
        trainer = build_trainer(load_config(None, [*tiny, *settings, *more]))
        losses = trainer.distiller.losses
        trainer.train_loader.set_epoch(2)
        bad = next(iter(trainer.train_loader))[1]  # the labels of step 4

        def broken(student: Any, teacher: Any, labels: Tensor, progress: Any) -> dict[str, Tensor]:
            parts = losses(student, teacher, labels, progress)
            if progress.epoch == 2 and torch.equal(labels, bad):
                parts["target/tckd"] = parts["target/tckd"] * math.nan
            return parts

        monkeypatch.setattr(trainer.distiller, "losses", broken)
        trainer.train()
        assert trainer.state.skipped == 1
        return trainer

    trainer = train("SOLVER.RECORD", "[gsnr, conflict]", "SOLVER.RECORD_WINDOW", "4")
    windows = trainer.state.state_dict()["records"]["windows"]
    assert windows["sample_step"].tolist() == [step for step in range(12) if step != 4]
    assert all(bool(value.isfinite().all()) for value in windows.values())
    assert_identical(state_of(trainer), state_of(train()))


# ---- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["SOLVER.RECORD", "[gnsr]"], "SOLVER.RECORD: unknown 'gnsr'; did you mean 'gsnr'? Known: gsnr, conflict"),
        (["SOLVER.RECORD", "[conflict]"], "SOLVER.RECORD conflict needs loss components of two roles; NONE has task alone"),
        (["SOLVER.RECORD", "[gsnr]", "SOLVER.RECORD_WINDOW", "1"], "SOLVER.RECORD_WINDOW must be at least 2, not 1"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tiny: list[str], settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_trainer(load_config(None, [*tiny, "DISTILLER.TYPE", "NONE", *settings]))
    assert str(caught.value) == message


def test_a_method_whose_steps_change_python_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Given, "can_be_captured", False)
    with pytest.raises(ConfigError, match="a step of Given changes Python values"):
        given_records("gsnr", window=2)
