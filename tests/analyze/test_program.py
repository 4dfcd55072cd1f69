"""python -m mdistiller_ext.analyze, from the command line, and what every analysis has in common."""

from __future__ import annotations

import csv
import inspect
import re
import shutil
from pathlib import Path

import pytest

from mdistiller_ext.analyze.__main__ import PROGRAM, main
from mdistiller_ext.analyze.analysis import ANALYSES
from tests.support.configs import write
from tests.support.programs import Finished, run_main
from tests.support.runs import assert_one_line_error, names

QUICK = {
    "averaging": {"points": 3, "bn_images": 20},
    "curvature": {"eigenvalues": 1, "vectors": 2},
    "landscape": {"points": 3, "points_2d": 2, "bn_images": 20},
}


def analyze(*words: object) -> Finished:
    return run_main(main, PROGRAM, *words)


@pytest.fixture(scope="module")
def everything(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    """``analyze all`` of two runs with the options of ``QUICK`` as defaults, and its folder."""
    folder = tmp_path_factory.mktemp("analysis")
    with pytest.MonkeyPatch.context() as patch:
        for name, options in QUICK.items():
            for option, value in options.items():
                patch.setitem(inspect.unwrap(ANALYSES.get(name)).__kwdefaults__, option, value)
        return analyze("all", trained / "kd0", trained / "deepkd0", "--limit", 20, "--out", folder), folder


def test_all_writes_numbers_and_pictures_of_every_analysis_and_one_page(everything: tuple[Finished, Path]) -> None:
    finished, folder = everything
    assert finished.status == 0, finished.err
    page = (folder / "analysis.html").read_text(encoding="utf-8")
    for name in ANALYSES:
        assert f'<h2 id="{name}">' in page, finished.out
        with open(folder / f"{name}.csv", encoding="utf-8", newline="") as file:
            assert list(csv.DictReader(file))
        stems = {file.stem for file in folder.glob(f"{name}*.svg")}
        assert stems
        assert stems == {file.stem for file in folder.glob(f"{name}*.png")}
    assert page.count("<svg") == len(list(folder.glob("*.svg")))
    assert not re.search(r'(src|href)="(?!#)', page)  # needs no other file


def test_colours_of_pictures_follow_the_page_and_files_have_their_own(everything: tuple[Finished, Path]) -> None:
    _, folder = everything
    page = (folder / "analysis.html").read_text(encoding="utf-8")
    assert "currentColor" in page
    assert all("currentColor" not in file.read_text(encoding="utf-8") for file in folder.glob("*.svg"))


def test_options_are_the_arguments_of_the_function(trained: Path) -> None:
    for name in ANALYSES:
        shown = analyze(name, "--help").out
        parameters = inspect.signature(ANALYSES.get(name)).parameters.values()
        options = {f"--{p.name.replace('_', '-')}" for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "partial"}
        assert all(option in shown or option.replace("--", "--no-") in shown for option in options)


def test_mistakes_are_one_line(trained: Path, tmp_path: Path) -> None:
    assert_one_line_error(analyze("gnsr", trained), "gnsr")
    assert_one_line_error(analyze("gsnr", tmp_path / "none"), "no such folder")
    file = write(tmp_path / "file", "")
    assert_one_line_error(analyze("gsnr", tmp_path / "none", "--out", file), f"File exists: '{file}'")  # before the work
    assert_one_line_error(analyze("gsnr", trained / "kd0"), "recorded no gradients", "SOLVER.RECORD")
    running = shutil.copytree(trained / "kd0", tmp_path / "running")
    (running / "summary.json").unlink()
    assert_one_line_error(analyze("gsnr", running), "is unfinished, after 3 of 3 epochs", "name finished runs only")


def test_what_the_runs_do_not_allow_is_said_on_the_page(trained: Path, tmp_path: Path) -> None:
    finished = analyze("all", trained / "alone0", "--limit", 20, "--out", tmp_path)
    assert finished.status == 0, finished.err
    assert "gsnr: not possible: " in finished.out
    assert "Not possible for these runs" in (tmp_path / "analysis.html").read_text(encoding="utf-8")
    assert "gsnr.csv" not in names(tmp_path)
