"""The ablation over K: its runs, the choice, and the command."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mdistiller_ext.config import effective_settings
from mdistiller_ext.data import create_loaders
from mdistiller_ext.distillers import Progress
from mdistiller_ext.distillers.deepkd import dynamic_k
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.study import __main__ as program
from mdistiller_ext.study.k_static import accuracies_by_k, choose_k, describe_choice, k_grid, plan_k_static, write_choice
from mdistiller_ext.study.record import Record
from tests.support.programs import ROOT, Finished, run_main
from tests.support.study import CFG as KD

DEEPKD = str(ROOT / "configs" / "glyphs" / "deepkd" / "res20_res8.yaml")


def k_static(*arguments: Any) -> Finished:
    """``python -m mdistiller_ext.study k-static`` in this process."""
    return run_main(program.main, "study", "k-static", *arguments)


# ---- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_every_run_keeps_its_k_in_all_epochs_and_differs_in_nothing_else(glyphs_root: Path, epochs: int) -> None:
    settings = [f"DATASET.ROOT={glyphs_root}", f"SOLVER.EPOCHS={epochs}"]
    study = plan_k_static(DEEPKD, grid=[99, 2, 20, 2], seeds=[0, 3], settings=settings)
    assert [(run.config.DEEPKD.K_STATIC, run.seed) for run in study.runs] == [(k, s) for k in (2, 20, 99) for s in (0, 3)]
    assert study.folder == Path("output/k_static")
    for run in study.runs:
        options = run.config.DEEPKD
        assert options.DTM
        for epoch in range(1, epochs + 1):
            k = dynamic_k(
                Progress(epoch, epochs), 100, initial=options.K_INITIAL, static=options.K_STATIC, phase_ends=options.PHASE_ENDS
            )
            assert k == options.K_STATIC
    own = {"DEEPKD.K_STATIC", "EXPERIMENT.SEED", "EXPERIMENT.NAME"}
    assert len({str({k: v for k, v in effective_settings(run.config).items() if k not in own}) for run in study.runs}) == 1


@pytest.mark.filterwarnings("ignore:DATASET.VALIDATION")
@pytest.mark.parametrize("fraction", [0.2, 0.3])
def test_a_run_trains_on_the_fraction_of_each_class_and_tests_on_the_other_training_images(
    glyphs_root: Path, fraction: float
) -> None:
    run = plan_k_static(DEEPKD, fraction=fraction, settings=[f"DATASET.ROOT={glyphs_root}"]).runs[0]
    options: dict[str, Any] = {"root": glyphs_root, "batch_size": 500, "test_batch_size": 500}
    whole, _ = create_loaders("glyphs", **options)
    train, held_out = create_loaders("glyphs", validation=run.config.DATASET.VALIDATION, **options)
    per_class = torch.bincount(train.labels)  # type: ignore[union-attr]
    assert per_class.tolist() == [round(fraction * 25)] * 100
    assert held_out.num_images == whole.num_images - train.num_images


@pytest.mark.parametrize(
    ("classes", "grid"), [(100, [5, 10, 20, 50, 99]), (1000, [50, 100, 200, 500, 999]), (10, [2, 5, 9]), (3, [2])]
)
def test_the_default_grid_spreads_over_the_classes(classes: int, grid: list[int]) -> None:
    assert k_grid(classes) == grid


# ---- choice -------------------------------------------------------------------------------------------------------

BEST = {0: 70.0, 1: 71.0, 2: 72.0}  # mean 71, standard error 1 / sqrt(3) = 0.577


@pytest.mark.parametrize(
    ("accuracies", "k", "best", "left_out"),
    [
        ({5: {0: 68.5, 1: 70.5, 2: 72.3}, 20: BEST, 50: {0: 70.9, 1: 70.9, 2: 70.9}}, 5, 20, ()),  # 70.433, just within
        ({5: {0: 68.5, 1: 70.5, 2: 72.2}, 20: BEST, 50: {0: 70.9, 1: 70.9, 2: 70.9}}, 20, 20, ()),  # 70.4, just below
        ({50: BEST, 20: BEST, 99: {0: 60.0, 1: 60.0, 2: 60.0}}, 20, 20, ()),
        ({5: {0: 69.9}, 20: {0: 70.0}, 50: {0: 70.0}}, 20, 20, ()),
        ({5: {0: 90.0, 1: 91.0}, 20: BEST, 50: {}}, 20, 20, (5, 50)),
    ],
    ids=["within", "below", "tie", "one seed", "missing"],
)
def test_the_smallest_k_within_one_standard_error_of_the_best_mean_is_chosen(
    accuracies: Mapping[int, Mapping[int, float]], k: int, best: int, left_out: tuple[int, ...]
) -> None:
    choice = choose_k(accuracies)
    assert (choice.k, choice.best, choice.left_out) == (k, best, left_out)
    assert yaml.safe_load(describe_choice(choice).split("\n\n")[1]) == {"DEEPKD": {"K_STATIC": k}}


@pytest.mark.parametrize("accuracies", [{}, {5: {}, 20: {}}, {5: {0: 70.0}, 20: {1: 70.0}}])
def test_without_a_k_that_has_all_seeds_there_is_no_choice(accuracies: Mapping[int, Mapping[int, float]]) -> None:
    with pytest.raises(ConfigError, match="none has a finished run of each seed"):
        choose_k(accuracies)


def test_the_files_hold_every_k_also_one_that_is_left_out(tmp_path: Path) -> None:
    choice = choose_k({5: {0: 69.0, 1: 70.0}, 20: {0: 71.0, 1: 72.0}, 50: {1: 75.0}, 99: {}})
    table, *pictures = write_choice(choice, tmp_path)
    assert table.read_text().splitlines() == [
        "k,n,mean,std,seed 0,seed 1,chosen",
        "5,2,69.5,0.7071067811865476,69.0,70.0,False",
        "20,2,71.5,0.7071067811865476,71.0,72.0,True",
        "50,1,75.0,,,75.0,False",
        "99,0,,,,,False",
    ]
    assert "left out, as not every seed is finished: K 50, 99" in describe_choice(choice)
    png, svg = (picture.read_bytes() for picture in pictures)
    assert png.startswith(b"\x89PNG")
    for text in ("chosen: K = 20", "K / non-target classes", "held-out top-1, last epoch / %"):
        assert f">{text}<".encode() in svg
    write_choice(choice, tmp_path)
    assert [picture.read_bytes() for picture in pictures] == [png, svg]


# ---- command ------------------------------------------------------------------------------------------------------


def test_the_command_runs_the_ablation_once(tmp_path: Path, glyphs_root: Path, teacher_file: Path) -> None:
    folder = tmp_path / "k"
    settings = {"DATASET.ROOT": glyphs_root, "DATASET.LIMIT": 32, "DISTILLER.TEACHER": "resnet8", "SOLVER.EPOCHS": 1}
    settings |= {"DISTILLER.TEACHER_CKPT": teacher_file, "SOLVER.BATCH_SIZE": 16, "SOLVER.DEVICE": "cpu"}
    words = [f"{key}={value}" for key, value in settings.items()]
    arguments = ["--cfg", DEEPKD, "--grid", 5, 50, "--seeds", 0, "--out", folder, "--jobs", 1, "--set", *words]
    first = k_static(*arguments)
    assert (first.status, first.err) == (0, "")
    assert "2 of 2 runs finished" in first.out
    with open(folder / "k_static.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["k"], row["n"]) for row in rows] == [("5", "1"), ("50", "1")]
    assert all(row["mean"] == row["seed 0"] for row in rows)
    (chosen,) = (row["k"] for row in rows if row["chosen"] == "True")
    assert f"\nDEEPKD:\n  K_STATIC: {chosen}\n" in first.out

    again = k_static(*arguments)
    assert again.status == 0
    assert "running" not in again.out
    assert again.out.splitlines()[-12:] == first.out.splitlines()[-12:]

    study = plan_k_static(DEEPKD, grid=[5, 50], seeds=[0], settings=words, out=str(folder))
    (folder / study.runs[0].name / "summary.json").unlink()
    shutil.rmtree(folder / study.runs[1].name)
    assert accuracies_by_k(Record(study, "")) == {5: {}, 50: {}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([DEEPKD, "--grid", 1, 20, 100], "K counts non-target classes: with 100 classes 2 to 99, not 1, 100"),
        ([DEEPKD, "--fraction", 1], "--fraction must lie between 0 and 1, not 1.0"),
        ([KD], "k-static chooses DEEPKD.K_STATIC; the method of"),
        ([DEEPKD, "--set", "SOLVER.LR=0.1,0.2"], "k-static takes one value of each setting"),
        ([DEEPKD, "--set", "DATASET.VALIDATION=0.1"], "take out --set DATASET.VALIDATION=0.1"),
        (["no.yaml"], "config file not found"),
    ],
)
def test_bad_input_ends_in_one_line(glyphs_root: Path, tmp_path: Path, words: list[Any], message: str) -> None:
    more = [] if "--set" in words else ["--set", f"DATASET.ROOT={glyphs_root}"]
    more = [f"DATASET.ROOT={glyphs_root}"] if "DATASET.VALIDATION=0.1" in words else more
    finished = k_static("--cfg", *words, *more, "--out", tmp_path / "k")
    assert finished.status == 2
    (line,) = finished.err.splitlines()
    assert message in line
    assert not (tmp_path / "k").exists()
