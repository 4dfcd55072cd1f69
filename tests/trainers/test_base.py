"""Every method under every trainer, and training without a run folder."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mdistiller_ext.errors import ConfigError
from mdistiller_ext.evaluate import evaluate
from mdistiller_ext.registry import DISTILLERS, TRAINERS
from mdistiller_ext.trainers import BaseTrainer
from tests.support.distillers import COMPONENTS, UNTRAINED
from tests.support.trainers import make_trainer, weights

UNFIT = {
    ("NONE", "dot"): "trainer 'dot' needs task and target/nontarget/kd; NONE offers task. Use 'base'.",
    ("NONE", "deepkd"): "trainer 'deepkd' needs task, target and nontarget; NONE offers task. Use 'base'.",
    ("MLKD", "deepkd"): "trainer 'deepkd' needs task, target and nontarget; MLKD offers task, target, nontarget and kd. "
    "Use 'base' or 'dot'.",
    **{
        (name, "deepkd"): f"trainer 'deepkd' needs task, target and nontarget; {name} offers task and kd. Use 'base' or 'dot'."
        for name, components in COMPONENTS.items()
        if {component.split("/")[0] for component in components} == {"task", "kd"}
    },
}
PAIRS = list(itertools.product(DISTILLERS, TRAINERS))


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
    assert {name for name in row if "/" in name} == set(COMPONENTS[method])
    assert all(math.isfinite(value) for value in row.values())
    assert row["train_loss"] == pytest.approx(sum(row[name] for name in COMPONENTS[method]))
    assert 0 <= row["test_top1"] <= row["test_top5"] <= 100
    names = [name for name, _ in student.named_parameters()]
    same = {name for name, p, old in zip(names, student.parameters(), before, strict=True) if torch.equal(p, old)}
    assert same == {name for name in names if name.startswith(UNTRAINED.get(method, ()))}
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


# ---- small promises -----------------------------------------------------------------------------------------------


def test_a_trainer_without_a_folder_writes_nothing(tiny: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    make_trainer(tiny, "DISTILLER.TYPE", "KD", "SOLVER.EPOCHS", 1).train()
    assert sorted(tmp_path.rglob("*")) == before


def test_trying_the_components_leaves_the_student_as_it_was(tiny: list[str]) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", "DKD")
    before = copy.deepcopy(run.distiller.student.state_dict())
    run.distiller.train()
    assert set(run.distiller.component_names((3, 32, 32))) == set(COMPONENTS["DKD"])
    assert run.distiller.student.training
    assert all(torch.equal(v, before[k]) for k, v in run.distiller.student.state_dict().items())
