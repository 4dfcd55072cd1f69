"""The table of published numbers."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from mdistiller_ext import published
from mdistiller_ext.config import load_config
from mdistiller_ext.published import recipe_differences
from tests.support.configs import upstream_file, write
from tests.support.programs import ROOT, Finished
from tests.support.runs import assert_one_line_error


def test_holding_a_run_against_its_recipe_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = load_config(None, ["DISTILLER.TYPE", "GDKD", "DISTILLER.TEACHER", "resnet56", "DISTILLER.STUDENT", "resnet20"])
    settings = {"DISTILLER.TYPE": "GDKD", "DISTILLER.TEACHER": "resnet56", "DISTILLER.STUDENT": "resnet20"}
    upstream_file(tmp_path, settings).rename(write(tmp_path / "cifar100/gdkd/a.yaml", ""))
    monkeypatch.setattr("mdistiller_ext.published.CONFIGS", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recipe_differences(config) == []


def test_a_recipe_is_found_by_what_it_says_also_in_its_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair = "DISTILLER: {TYPE: DKD, TEACHER: resnet56, STUDENT: resnet20}\n"
    write(tmp_path / "pair.yaml", pair)
    write(tmp_path / "cifar100/dkd/a.yaml", f"# resnet20\n{pair.replace('resnet20', 'resnet32')}")
    write(tmp_path / "cifar100/dkd/b.yaml", "_BASE_: ../../pair.yaml\nSOLVER: {LR: 0.1}\n")
    write(tmp_path / "cifar100/a_users/broken.yaml", f"{pair}SOLVER: [")
    write(tmp_path / "cifar100/a_users/plugin.yaml", f"{pair}MINE: {{WEIGHT: 1.0}}")
    monkeypatch.setattr("mdistiller_ext.published.CONFIGS", tmp_path)
    assert recipe_differences(load_config(tmp_path / "pair.yaml")) == ["SOLVER.LR: 0.1 -> 0.05"]
    assert recipe_differences(load_config(tmp_path / "pair.yaml", ["DISTILLER.STUDENT", "resnet8"])) is None


def test_the_table_of_published_numbers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pair = {"dataset": "cifar100", "teacher": "resnet32x4", "student": "resnet8x4"}
    monkeypatch.setattr("sys.argv", ["published", *(word for name, value in pair.items() for word in (f"--{name}", value))])
    published.main()
    title, _, header, _, *table = capsys.readouterr().out.splitlines()
    assert title == "cifar100: resnet32x4 -> resnet8x4"
    assert header.split() == ["method", "top-1", "%", "runs", "epoch", "source"]
    assert max(map(len, table)) <= 80
    lines = [line.split() for line in table[:-2] if not line.startswith(" ") and line]  # the others go on with a source
    assert len(lines) == len(published.published_results(**pair)) > 5
    accuracies = [float(line[1]) for line in lines]
    assert accuracies == sorted(accuracies)
    assert lines[0][:5] == ["RKD", "71.45", "±", "0.41", "3"]
    assert [line[:4] for line in lines if line[4:] == ["mdistiller", "README"]] == [
        ["KD", "73.33", "-", "-"],
        ["KD+DOT", "75.12", "-", "-"],
        ["DKD", "76.32", "5", "best"],
    ]


def test_a_result_states_how_it_was_measured() -> None:
    """Or that its source does not say so."""
    pair = {"dataset": "cifar100", "teacher": "resnet32x4", "student": "resnet8x4"}
    said = [str(result) for result in published.published_results(**pair, method="DKD")]
    assert said == [
        "76.32 % (mdistiller README; 5 runs, best epoch)",
        "73.08 ± 0.27 % (PLD paper, with AdamW and 250 epochs; 3 runs, epoch not stated)",
    ]
    (kd, *_) = published.published_results(**pair, method="KD")
    assert str(kd) == "73.33 % (mdistiller README; number of runs not stated, epoch not stated)"
    last = published.Published("cifar100", "", "resnet8", "NONE", "60.0", "", "5", "median", "a paper")
    assert str(last) == "60.00 % (a paper; 5 runs, median of the last epochs)"


@pytest.mark.parametrize(
    ("dataset", "teacher", "student", "method", "accuracy"),
    [
        ("cifar100", "wrn_40_2", "ShuffleV1", "CRD", "76.05"),
        ("cifar100", "ResNet50", "vgg8", "NST", "71.28"),
        ("cifar100", "resnet110", "resnet32", "OFD", "73.23"),
        ("cifar100", "ResNet50", "MobileNetV2", "REVIEWKD", "69.89"),
        ("cifar100", "vgg13", "vgg8", "SIMKD", "74.89"),
        ("cifar100", "vgg13", "MobileNetV2", "CATKD", "69.13"),
        ("cifar100", "resnet32x4", "ShuffleV2", "WTTM", "76.55 ± 0.08"),
        ("imagenet", "ResNet50", "MobileNetV1", "MLKD+LS", "73.22"),
    ],
)
def test_numbers_are_in_the_right_cells(dataset: str, teacher: str, student: str, method: str, accuracy: str) -> None:
    (result,) = published.published_results(dataset, teacher, student, method)
    assert result.accuracy == accuracy


def test_a_name_that_nobody_published_is_answered_with_those_that_are_known() -> None:
    command = [sys.executable, "-m", "mdistiller_ext.published", "--teacher", "resnet33"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    refused = Finished(done.returncode, done.stdout, done.stderr)
    assert_one_line_error(refused, "nothing published with --teacher resnet33 is known here. Known: ", "resnet32x4")
