"""Groups of runs, their names, and baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext.errors import UnknownNameError
from mdistiller_ext.reporting.groups import Group, choose_baselines, make_groups, setting_differences
from mdistiller_ext.reporting.records import read_records
from tests.support.studies import START, edit_config, entry, write_run, write_study


def grouped(folder: Path) -> tuple[list[Group], list[str]]:
    notes: list[str] = []
    return make_groups(read_records([folder]).runs, notes), notes


def names(folder: Path) -> list[str]:
    return sorted(group.name for group in grouped(folder)[0])


def test_runs_that_differ_in_seed_and_what_is_no_recipe_are_one_group(tmp_path: Path) -> None:
    write_run(tmp_path, "KD", 1, 71.0, "DATASET.ROOT", "a")
    write_run(tmp_path, "KD", 0, 70.0, "SOLVER.COMPILE", True)
    write_run(tmp_path, "KD", 2, 72.0, "EXPERIMENT.NAME", "other", "DKD.ALPHA", 3.0, "SOLVER.DOT.DELTA", 0.01)  # not read
    (group,), notes = grouped(tmp_path)
    assert (group.name, group.teacher, notes) == ("KD", "resnet20", [])
    assert group.values("last") == {0: 70.0, 1: 71.0, 2: 72.0}
    assert list(group.values("last")) == [0, 1, 2]


def test_a_student_alone_reads_no_settings_of_a_teacher(tmp_path: Path) -> None:
    write_run(tmp_path, "NONE", 0)
    write_run(tmp_path, "NONE", 1, 70.0, "DISTILLER.TEACHER", "resnet56")
    (group,), _ = grouped(tmp_path)
    assert (group.name, group.teacher, len(group.runs)) == ("student alone", "", 2)


def test_names_are_extended_by_the_settings_that_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "KD", 0, 70.0, "KD.TEMPERATURE", 2.0)
    write_run(tmp_path, "KD", 0, 70.0, "SOLVER.LR", 0.1)
    write_run(tmp_path, "DKD", 0, 70.0, "SOLVER.TRAINER", "dot")
    assert names(tmp_path) == ["DKD+DOT", "KD (TEMPERATURE 2.0, LR 0.05)", "KD (TEMPERATURE 4.0, LR 0.1)"]


def test_a_setting_of_no_recipe_makes_groups_where_one_seed_ran_with_two_values(tmp_path: Path) -> None:
    for seed in (0, 1):
        for teacher in ("a.pth", "b.pth"):
            write_run(tmp_path, "KD", seed, 70.0, "DISTILLER.TEACHER_CKPT", teacher)
    assert names(tmp_path) == ["KD (TEACHER_CKPT a.pth)", "KD (TEACHER_CKPT b.pth)"]


def test_a_label_of_a_study_makes_a_group(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, "KD", seed, 70.0, "EXPERIMENT.NAME", f"{label}{seed}") for label in "ab" for seed in (0, 1)]
    write_study(tmp_path / "study", [entry(folder.name, label=folder.name[0]) for folder in folders])
    assert names(tmp_path) == ["a", "b"]


def test_runs_of_several_versions_are_one_group(tmp_path: Path) -> None:
    write_run(tmp_path, "KD", 0)
    edit_config(write_run(tmp_path, "KD", 1), SOLVER__NESTEROV=None, PLUGIN__X=1)  # a setting of a plug-in that was loaded
    edit_config(write_run(tmp_path, "KD", 2), SOLVER__FORMER=1)  # not known to have no effect
    groups, _ = grouped(tmp_path)
    assert [(group.name, [run.seed for run in group.runs]) for group in groups] == [
        ("KD (FORMER –)", [0, 1]),
        ("KD (FORMER 1)", [2]),
    ]


@pytest.mark.parametrize(("finished", "kept"), [((True, True), 71.0), ((True, False), 70.0), ((False, True), 71.0)])
def test_of_two_runs_with_one_seed_the_newest_finished_one_counts(
    tmp_path: Path, finished: tuple[bool, bool], kept: float
) -> None:
    folders = []
    for i, is_finished in enumerate(finished):
        start = START | {"time": f"2026-01-0{i + 1}"}
        folders.append(write_run(tmp_path / str(1 - i), "KD", 5, 70.0 + i, finished=is_finished, start=start))
    (group,), (note,) = grouped(tmp_path)
    assert group.values("last") == {5: kept}
    assert len(group.others) == 1
    assert note == f"KD, seed 5: {group.runs[0].folder} counts, and not {group.others[0].folder}"
    assert {group.runs[0].folder, group.others[0].folder} == set(folders)


def test_setting_differences_leave_out_what_a_method_does_not_read() -> None:
    first: dict[str, Any] = {"SOLVER.LR": 0.1, "KD.TEMPERATURE": 4.0, "EXPERIMENT.TAG": "a", "SOLVER.EPOCHS": 8}
    second = {"SOLVER.LR": 0.05, "DKD.ALPHA": 1.0, "EXPERIMENT.TAG": "b", "SOLVER.EPOCHS": 8}
    assert setting_differences([first, second]) == {"SOLVER.LR": ["0.1", "0.05"]}
    third = {"SOLVER.LR": 0.1, "KD.TEMPERATURE": 2.0}
    assert setting_differences([first, second, third])["KD.TEMPERATURE"] == ["4.0", "–", "2.0"]


# ---- baselines ----------------------------------------------------------------------------------------------------


def baseline(folder: Path, asked: str | None = None, of_studies: tuple[str, ...] = ()) -> dict[str, str]:
    groups, notes = grouped(folder)
    return {name: group.name for name, group in choose_baselines(groups, asked, of_studies, notes).items()}


def test_the_baseline_is_asked_for_or_the_studys_or_kd_or_the_student_alone_or_the_first(tmp_path: Path) -> None:
    write_run(tmp_path, "DKD", 0)
    write_run(tmp_path, "AT", 0)
    assert set(baseline(tmp_path).values()) == {"AT"}
    write_run(tmp_path, "NONE", 0)
    assert set(baseline(tmp_path).values()) == {"student alone"}
    write_run(tmp_path, "KD", 0)
    assert set(baseline(tmp_path).values()) == {"KD"}
    assert set(baseline(tmp_path, None, ("DKD",)).values()) == {"DKD"}
    assert set(baseline(tmp_path, "at", ("DKD",)).values()) == {"AT"}
    with pytest.raises(UnknownNameError, match="--baseline DKDD: no such method; did you mean 'DKD'"):
        baseline(tmp_path, "DKDD")


def test_a_group_is_compared_within_its_student_and_teacher(tmp_path: Path) -> None:
    for method in ("KD", "DKD"):
        write_run(tmp_path, method, 0)
        write_run(tmp_path, method, 0, 70.0, "DISTILLER.TEACHER", "resnet56")
        write_run(tmp_path, method, 0, 70.0, "DISTILLER.STUDENT", "resnet14")
    write_run(tmp_path, "NONE", 0)
    found = baseline(tmp_path)
    for pair in (("resnet8", "resnet20"), ("resnet8", "resnet56"), ("resnet14", "resnet20")):
        settings = "(STUDENT {}, TEACHER {})".format(*pair)
        assert found[f"DKD {settings}"] == f"KD {settings}"
    assert found["student alone"].startswith("KD (STUDENT resnet8,")
