"""Methods of a checkout that train here: unchanged, resumable bit for bit, and under their names in the records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mdistiller_ext import checkpoint
from mdistiller_ext.bridge.theirs import Upstream
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.config.schema import GROUPS
from mdistiller_ext.distillers import create_distiller
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.models import create_model
from mdistiller_ext.registry import DISTILLERS
from tests.bridge.conftest import forget_process
from tests.support.programs import run_program
from tests.support.runs import assert_identical, assert_one_line_error, rows, stop_after


def trainer_of(checkout: Path, tiny: list[str], *settings: Any) -> Any:
    upstream = Upstream(str(checkout))
    return build_trainer(load_config(None, [*tiny, *map(str, settings)], dialect=upstream.dialect))


def test_a_class_of_a_fork_trains_stops_and_resumes_bit_for_bit(
    tiny: list[str], tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--upstream", checkout, "--cfg", checkout / "configs" / "my.yaml", *tiny, "SOLVER.CHECKPOINT_STEPS", 1]
    finished = run_program("train.py", *arguments)
    assert (finished.status, finished.err) == (0, "")
    folder, whole = tmp_path / "p" / "run", tmp_path / "whole"
    shutil.move(folder, whole)
    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert config["DISTILLER"]["TYPE"] == "upstream/MYFORK"
    assert config["UPSTREAM"]["MYFORK"]["WEIGHT"] == 2.0
    assert config["SOLVER"]["LR"] == 0.02
    assert set(rows(whole)[0]) >= {"task/loss_ce", "kd/loss_fork"}
    assert "upstream/MYFORK" in finished.out

    stop_after(monkeypatch, 3)
    assert run_program("train.py", *arguments).status == 130
    monkeypatch.undo()
    assert run_program("train.py", "--resume", *arguments).status == 0
    states = [checkpoint.load(path / "latest") for path in (folder, whole)]
    assert states[0]["distiller"]["calls"] == 6
    for entry in ("student", "distiller", "optimizer", "averages", "rng"):
        assert_identical(states[0][entry], states[1][entry], entry)
    assert {"scale.0", "layer.weight", "mean", "calls"} <= set(states[0]["distiller"])
    assert not any(name.startswith(("student", "teacher")) for name in states[0]["distiller"])


def test_a_run_keeps_the_sources_and_refuses_to_go_on_with_others(tiny: list[str], tmp_path: Path, checkout: Path) -> None:
    entries, groups = dict(DISTILLERS._entries), dict(GROUPS)
    arguments = ["--upstream", checkout, *tiny, "DISTILLER.TYPE", "MYFORK", "SOLVER.EPOCHS", 1]
    assert run_program("train.py", *arguments).status == 0
    folder = tmp_path / "p" / "run"
    assert (folder / "plugins" / "distillers_fork.py").is_file()
    evaluated = run_program("eval.py", "-c", folder)
    assert "top-1" in evaluated.out

    forget_process(entries, groups)
    without = run_program("train.py", "--resume", "--cfg", folder / "config.yaml")
    assert_one_line_error(without, "upstream/MYFORK is a method of a checkout of mdistiller", "--upstream")
    fork = checkout / "mdistiller" / "distillers" / "fork.py"
    fork.write_text(fork.read_text() + "# changed\n")
    assert_one_line_error(run_program("train.py", "--resume", *arguments), "distillers_fork.py is not the one")


@pytest.mark.filterwarnings("ignore:upstream/MEMORY runs its teacher in train mode")
@pytest.mark.parametrize("method", ["MEMORY", "VIEWS", "NONE"])
def test_each_kind_of_signature_is_served_and_stops_and_resumes(
    method: str, tiny: list[str], tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = method if method in ("MEMORY", "VIEWS") else f"upstream/{method}"
    arguments = ["--upstream", checkout, *tiny, "DISTILLER.TYPE", name, "SOLVER.EPOCHS", 1, "SOLVER.CHECKPOINT_STEPS", 1]
    assert run_program("train.py", *arguments).status == 0
    folder, whole = tmp_path / "p" / "run", tmp_path / "whole"
    shutil.move(folder, whole)
    stop_after(monkeypatch, 1)
    assert run_program("train.py", *arguments).status == 130
    monkeypatch.undo()
    finished = run_program("train.py", "--resume", *arguments)
    assert finished.status == 0, finished.err
    states = [checkpoint.load(path / "latest") for path in (folder, whole)]
    for entry in ("student", "distiller", "optimizer"):
        assert_identical(states[0][entry], states[1][entry], entry)


def test_naming_the_components_changes_no_state_of_the_method(tiny: list[str], checkout: Path) -> None:
    with pytest.warns(UserWarning, match="runs its teacher in train mode"):
        trainer = trainer_of(checkout, tiny, "DISTILLER.TYPE", "MEMORY")
    assert trainer.distiller.upstream.z == -1  # the first batch sets it
    trainer = trainer_of(checkout, tiny, "DISTILLER.TYPE", "MYFORK")
    assert trainer.distiller.upstream.calls == 0


def test_the_teacher_keeps_the_mode_that_their_class_gives_it(tiny: list[str], checkout: Path) -> None:
    with pytest.warns(UserWarning, match="runs its teacher in train mode"):
        trainer = trainer_of(checkout, tiny, "DISTILLER.TYPE", "MEMORY")
    assert trainer.distiller.train().teacher.training
    trainer = trainer_of(checkout, tiny, "DISTILLER.TYPE", "MYFORK")
    assert not trainer.distiller.train().teacher.training


def test_trained_are_exactly_the_parameters_that_their_class_names(tiny: list[str], checkout: Path) -> None:
    trainer = trainer_of(checkout, tiny, "DISTILLER.TYPE", "MYFORK")
    method = trainer.distiller.upstream
    named = {id(parameter) for parameter in method.get_learnable_parameters()}
    assert {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]} == named
    assert id(method.scale[0]) in named


def test_their_kd_and_ours_give_the_same_weights(tiny: list[str], checkout: Path) -> None:
    ends = []
    for name in ("KD", "upstream/KD"):
        trainer = trainer_of(checkout, tiny, "DISTILLER.TYPE", name, "SOLVER.EPOCHS", 1)
        trainer.train()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in trainer.distiller.student.parameters()]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-5)


def test_roles_can_be_chosen(tiny: list[str], checkout: Path) -> None:
    roles = ["UPSTREAM.ROLES", "[loss_kd=nontarget, loss_ce=target]"]
    trainer = trainer_of(checkout, tiny, "DISTILLER.TYPE", "upstream/KD", *roles)
    assert set(trainer.distiller.component_names((3, 32, 32))) == {"target/loss_ce", "nontarget/loss_kd"}
    with pytest.raises(ConfigError, match="'loss_kd' must be LOSS=ROLE"):
        trainer_of(checkout, tiny, "DISTILLER.TYPE", "upstream/KD", "UPSTREAM.ROLES", "[loss_kd]")


def test_mixed_precision_is_refused(tiny: list[str], checkout: Path) -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.AMP: upstream/KD computes its losses within"):
        trainer_of(checkout, tiny, "DISTILLER.TYPE", "upstream/KD", "SOLVER.AMP", "bf16")


def test_an_error_of_their_constructor_names_its_line(tiny: list[str], checkout: Path) -> None:
    fork = checkout / "mdistiller" / "distillers" / "fork.py"
    fork.write_text(fork.read_text().replace('["pooled_feat"].shape[1]', '["no_such"].shape[1]'))
    with pytest.raises(
        ConfigError, match=r"upstream/MYFORK: its constructor fails .*KeyError: 'no_such' \(.*fork\.py, line 14\)"
    ):
        trainer_of(checkout, tiny, "DISTILLER.TYPE", "MYFORK")


def test_an_argument_that_no_loop_has_is_refused(checkout: Path) -> None:
    fork = checkout / "mdistiller" / "distillers" / "fork.py"
    fork.write_text(fork.read_text().replace("target, epoch, **", "target, epoch, depth_map, **"))
    Upstream(str(checkout))
    with pytest.raises(ConfigError, match="needs depth_map, which this loop does not have"):
        create_distiller("upstream/MYFORK", create_model("resnet8"), create_model("resnet8"))
