"""Run folders of several versions, damaged ones, and studies."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from mdistiller_ext import checkpoint
from mdistiller_ext.errors import MissingFileError
from mdistiller_ext.reporting.records import Run, read_records
from tests.support.studies import DATA, edit_config, entry, write_run, write_study


def only(folder: Path) -> tuple[Run, list[str]]:
    records = read_records([folder])
    (run,) = records.runs
    return run, records.notes


def test_a_run_of_this_version(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "KD", 3, 71.5)
    run, notes = only(tmp_path)
    assert (run.folder, run.name, run.seed, run.state, run.label, notes) == (folder, folder.name, 3, "finished", None, [])
    assert (run.summary["last_top1"], len(run.history), run.history[-1]["test_top1"]) == (71.5, 8, 71.5)
    assert (run.data, run.teacher_sha256, run.command) == (DATA, "c" * 64, f"python train.py {folder.name}")


def test_a_run_of_an_earlier_version_lacks_settings_and_holds_unknown_ones(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "KD", 1)
    edit_config(folder, SOLVER__CUDA_GRAPH=None, CRD=None, SOLVER__FORMER=7, KD__OLD__NESTED=1.5)
    (folder / "provenance.json").unlink()
    data = {part: dict(DATA[part]) for part in ("train", "test")} | {"classes": ("a", "b")}  # type: ignore[call-overload]
    checkpoint.save(folder / "latest", {"data": data, "teacher_hash": "e" * 64})
    run, notes = only(tmp_path)
    assert notes == []
    assert run.config is not None
    assert (run.config.SOLVER.CUDA_GRAPH, run.config.SOLVER.FORMER, run.config.KD.OLD.NESTED) == (True, 7, 1.5)
    assert (run.data, run.teacher_sha256, run.starts) == (DATA | {"classes": 2}, "e" * 64, [])


def test_a_run_of_a_plugin_or_a_checkout(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "KD", 1)
    edit_config(folder, DISTILLER__TYPE="upstream/OWN", UPSTREAM__X=1)
    run, notes = only(tmp_path)
    assert notes == []
    assert run.config is not None
    assert (run.config["upstream/OWN"], run.config.UPSTREAM.X) == ({}, 1)


def test_an_unfinished_run_has_no_summary(tmp_path: Path) -> None:
    write_run(tmp_path, "KD", 0, [1.0, 2.0], finished=False)
    run, _ = only(tmp_path)
    assert (run.state, len(run.history), run.summary) == ("unfinished", 2, {})


def test_damaged_files_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    for seed in range(6):
        write_run(tmp_path, "KD", seed)
    folders = sorted((tmp_path / "study").iterdir())
    (folders[0] / "config.yaml").write_text("SOLVER: {")
    (folders[1] / "summary.json").write_text("[")
    (folders[2] / "metrics.csv").write_bytes(b"epoch,test_top1\n1,\xff\n")
    (folders[3] / "provenance.json").write_text("{}")
    (folders[4] / "provenance.json").unlink()
    (folders[4] / "latest").write_bytes(b"x" * 1000)
    records = read_records([tmp_path])
    assert [run.state for run in records.runs] == ["unfinished", "finished", "finished", "finished", "finished"]
    files = ["config.yaml", "summary.json", "metrics.csv", "provenance.json", "latest"]
    assert len(records.notes) == len(files)
    for file, folder, note in zip(files, folders, records.notes, strict=False):
        assert str(folder / file) in note
    assert records.runs[1].history == []
    assert records.runs[1].summary["last_top1"] == 70.0


@pytest.mark.parametrize("settings", [{"EXPERIMENT__SEED": "x"}, {"DISTILLER__TYPE": ["KD"]}, {"SOLVER": 3}])
def test_settings_of_another_type_leave_a_run_out(tmp_path: Path, settings: dict[str, object]) -> None:
    write_run(tmp_path, "KD", 0)
    edit_config(write_run(tmp_path, "KD", 1), **settings)
    run, notes = only(tmp_path)
    assert run.seed == 0
    assert "is left out" in notes[0]


def test_a_run_that_was_moved_aside_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "KD", 0)
    shutil.copytree(folder, folder.with_name(f"{folder.name}.1"))
    run, notes = only(tmp_path)
    assert run.folder == folder
    assert notes == [f"{folder}.1 is left out: it was moved aside by a later run of that name"]
    shutil.rmtree(folder)
    assert only(tmp_path)[0].name == f"{folder.name}.1"


def test_a_name_that_ends_in_a_number_is_not_moved_aside(tmp_path: Path) -> None:
    for temperature in ("2", "2.5"):
        write_run(tmp_path, "KD", 0, 70.0, "EXPERIMENT.NAME", f"kd,KD.TEMPERATURE:{temperature}")
    assert len(read_records([tmp_path]).runs) == 2


def test_folders_without_runs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no such folder: .*nowhere"):
        read_records([tmp_path / "nowhere"])
    (tmp_path / "config.yaml").touch()  # a recipe of that name
    with pytest.raises(MissingFileError, match="no run in "):
        read_records([tmp_path])


def test_a_folder_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "KD", 0)
    assert len(read_records([folder, tmp_path, folder.parent / ".." / "study"]).runs) == 1


def test_runs_of_a_study_have_its_labels_states_order_and_errors(tmp_path: Path) -> None:
    finished, diverged = write_run(tmp_path, "KD", 0), write_run(tmp_path, "DKD", 0, [1.0], finished=False)
    error = "the loss is not finite in epoch 2"
    same = {"overrides": ["DISTILLER.TYPE", "DKD"]}
    entries = [
        entry(diverged.name, label="ours", state="diverged", error=error),
        entry("of no folder", label="ours", seed=4, state="failed", error="killed", **same),
        entry("unreadable", state="failed", error="unknown setting", overrides=["SOLVER.LRR", 1]),
        entry(finished.name, label="theirs", state="failed", error="from an earlier attempt"),
    ]
    write_study(tmp_path / "study", entries, baseline="theirs")
    records = read_records([tmp_path])
    assert [(run.label, run.state, run.error) for run in records.runs] == [
        ("ours", "diverged", error),
        ("ours", "failed", "killed"),
        (None, "failed", "unknown setting"),
        ("theirs", "finished", None),
    ]
    assert [run.config and (run.config.DISTILLER.TYPE, run.seed) for run in records.runs[1:3]] == [("DKD", 4), None]
    assert (records.names, records.baselines) == (["a study"], ["theirs"])
    assert "settings of unreadable" in records.notes[0]
    # Of a single run folder, only that run is reported, with its label.
    (run,) = read_records([finished]).runs
    assert run.label == "theirs"


def test_a_damaged_study_leaves_the_runs(tmp_path: Path) -> None:
    write_run(tmp_path, "KD", 0)
    for content in ("{", json.dumps({"runs": [{}]}), "[]"):
        (tmp_path / "study" / "study.json").write_text(content)
        run, notes = only(tmp_path)
        assert run.finished
        assert "study.json" in notes[0]


def test_a_command_is_shown_as_it_would_be_typed_in_its_directory(tmp_path: Path) -> None:
    words = [
        "/opt/python 3/bin/python3",
        "/home/me/kd/train.py",
        "--cfg",
        "/home/me/kd/a b.yaml",
        "DATASET.ROOT",
        "/home/me/data",
    ]
    start = {"command": shlex.join(words), "directory": "/home/me/kd"}
    run = Run("r", tmp_path, None, "finished", starts=[start])
    assert run.command == "python3 train.py --cfg 'a b.yaml' DATASET.ROOT /home/me/data"
    installed = shlex.join(["/env/bin/python3", "/env/bin/mdistiller-ext", "train", "--cfg", "/home/me/kd/a.yaml"])
    run = Run("r", tmp_path, None, "finished", starts=[{"command": installed, "directory": "/home/me/kd"}])
    assert run.command == "mdistiller-ext train --cfg a.yaml"
    assert Run("r", tmp_path, None, "finished", starts=[{"time": "now"}]).command is None
