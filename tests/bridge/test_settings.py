"""Settings of a checkout as a group of ours, and the cfg that its classes are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext.bridge.theirs import Upstream
from mdistiller_ext.config import load_config
from mdistiller_ext.errors import ConfigError, UnknownNameError


@pytest.fixture
def upstream(checkout: Path) -> Upstream:
    return Upstream(str(checkout))


def test_settings_of_their_methods_and_extras_of_common_groups_are_declared(upstream: Upstream) -> None:
    config = load_config(None)
    assert config.UPSTREAM.MYFORK.WEIGHT == 0.5
    assert config.UPSTREAM.MYFORK.SIZE == [32, 32]
    assert config.UPSTREAM.EXPERIMENT.LOGIT_STAND is False
    assert "LR" not in config.UPSTREAM.SOLVER


def test_without_a_checkout_the_group_is_unknown(new_process: None) -> None:
    with pytest.raises(UnknownNameError, match="unknown setting UPSTREAM in the command line"):
        load_config(None, ["UPSTREAM.MYFORK.WEIGHT", 1.0])


def test_their_yaml_runs_unchanged(upstream: Upstream, checkout: Path) -> None:
    config = load_config(checkout / "configs" / "my.yaml", dialect=upstream.dialect)
    assert config.DISTILLER.TYPE == "upstream/MYFORK"
    assert config.UPSTREAM.MYFORK.WEIGHT == 2.0
    assert config.SOLVER.LR == 0.02


def test_the_type_of_the_command_line_counts_before_that_of_the_file(upstream: Upstream, checkout: Path) -> None:
    file = checkout / "configs" / "kd.yaml"
    file.write_text("DISTILLER: {TYPE: KD}\nKD: {TEMPERATURE: 7}\n")
    theirs = load_config(file, ["DISTILLER.TYPE", "upstream/KD", "KD.LOSS.KD_WEIGHT", 0.5], dialect=upstream.dialect)
    assert (theirs.UPSTREAM.KD.TEMPERATURE, theirs.UPSTREAM.KD.LOSS.KD_WEIGHT) == (7, 0.5)
    ours = load_config(file, dialect=upstream.dialect)
    assert (ours.DISTILLER.TYPE, ours.KD.TEMPERATURE, ours.UPSTREAM.KD.TEMPERATURE) == ("KD", 7.0, 4)


def test_a_saved_configuration_is_read_again_as_it_is(upstream: Upstream, checkout: Path, tmp_path: Path) -> None:
    config = load_config(checkout / "configs" / "my.yaml", ["KD.TEMPERATURE", 3], dialect=upstream.dialect)
    saved = tmp_path / "config.yaml"
    saved.write_text(config.dump())
    again = load_config(saved, dialect=upstream.dialect)
    assert again.UPSTREAM == config.UPSTREAM
    assert again.DISTILLER == config.DISTILLER


def test_the_class_is_given_their_defaults_and_our_values(upstream: Upstream) -> None:
    settings = {"SOLVER.LR": 0.3, "SOLVER.TRAINER": "dot", "UPSTREAM.MYFORK.WEIGHT": 3.0, "KD.TEMPERATURE": 9.0}
    cfg = upstream.settings.for_class(settings, "MYFORK")
    assert (cfg.SOLVER.LR, cfg.SOLVER.TRAINER, cfg.MYFORK.WEIGHT, cfg.DISTILLER.TYPE) == (0.3, "dot", 3.0, "MYFORK")
    assert cfg.KD.TEMPERATURE == 4  # our KD's
    assert cfg.MYFORK.SIZE == (32, 32)


def test_their_trainers_are_ours_where_the_optimizer_is_the_same(upstream: Upstream, checkout: Path) -> None:
    base = upstream.checkout.trainers["base"]
    upstream.checkout.trainers["mine"] = type("Mine", (base,), {})
    upstream.checkout.trainers["other"] = type("Other", (base,), {"init_optimizer": None})
    config = load_config(None, ["DISTILLER.TYPE", "MYFORK", "SOLVER.TRAINER", "mine"], dialect=upstream.dialect)
    assert (config.SOLVER.TRAINER, config.UPSTREAM.SOLVER.TRAINER) == ("base", "mine")
    with pytest.raises(ConfigError, match=r"SOLVER\.TRAINER other of the checkout has an optimizer of its own: choose base"):
        load_config(None, ["DISTILLER.TYPE", "MYFORK", "SOLVER.TRAINER", "other"], dialect=upstream.dialect)
