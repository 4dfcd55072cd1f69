"""From STUDY.yaml and options to the runs of a study."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext.config import load_config
from mdistiller_ext.errors import ConfigError, MissingFileError, UserError
from mdistiller_ext.run import run_folder
from mdistiller_ext.study.plan import plan_study
from tests.support.programs import ROOT
from tests.support.study import CFG

KD, DKD = "configs/glyphs/kd/res20_res8.yaml", "configs/glyphs/dkd/res20_res8.yaml"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "demo.yaml"
    file.write_text(text)
    return str(file)


def test_a_study_is_the_product_of_runs_values_and_seeds(tmp_path: Path) -> None:
    study = plan_study(
        write(
            tmp_path,
            f"""
            BASELINE: KD
            SEEDS: [0, 3]
            SET: {{DATASET.LIMIT: 100, SOLVER: {{LR: [0.1, 5e-2], LR_DECAY_STAGES: [[1, 3]]}}}}
            RUNS:
            - {{CFG: {KD}, NAME: KD}}
            - {{CFG: {DKD}, NAME: DKD, SET: {{SOLVER.LR: 0.2, SOLVER.NO_DECAY: [[norm, bias], []]}}}}
            """,
        )
    )
    assert (study.name, study.folder, study.baseline) == ("demo", Path("output/demo"), "KD")
    found = [
        (run.label, run.seed, run.config.SOLVER.LR, run.config.SOLVER.LR_DECAY_STAGES, run.config.SOLVER.NO_DECAY)
        for run in study.runs
    ]
    kd = [("KD", seed, rate, [1, 3], []) for rate in (0.1, 0.05) for seed in (0, 3)]
    dkd = [("DKD", seed, 0.2, [1, 3], no_decay) for no_decay in (["norm", "bias"], []) for seed in (0, 3)]
    assert found == kd + dkd
    assert {run.config.DATASET.LIMIT for run in study.runs} == {100}
    assert len({run.folder for run in study.runs}) == len(study.runs)


def test_a_run_is_the_one_that_its_command_trains() -> None:
    study = plan_study(None, [KD], seeds=[1], settings=["SOLVER.TRAINER=dot", "SOLVER.LR_DECAY_STAGES=[1,3]"], out="a/b")
    (run,) = study.runs
    _, program, *words = run.command
    assert program == str(ROOT / "train.py")
    assert words[:6] == ["--cfg", KD, "--resume", "auto", "--seed", "1"]
    config = load_config(KD, [*words[6:], "EXPERIMENT.SEED", 1])
    assert config == run.config
    assert run.folder == run_folder(config) == Path("a/b/kd,res20,res8,seed:1,SOLVER.TRAINER:dot,SOLVER.LR_DECAY_STAGES:[1,3]")
    assert run.overrides == ("SOLVER.TRAINER", "dot", "SOLVER.LR_DECAY_STAGES", "[1,3]")


def test_options_override_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, f"{{OUT: x/y, SEEDS: 7, SET: {{SOLVER.LR: [0.1, 0.2]}}, RUNS: [{{CFG: {KD}}}]}}")
    assert [(run.seed, run.config.SOLVER.LR) for run in plan_study(file).runs] == [(7, 0.1), (7, 0.2)]
    study = plan_study(file, seeds=[1], settings=["SOLVER.LR=0.3", "SOLVER.LR_DECAY_STAGES=[1,3],[2,4]"], out="z")
    assert [(run.seed, run.config.SOLVER.LR) for run in study.runs] == [(1, 0.3), (1, 0.3)]
    assert [run.config.SOLVER.LR_DECAY_STAGES for run in study.runs] == [[1, 3], [2, 4]]
    assert study.folder == Path("z")


def test_a_configuration_is_found_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"{{_BASE_: {CFG}, EXPERIMENT: {{TAG: mine}}}}")
    (run,) = plan_study(write(tmp_path, "RUNS: [{CFG: mine.yaml}]")).runs
    assert run.cfg == str(tmp_path / "mine.yaml")
    assert run.name == "mine,seed:0"


def test_the_study_in_the_documentation_has_the_runs_that_it_says(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    study = plan_study(write(tmp_path, text.split("```yaml\n")[1].split("```")[0]))
    assert f"plans {len(study.runs)} runs" in text
    assert study.folder == Path("output/glyphs")


def test_options_of_train_py_are_passed_on() -> None:
    (run,) = plan_study(None, [KD], options=["--plugin", "my method.py"]).runs
    assert "--plugin 'my method.py'" in shlex.join(run.command)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"{{SEED: [1], RUNS: [{{CFG: {KD}}}]}}", ["unknown key SEED in", "did you mean 'SEEDS'?"]),
        (f"RUNS: [{{CFG: {KD}, SETS: {{A: 1}}}}]", ["unknown key SETS in run 1 of", "did you mean 'SET'?"]),
        (f"{{SEEDS: [0], SEEDS: [1], RUNS: [{{CFG: {KD}}}]}}", ["the key SEEDS stands twice"]),
        (f"{{SET: {{SOLVER.LR: 1, SOLVER: {{LR: 2}}}}, RUNS: [{{CFG: {KD}}}]}}", ["the key SET.SOLVER.LR stands twice"]),
        (f"RUNS: [{{CFG: {KD}, SET: {{A.B: 1, A: {{B: 2}}}}}}]", ["run 1 of", "the key SET.A.B stands twice"]),
        ("SEEDS: [0]", ["has no RUNS"]),
        ("RUNS: [{NAME: KD}]", ["run 1 of", "has no CFG"]),
        ("RUNS: [a.yaml]", ["run 1 of", "must hold CFG, NAME, SET, not 'a.yaml'"]),
        ("RUNS: a.yaml", ["RUNS in", "must be a list, not 'a.yaml'"]),
        (f"{{NAME: [1], RUNS: [{{CFG: {KD}}}]}}", ["NAME in", "must be text, not [1]"]),
        (f"{{NAME: {{A: 1}}, RUNS: [{{CFG: {KD}}}]}}", ["unknown key NAME.A in", "did you mean 'NAME'?"]),
        (f"{{SET: 3, RUNS: [{{CFG: {KD}}}]}}", ["SET in", "must be a group of settings"]),
        (f"{{SEEDS: [a], RUNS: [{{CFG: {KD}}}]}}", ["SEEDS in", "must be a list of whole numbers, not ['a']"]),
        (f"{{SEEDS: [], RUNS: [{{CFG: {KD}}}]}}", ["SEEDS in", "must be a list of whole numbers"]),
        (f"{{SEEDS: [-1], RUNS: [{{CFG: {KD}}}]}}", ["EXPERIMENT.SEED must be at least 0"]),
        (f"{{BASELINE: DKD, RUNS: [{{CFG: {KD}, NAME: KD}}]}}", ["BASELINE in", "is no NAME", "did you mean 'KD'?"]),
        (f"RUNS: [{{CFG: {KD}}}, {{CFG: {DKD}, SET: {{SOLVER.LRR: 1}}}}]", [f"run '{DKD}'", "did you mean 'SOLVER.LR'?"]),
        ("RUNS: [{CFG: configs/glyphs/kd/res20_res9.yaml}]", ["config file not found", "res20_res8.yaml?"]),
        (f"{{SET: {{SOLVER.LR: []}}, RUNS: [{{CFG: {KD}}}]}}", ["SOLVER.LR in", "has no value"]),
        (f"{{SET: {{EXPERIMENT.SEED: 1}}, RUNS: [{{CFG: {KD}}}]}}", ["EXPERIMENT.SEED in", "by SEEDS or --seeds"]),
        (f"{{OUT: output/a b, RUNS: [{{CFG: {KD}}}]}}", ["cannot be called 'a b'", "such as output/a_b"]),
        (f"RUNS: [{{CFG: {KD}, NAME: A}}, {{CFG: {KD}, NAME: B}}]", ["'A, seed 0' and 'B, seed 0'", "the same folder"]),
        ("- a\n- b", ["must hold settings"]),
        ("RUNS: [", ["is not readable yaml"]),
    ],
)
def test_mistakes_in_a_study_are_found_before_anything_starts(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        plan_study(write(tmp_path, text))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"cfgs": [KD], "settings": ["SOLVER.LR"]}, "--set takes KEY=VALUE"),
        ({"cfgs": [KD], "settings": ["SOLVER.LR=1", "SOLVER.LR=2"]}, "--set names SOLVER.LR twice"),
        ({"cfgs": [KD], "settings": ["LOG.PREFIX=x"]}, "LOG.PREFIX in --set: a study sets it by OUT or --out"),
        ({"cfgs": [KD], "seeds": [1, 1]}, "two runs have the same folder"),
        ({"cfgs": [KD], "out": ".."}, "cannot be called '..'"),
        ({}, "one of both"),
    ],
)
def test_mistakes_in_options(arguments: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_study(None, **arguments)
    assert part in str(caught.value)


def test_a_study_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="study file not found: /"):
        plan_study(str(tmp_path / "no.yaml"))
    with pytest.raises(ConfigError, match="one of both"):
        plan_study(str(tmp_path / "no.yaml"), [KD])


def test_a_warning_about_several_runs_is_shown_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan_study(None, [KD, "configs/glyphs/none/resnet8.yaml"], seeds=[0, 1, 2], settings=["DKD.WARMUP=3,4"])
    texts = [str(warning.message) for warning in caught]
    assert texts == [f"without effect in this run: DKD.WARMUP (the method is {method})" for method in ("KD", "NONE")]
