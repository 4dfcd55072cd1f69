"""``python -m mdistiller_ext.compression``, from the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdistiller_ext.build import build_trainer
from mdistiller_ext.compression.__main__ import PROGRAM, main
from mdistiller_ext.config import load_config
from mdistiller_ext.reporting.gains import GAINS_FILE, read_gains
from mdistiller_ext.run import run_folder
from tests.support.configs import write
from tests.support.programs import ROOT, Finished, run_main
from tests.support.runs import assert_one_line_error, names

CONFIG = ROOT / "configs" / "glyphs" / "kd" / "res20_res8.yaml"
METHODS = {"kd0": ("KD", 0), "kd1": ("KD", 1), "simkd": ("SIMKD", 0), "alone": ("NONE", 0)}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """A timing is a single call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mdistiller_ext.compression.latency._SECONDS", 1e-12)
        yield


@pytest.fixture(scope="module")
def runs(glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of ``METHODS``: resnet8 teaches resnet14, a wider student than its teacher, for an epoch of 64 images."""
    folder = tmp_path_factory.mktemp("trained")
    for name, (method, seed) in METHODS.items():
        settings = f"""EXPERIMENT.PROJECT runs EXPERIMENT.NAME {name} EXPERIMENT.SEED {seed} LOG.PREFIX {folder}
            DATASET.TYPE glyphs DATASET.ROOT {glyphs_root} DATASET.LIMIT 64 DISTILLER.TYPE {method} DISTILLER.STUDENT resnet14
            DISTILLER.TEACHER resnet8 DISTILLER.TEACHER_CKPT {teacher_file} SOLVER.BATCH_SIZE 32 SOLVER.EPOCHS 1
            SOLVER.DEVICE cpu"""
        config = load_config(None, settings.split())
        build_trainer(config, run_folder(config)).train()
    return folder / "runs"


def compression(*words: object) -> Finished:
    return run_main(main, PROGRAM, *words, "--device", "cpu")


@pytest.fixture(scope="module")
def measured(runs: Path) -> Finished:
    return compression(runs, "--rounds", 3, "--batch-sizes", 1, 2)


def test_a_study_gives_a_table_rows_and_a_picture(measured: Finished, runs: Path) -> None:
    assert measured.status == 0, measured.err
    assert max(map(len, measured.out.split("\n\n" + str(runs))[0].splitlines())) <= 80
    assert names(runs / "compression") == {"compression.csv", "compression.png", "compression.svg"}
    gains = read_gains(runs / GAINS_FILE)
    pairs = ["resnet8 → resnet14, glyphs (32×32, 100 classes)", "resnet8 → resnet14 (SIMKD), glyphs (32×32, 100 classes)"]
    assert sorted({gain.networks for gain in gains}) == sorted(pairs)
    for pair in pairs:  # measured once for all methods and seeds with these networks
        quantities = [gain.name for gain in gains if gain.networks == pair and gain.quantity != "top-1"]
        assert len(quantities) == len(set(quantities)) == 3 + 2 * 2
    of_costs = [gain for gain in gains if gain.quantity in ("parameters", "FLOPs", "size")]
    assert all(gain.ratio is not None and gain.ratio < 1 for gain in of_costs)  # the student is the larger network


def test_accuracies_are_those_of_the_runs_on_the_same_images(measured: Finished, runs: Path) -> None:
    top1 = [gain for gain in read_gains(runs / GAINS_FILE) if gain.quantity == "top-1"]
    found = {(gain.method, gain.seed): gain for gain in top1}
    assert {gain.n for gain in top1} == {64}
    labels = {"kd0": ("KD", 0), "kd1": ("KD", 1), "simkd": ("SIMKD", 0), "alone": ("student alone", 0)}
    assert set(found) == set(labels.values())
    for name, key in labels.items():
        summary = json.loads((runs / name / "summary.json").read_text())
        assert found[key].student == pytest.approx(summary["last_top1"])
        assert found[key].teacher == pytest.approx(json.loads((runs / "kd0" / "summary.json").read_text())["teacher_top1"])
    assert found["student alone", 0].networks == found["KD", 0].networks  # which is beside the teacher of the others
    assert "top-1 %, student" in measured.out


def test_a_run_without_a_teacher_has_a_student_only(runs: Path, tmp_path: Path) -> None:
    finished = compression(runs / "alone", "--rounds", 1, "--batch-sizes", 1, "--limit", 20, "--out", tmp_path)
    assert finished.status == 0, finished.err
    assert "the run has no teacher" in finished.out
    assert all(gain.teacher is None and gain.ratio is None for gain in read_gains(tmp_path / "compression.csv"))
    assert "student (last epoch) on 20 test images" in " ".join(finished.out.split())


def test_configurations_are_measured_before_training(tmp_path: Path) -> None:
    words = ["--cfg", CONFIG, "--set", "DISTILLER.STUDENT", "resnet14", "--rounds", 1, "--batch-sizes", 1]
    finished = compression(*words, "--out", tmp_path / "out")
    assert finished.status == 0, finished.err
    with open(tmp_path / "out" / "compression.csv", encoding="utf-8", newline="") as lines:
        rows = {row["quantity"]: row for row in csv.DictReader(lines)}
    assert list(rows) == ["parameters", "FLOPs", "size", "latency", "throughput"]
    assert (rows["parameters"]["teacher"], rows["parameters"]["student"]) == ("278324", "181108")
    assert rows["latency"]["networks"] == "resnet20 → resnet14, glyphs (32×32, 100 classes)"


def test_mistakes_are_one_line(runs: Path, tmp_path: Path) -> None:
    assert_one_line_error(compression(), "name run folders, or configurations by --cfg")
    assert_one_line_error(compression(tmp_path / "none"), "no such folder")
    file = write(tmp_path / "file", "")
    assert_one_line_error(compression(tmp_path / "none", "--out", file), f"File exists: '{file}'")  # before a run is opened
    assert_one_line_error(compression(runs / "kd0", "--batch-sizes", 0), "--batch-sizes must be at least 1")
    assert_one_line_error(compression("--cfg", CONFIG, "--set", "DISTILLER.STUDENT", "resnet9"), "unknown model 'resnet9'")
    missing = ["--set", "DISTILLER.TEACHER_CKPT", tmp_path / "gone.pth", "--out", tmp_path]
    assert_one_line_error(compression(runs / "kd0", *missing), "no checkpoint of teacher 'resnet8'", "gone.pth", "To train it")
    assert not list(tmp_path.glob("compression.*"))
