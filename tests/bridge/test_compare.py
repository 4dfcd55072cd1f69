"""The comparison: equal methods agree to rounding, unequal ones do not, and bad input is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext.bridge.cases import Case
from mdistiller_ext.bridge.checkout import load_checkout
from mdistiller_ext.bridge.compare import cases, compare, describe, main, table
from mdistiller_ext.bridge.known import known_difference
from mdistiller_ext.config import load_config
from mdistiller_ext.errors import ConfigError, MissingFileError


def case_of(checkout: Path, method: str = "KD") -> Case:
    return Case(load_checkout(checkout), method, "base", "resnet8", "resnet8", batch_size=4)


def test_an_equal_method_agrees_to_rounding_and_is_timed(checkout: Path) -> None:
    result = compare(case_of(checkout), steps=3, pairs=2)
    assert list(result.differences) == [1, 2, 3]
    assert max(result.differences.values()) < 1e-9
    assert result.theirs > 0
    assert result.ratio[0] <= result.ratio[1] <= result.ratio[2]
    assert result.notes == []
    assert "ours / theirs" in describe(result)
    assert table([result]).splitlines()[2].startswith("| KD | base | ")


def test_an_unequal_method_shows_its_difference(checkout: Path) -> None:
    kd = checkout / "mdistiller" / "distillers" / "kd.py"
    kd.write_text(kd.read_text().replace("self.t**2 * soft", "self.t * soft"))
    assert min(compare(case_of(checkout), steps=2, pairs=0).differences.values()) > 1e-3


def test_a_trainer_that_cannot_be_run_is_replaced_by_its_optimizer(checkout: Path) -> None:
    trainer = checkout / "mdistiller" / "engine" / "trainer.py"
    trainer.write_text(
        trainer.read_text().replace("logits, losses = self", "raise OSError('broken')\n        logits, losses = self")
    )
    result = compare(case_of(checkout), steps=2, pairs=0)
    assert max(result.differences.values()) < 1e-9
    assert result.notes == ["their trainer cannot be run (OSError: broken): their optimizer alone"]


def test_all_compares_the_methods_that_both_have(checkout: Path) -> None:
    found = cases(load_checkout(checkout), "resnet8", "resnet8", [], 4)
    assert [(case.method, case.trainer) for case in found] == [("NONE", "base"), ("KD", "base")]


def test_the_settings_of_known_differences_exist() -> None:
    for method in ("FITNET", "VID", "KDSVD", "OFD", "CRD", "KD", "DKD", "MLKD", "CRLD"):
        for trainer in ("base", "deepkd"):
            known = known_difference(method, trainer)
            if known is not None and known.settings:
                load_config(None, ["DISTILLER.TYPE", method, "SOLVER.TRAINER", trainer, *known.settings])
    assert known_difference("KD", "base") is None


def test_the_command_compares_a_yaml_file(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = checkout / "configs" / "kd.yaml"
    file.write_text("DISTILLER: {TYPE: KD, STUDENT: resnet8, TEACHER: resnet8}\nKD: {TEMPERATURE: 2}\n")
    main([str(checkout), "--cfg", str(file), "--steps", "1", "--pairs", "0", "--batch-size", "4"])
    assert "KD, trainer base (ours: base), resnet8 taught by resnet8" in capsys.readouterr().out


def test_bad_input_is_one_line_each(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no checkout of mdistiller"):
        main([str(tmp_path / "absent"), "--all"])
    with pytest.raises(ConfigError, match="one of both"):
        main([str(checkout)])
    with pytest.raises(ConfigError, match="config file not found"):
        main([str(checkout), "--cfg", "absent.yaml"])
    with pytest.raises(ConfigError, match="--steps must be at least 1"):
        main([str(checkout), "--all", "--steps", "0"])
    with pytest.raises(ConfigError, match=r"'KD\.T' has no partner"):
        main([str(checkout), "--all", "KD.T"])
    with pytest.raises(ConfigError, match="MYFORK is not a method here; both have NONE, KD"):
        main([str(checkout), "--cfg", str(checkout / "configs" / "my.yaml")])
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("NOSUCH: 1\n")
    with pytest.raises(ConfigError, match="the checkout cannot read"):
        main([str(checkout), "--cfg", str(wrong)])
