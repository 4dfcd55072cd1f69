"""Every method under every trainer, what merging streams may change (nothing), schedules, the average, and what stops a run."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_identical
from torch import Tensor, nn

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.data import create_loaders
from mdistiller_ext.distillers import Distiller, create_distiller
from mdistiller_ext.errors import ConfigError, TrainingError, UnknownNameError
from mdistiller_ext.evaluate import evaluate
from mdistiller_ext.models import create_model
from mdistiller_ext.optim import ComponentSGD
from mdistiller_ext.registry import DISTILLERS, TRAINERS
from mdistiller_ext.run import run_folder
from mdistiller_ext.trainers import BaseTrainer, Stream
from mdistiller_ext.trainers.deepkd import DeepKDTrainer
from mdistiller_ext.trainers.dot import DOTTrainer
from mdistiller_ext.trainers.streams import merge_streams

COMPONENTS = {
    "NONE": {"task/ce"},
    "KD": {"task/ce", "target/tckd", "nontarget/nckd"},
    "LSKD": {"task/ce", "target/tckd", "nontarget/nckd"},
    "DKD": {"task/ce", "target/tckd", "nontarget/nckd"},
    "DEEPKD": {"task/ce", "target/tckd", "nontarget/nckd"},
    "GDKD": {"task/ce", "target/high", "nontarget/top", "nontarget/rest"},
    "GDKD3": {"task/ce", "target/high", "nontarget/top", "nontarget/rest"},
    "DIST": {"task/ce", "kd/inter", "kd/intra"},
    "PRKD": {"task/ce", "kd/kl", "kd/correlation"},
}
UNFIT = {
    ("NONE", "dot"): "trainer 'dot' needs task and target/nontarget/kd; NONE offers task. Use 'base'.",
    ("NONE", "deepkd"): "trainer 'deepkd' needs task, target and nontarget; NONE offers task. Use 'base'.",
    ("DIST", "deepkd"): "trainer 'deepkd' needs task, target and nontarget; DIST offers task and kd. Use 'base' or 'dot'.",
    ("PRKD", "deepkd"): "trainer 'deepkd' needs task, target and nontarget; PRKD offers task and kd. Use 'base' or 'dot'.",
}
PAIRS = list(itertools.product(DISTILLERS, TRAINERS))


def make_trainer(tiny: list[str], *overrides: Any) -> BaseTrainer:
    return build_trainer(load_config(None, [*tiny, *map(str, overrides)]))


# ---- the contract, for every pair ---------------------------------------------------------------------------------


def test_the_methods_and_trainers_are_those_of_the_table() -> None:
    assert set(DISTILLERS) == set(COMPONENTS)
    assert set(TRAINERS) == {"base", "dot", "deepkd"}


@pytest.mark.parametrize(("method", "trainer"), [pair for pair in PAIRS if pair not in UNFIT])
def test_a_pair_whose_roles_fit_trains(tiny: list[str], method: str, trainer: str) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", method, "SOLVER.TRAINER", trainer, "SOLVER.EPOCHS", 1, "SOLVER.LR", 0.01)
    student, teacher = run.distiller.student, run.distiller.teacher
    before = [p.clone() for p in student.parameters()]
    teacher_before = None if teacher is None else copy.deepcopy(teacher.state_dict())
    summary = run.train()
    (row,) = run.history
    assert {name for name in row if "/" in name} == COMPONENTS[method]
    assert all(math.isfinite(value) for value in row.values())
    assert row["train_loss"] == pytest.approx(sum(row[name] for name in COMPONENTS[method]))
    assert 0 <= row["test_top1"] <= row["test_top5"] <= 100
    assert all(not torch.equal(p, old) for p, old in zip(student.parameters(), before, strict=True))
    if teacher is None or teacher_before is None:
        assert summary["teacher_top1"] is None
    else:
        assert all(torch.equal(v, teacher_before[k]) for k, v in teacher.state_dict().items())
        assert not teacher.training
        assert summary["teacher_top1"] == evaluate(teacher, run.test_loader)["top1"]


@pytest.mark.parametrize(("method", "trainer"), list(UNFIT))
def test_a_pair_whose_roles_do_not_fit_stops_at_the_start(tiny: list[str], method: str, trainer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_trainer(tiny, "DISTILLER.TYPE", method, "SOLVER.TRAINER", trainer)
    assert str(caught.value) == UNFIT[method, trainer]


@pytest.mark.parametrize("method", list(DISTILLERS))
def test_a_last_batch_of_one_image_is_trained_on(tiny: list[str], method: str) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", method, "DATASET.LIMIT", 33, "SOLVER.EPOCHS", 1, "SOLVER.LR", 0.01)
    run.train()
    assert all(math.isfinite(value) for value in run.history[0].values())


@pytest.mark.parametrize(("method", "trainer"), [("KD", "deepkd"), ("DIST", "dot"), ("PRKD", "base")])
def test_the_teacher_gets_no_gradient_and_the_optimizer_does_not_hold_it(tiny: list[str], method: str, trainer: str) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", method, "SOLVER.TRAINER", trainer)
    images, labels = next(iter(run.train_loader))
    run.distiller.train()
    run.train_step(images, labels)
    teacher = list(run.distiller.teacher.parameters())
    assert all(p.grad is None and not p.requires_grad for p in teacher)
    held = {p for group in run.optimizer.param_groups for p in group["params"]}
    assert held.isdisjoint(teacher)
    assert held == set(run.distiller.student.parameters())


# ---- streams ------------------------------------------------------------------------------------------------------


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


class Auxiliary(Distiller):
    """Decoupled parts on a double-precision network, with a head that only the non-target part reaches."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__(student, teacher)
        self.inner = create_distiller("DKD", student, teacher, warmup=1)
        self.head = nn.Linear(64, 100).double()

    def losses(self, student: Any, teacher: Any, labels: Tensor, progress: Any) -> dict[str, Tensor]:
        parts = self.inner.losses(student, teacher, labels, progress)
        parts["nontarget/head"] = (self.head(student.features["pooled_feat"]) - teacher.logits).square().mean()
        return parts


class DoubleLoader:
    """The loader's batches in double precision."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.num_images, self.image_shape = loader, loader.num_images, loader.image_shape
        self.batch_size = loader.batch_size

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Any:
        return ((images.double(), labels) for images, labels in self.loader)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        self.loader.set_epoch(epoch, first_batch)


@pytest.fixture(scope="module")
def double_trainer(glyphs_root: Path) -> Callable[..., BaseTrainer]:
    """Trainers on double-precision networks that start from the same weights."""
    train, test = create_loaders("glyphs", root=glyphs_root, batch_size=8, test_batch_size=40, limit=40)
    torch.manual_seed(1)
    student = create_model("resnet8", dataset="glyphs").double()
    teacher = create_model("resnet8", dataset="glyphs").double()

    def make(trainer: str, method: str = "DKD", **keywords: Any) -> BaseTrainer:
        torch.manual_seed(2)
        pair = copy.deepcopy(student), copy.deepcopy(teacher)
        distiller = Auxiliary(*pair) if method == "Auxiliary" else create_distiller(method, *pair)
        keywords = {"epochs": 2, "lr": 0.05, "weight_decay": 5e-3, "lr_scheduler": "onecycle"} | keywords
        made: BaseTrainer = TRAINERS.get(trainer)(distiller, DoubleLoader(train), DoubleLoader(test), **keywords)
        return made

    return make


def weights(trainer: BaseTrainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.distiller.learnable_parameters()])


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


def test_the_base_trainer_is_torchs_sgd(double_trainer: Callable[..., BaseTrainer]) -> None:
    run = double_trainer("base", lr_scheduler="step", lr_decay_stages=(1,))
    reference = double_trainer("base")
    distiller = reference.distiller.train()
    optimizer = torch.optim.SGD(distiller.learnable_parameters(), 0.05, momentum=0.9, weight_decay=5e-3)
    for epoch, rate in ((1, 0.05), (2, 0.005)):
        reference.train_loader.set_epoch(epoch)
        reference.progress.set_epoch(epoch)
        optimizer.param_groups[0]["lr"] = rate
        for images, labels in reference.train_loader:
            optimizer.zero_grad()
            _, losses = distiller(images, labels, reference.progress)
            sum(losses.values()).backward()  # type: ignore[union-attr]
            optimizer.step()
    run.train()
    torch.testing.assert_close(weights(run), weights(reference), rtol=1e-10, atol=1e-12)


def test_the_official_rule_is_the_steps_of_deepkds_release(double_trainer: Callable[..., BaseTrainer]) -> None:
    """Task and non-target updates first, then the target's, whose weight decay sees the weights that those have moved."""
    options = {"stream_options": {"rule": "official"}, "lr_scheduler": "step"}
    run, reference = (double_trainer("deepkd", **options) for _ in range(2))
    distiller, buffers = reference.distiller.train(), {}
    parameters = list(distiller.learnable_parameters())
    for epoch in (1, 2):
        reference.train_loader.set_epoch(epoch)
        reference.progress.set_epoch(epoch)
        for images, labels in reference.train_loader:
            _, losses = distiller(images, labels, reference.progress)
            gradients = {
                name: torch.autograd.grad(losses[name], parameters, retain_graph=True)
                for name in ("task/ce", "nontarget/nckd", "target/tckd")
            }
            with torch.no_grad():
                for name, momentum in (("task/ce", 0.825), ("nontarget/nckd", 0.975), ("target/tckd", 0.825)):
                    for p, gradient in zip(parameters, gradients[name], strict=True):
                        decayed = gradient + 5e-3 * p if name == "target/tckd" else gradient
                        old = buffers.get((name, p))
                        buffers[name, p] = decayed if old is None else momentum * old + decayed
                        p -= 0.05 * buffers[name, p]
    run.train()
    torch.testing.assert_close(weights(run), weights(reference), rtol=1e-12, atol=1e-12)


def test_nesterov_and_no_decay_reach_the_optimizer(tiny: list[str]) -> None:
    """DIST's ImageNet recipe; of ResNet18's 62 tensors 41 are of batch norms or biases."""
    run = make_trainer(
        [*tiny, "DISTILLER.STUDENT", "ResNet18", "SOLVER.WEIGHT_DECAY", "0.0001"],
        *("SOLVER.NESTEROV", True, "SOLVER.NO_DECAY", "[norm,bias]"),
    )
    assert run.optimizer.nesterov
    groups = [(len(group["params"]), group["weight_decay"]) for group in run.optimizer.param_groups]
    assert groups == [(21, 0.0001), (41, 0.0)]
    assert all(p.ndim > 1 for p in run.optimizer.param_groups[0]["params"])
    with pytest.raises(ConfigError, match=r"SOLVER\.NO_DECAY: unknown kind 'bn'\. Known: norm, bias"):
        make_trainer(tiny, "SOLVER.NO_DECAY", "[bn]")


# ---- schedules ----------------------------------------------------------------------------------------------------


def rates(tiny: list[str], monkeypatch: pytest.MonkeyPatch, *overrides: Any) -> list[float]:
    """Learning rate of each epoch, of a run whose steps and tests do nothing."""
    run = make_trainer(tiny, "DISTILLER.TYPE", "NONE", *overrides)
    zero = torch.zeros(())

    def no_step(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        run.optimizer.step()
        if run.scheduler_steps_each_batch:
            run.scheduler.step()
        return torch.zeros(len(labels), 100), {"task/ce": zero}

    monkeypatch.setattr(run, "train_step", no_step)
    monkeypatch.setattr("mdistiller_ext.trainers.base.evaluate", lambda *_: {"top1": 0.0, "top5": 0.0, "loss": 0.0})
    run.train()
    return [row["lr"] for row in run.history]


def test_step_lowers_the_rate_after_each_stage(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lr = rates(tiny, monkeypatch, "SOLVER.EPOCHS", 240, "DATASET.LIMIT", 2)
    assert len(lr) == 240
    for first, last, rate in ((1, 150, 0.05), (151, 180, 0.005), (181, 210, 0.0005), (211, 240, 0.00005)):
        assert lr[first - 1 : last] == pytest.approx([rate] * (last - first + 1))


def test_cosine_falls_from_the_full_rate_towards_zero(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lr = rates(tiny, monkeypatch, "SOLVER.EPOCHS", 10, "SOLVER.LR_SCHEDULER", "cosine", "DATASET.LIMIT", 2)
    assert lr == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in range(10)])


def test_onecycle_spans_all_steps_and_peaks_at_the_rate(tiny: list[str]) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", "NONE", "SOLVER.LR_SCHEDULER", "onecycle", "SOLVER.LR", 0.1, "DATASET.LIMIT", 70)
    seen: list[float] = []
    step = run.train_step

    def watched(images: Tensor, labels: Tensor) -> Any:
        seen.append(run.optimizer.param_groups[0]["lr"])
        return step(images, labels)

    run.train_step = watched  # type: ignore[method-assign]
    run.train()
    assert len(run.train_loader) == 3
    assert run.scheduler.total_steps == len(seen) == 3 * 3
    assert max(seen) == pytest.approx(0.1, rel=0.1)
    assert seen[-1] < 1e-4
    assert run.optimizer.param_groups[0]["momentum"] == {"all": 0.9}


# ---- the average of PRKD ------------------------------------------------------------------------------------------


def test_the_average_is_the_mean_of_the_last_students_with_batch_norm_of_its_own(tiny: list[str], tmp_path: Path) -> None:
    more = "DISTILLER.TYPE PRKD PRKD.AVERAGE_LAST 2 SOLVER.EPOCHS 4 LOG.SAVE_CHECKPOINT_FREQ 1 SOLVER.LR 0.05"
    config = load_config(None, [*tiny, *more.split()])
    folder = run_folder(config)
    run = build_trainer(config, folder)
    summary = run.train()
    last = [checkpoint.load(folder / f"student_{epoch}")["model"] for epoch in (3, 4)]
    expected = create_model("resnet8", dataset="glyphs")
    names = {name for name, _ in expected.named_parameters()}
    expected.load_state_dict({k: (last[0][k] + last[1][k]) / 2 if k in names else v for k, v in last[1].items()})
    found = checkpoint.load(folder / "student_average")["model"]
    for name in names:
        torch.testing.assert_close(found[name], expected.state_dict()[name], rtol=1e-6, atol=1e-7)

    # Batch norm: the plain mean over the batches of the training images, one pass.
    norms = [module for module in expected.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    expected.train()
    run.train_loader.set_epoch(config.SOLVER.EPOCHS)
    with torch.no_grad():
        for images, _ in run.train_loader:
            expected(images)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert summary["average_epochs"] == 2
    assert summary["average_top1"] == evaluate(expected, run.test_loader)["top1"]
    assert not torch.equal(found["conv1.weight"], last[1]["conv1.weight"])


@pytest.mark.parametrize(("average_last", "averaged"), [(0, None), (1, 1), (10, 3)])
def test_no_more_epochs_are_averaged_than_there_are(tiny: list[str], average_last: int, averaged: int | None) -> None:
    summary = make_trainer(tiny, "DISTILLER.TYPE", "PRKD", "PRKD.AVERAGE_LAST", average_last).train()
    assert summary.get("average_epochs") == averaged
    assert ("average_top1" in summary) == (averaged is not None)


# ---- a loss that is not finite ------------------------------------------------------------------------------------


def all_finite(state: Any) -> bool:
    return all(bool(v.isfinite().all()) for v in state.values())


@pytest.mark.parametrize("limit", [32, 64, 320])
def test_a_loss_that_is_not_finite_stops_the_run_and_no_checkpoint_is_of_it(
    tiny: list[str], tmp_path: Path, limit: int
) -> None:
    config = load_config(None, [*tiny, "DATASET.LIMIT", str(limit), "SOLVER.LR", "1e30"])
    folder = run_folder(config)
    with pytest.raises(TrainingError) as caught:
        build_trainer(config, folder).train()
    text = str(caught.value)
    assert "not finite" in text
    assert "Checkpoints hold epoch 0" in text  # the very first epoch broke the weights
    assert "SOLVER.LR" in text
    if (folder / "latest").exists():  # from before that step
        state = checkpoint.load(folder / "latest")
        assert state["epoch"] == 0
        assert all_finite(state["student"])
    assert not (folder / "student_best").exists()


def test_after_a_loss_that_is_not_finite_checkpoints_hold_the_last_good_epoch(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, [*tiny, "DISTILLER.TYPE", "KD", "SOLVER.EPOCHS", "4"])
    folder = run_folder(config)
    run = build_trainer(config, folder)
    losses = run.distiller.losses

    def broken(student: Any, teacher: Any, labels: Tensor, progress: Any) -> dict[str, Tensor]:
        parts = losses(student, teacher, labels, progress)
        if progress.epoch == 3:
            parts["target/tckd"] = parts["target/tckd"] * math.nan
        return parts

    monkeypatch.setattr(run.distiller, "losses", broken)
    with pytest.raises(TrainingError, match=r"not finite in epoch 3.*target/tckd = nan.*Checkpoints hold epoch 2"):
        run.train()
    state = checkpoint.load(folder / "latest")
    assert state["epoch"] == 2
    assert all_finite(state["student"])
    assert all_finite(checkpoint.load(folder / "student_latest")["model"])
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + 2


def test_every_epoch_that_is_run_trains_on_all_images(tiny: list[str]) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", "KD")
    for epoch in (1, 2):
        before = weights(run)
        run.run_epoch()
        assert run.state.averages.count == run.train_loader.num_images
        assert not torch.equal(weights(run), before)
        assert (run.state.epoch, run.state.step, len(run.state.history)) == (epoch, 0, epoch)


# ---- small promises -----------------------------------------------------------------------------------------------


def test_a_trainer_without_a_folder_writes_nothing(tiny: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    make_trainer(tiny, "DISTILLER.TYPE", "KD", "SOLVER.EPOCHS", 1).train()
    assert sorted(tmp_path.rglob("*")) == before


def test_trying_the_components_leaves_the_student_as_it_was(tiny: list[str]) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", "DKD")
    before = copy.deepcopy(run.distiller.student.state_dict())
    run.distiller.train()
    assert set(run.distiller.component_names((3, 32, 32))) == COMPONENTS["DKD"]
    assert run.distiller.student.training
    assert all(torch.equal(v, before[k]) for k, v in run.distiller.student.state_dict().items())


def test_training_after_a_restore_leaves_the_snapshot_as_it_was(tiny: list[str]) -> None:
    """So that one snapshot can be restored twice: optimizers and schedulers keep the tensors and lists that they load."""
    run = make_trainer(tiny, "DISTILLER.TYPE", "PRKD", "PRKD.AVERAGE_LAST", 3, "SOLVER.LR_SCHEDULER", "onecycle")
    run.run_epoch()
    snapshot = run.state.snapshot()
    expected = copy.deepcopy(snapshot)
    run.state.restore(snapshot)
    run.run_epoch()
    assert_identical(snapshot, expected)


def test_the_optimizer_is_the_one_of_this_project_for_every_trainer(tiny: list[str]) -> None:
    for trainer in TRAINERS:
        assert type(make_trainer(tiny, "DISTILLER.TYPE", "KD", "SOLVER.TRAINER", trainer).optimizer) is ComponentSGD


@pytest.mark.parametrize("rule", ["paper", "official"])
def test_a_parameter_of_one_stream_uses_the_mean_of_the_three_deltas_under_either_rule(rule: str) -> None:
    deltas = {"delta_tog": 0.05, "delta_tcg": -0.1, "delta_ncg": 0.08}
    assert DeepKDTrainer.partial_momentum(0.9, **deltas, rule=rule) == pytest.approx(0.9 + 0.03 / 3)
    assert DOTTrainer.partial_momentum(0.9, delta=0.05) == pytest.approx(0.9)


def test_a_misspelt_teacher_is_answered_with_the_nearest_name_and_not_with_a_download(tiny: list[str]) -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'resnet2O' for glyphs; did you mean 'resnet20'"):
        build_trainer(load_config(None, [*tiny, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet2O"]))


def test_settings_may_be_given_as_values() -> None:
    config = load_config(None, ["SOLVER.LR", 1, "SOLVER.LR_DECAY_STAGES", [2, 3], "LOG.WANDB", False])
    assert (config.SOLVER.LR, config.SOLVER.LR_DECAY_STAGES, config.LOG.WANDB) == (1.0, [2, 3], False)


def test_evaluation_leaves_a_frozen_batch_norm_frozen() -> None:
    model = create_model("resnet8")
    model.bn1.eval()
    evaluate(model, [(torch.randn(4, 3, 32, 32), torch.arange(4))])
    assert model.training
    assert not model.bn1.training


def test_a_batch_of_one_that_batch_norm_cannot_train_on_is_explained(tiny: list[str]) -> None:
    """Where the last feature map is a single pixel; upstream keeps the last, smaller batch too."""
    network = "torchvision/shufflenet_v2_x0_5"
    run = make_trainer(tiny, "DISTILLER.TYPE", "NONE", "DISTILLER.STUDENT", network, "DATASET.LIMIT", 5, "SOLVER.BATCH_SIZE", 4)
    with pytest.raises(TrainingError, match=r"a batch of a single image.*SOLVER\.BATCH_SIZE"):
        run.train()
