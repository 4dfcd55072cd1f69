"""The whole report: its files, what they hold, and the command line."""

from __future__ import annotations

import csv
import html.parser
import re
import shutil
import sys
from pathlib import Path

import pytest

from mdistiller_ext.command import run_command
from mdistiller_ext.reporting.gains import GAINS_FILE, Gain, gains_text
from mdistiller_ext.reporting.table import Table
from mdistiller_ext.study import __main__ as program
from mdistiller_ext.study.report.content import Report, make_report
from mdistiller_ext.study.report.files import html as page_of
from mdistiller_ext.study.report.files import write_report
from tests.support.studies import COMMON, entry, write_run, write_study

HOSTILE = "<script>alert(1)</script> & 50 % a_b #1 | [x](http://x) {y}"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six groups with up to six seeds; one run diverged, one failed, one is missing, one label is hostile."""
    parent = tmp_path_factory.mktemp("runs")
    entries = []
    methods = [("NONE", None, []), ("KD", None, []), ("DKD", HOSTILE, []), ("KD", None, ["KD.TEMPERATURE", 2.0])]
    methods += [("PRKD", None, []), ("AT", None, [])]
    for i, (method, label, settings) in enumerate(methods):
        for seed in range(6):
            state = {(4, 1): "diverged", (5, 0): "failed"}.get((i, seed), "finished")
            top1 = 70 + i / 2 + (seed * 7 + i * 3) % 5 / 10
            average = {"average_top1": top1 + 0.5} if method == "PRKD" else {}
            folder = write_run(parent, method, seed, top1, *settings, finished=state == "finished", **average)
            error = None if state == "finished" else f"why it {state}"
            entries.append(entry(folder.name, label=label, seed=seed, state=state, error=error))
    entries.append(entry("planned", seed=6, overrides=[*COMMON, "DISTILLER.TYPE", "KD"], state="waiting"))
    write_study(parent / "study", entries, baseline="KD")
    return parent / "study"


@pytest.fixture(scope="module")
def report(study: Path) -> Report:
    return make_report([study])


@pytest.fixture(scope="module")
def files(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new"
    paths = write_report(report, folder)
    assert {path.name for path in paths} == {path.name for path in folder.iterdir()}
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


class Elements(html.parser.HTMLParser):
    """Names, attributes and text of a page's elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_requests_nothing_runs_nothing_and_escapes_labels(files: Path) -> None:
    page = Elements((files / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    links = [value for name, value in page.attributes if name.split(":")[-1] in ("src", "href", "srcset", "data")]
    assert all(value.startswith("#") for value in links)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    style = (files / "report.html").read_text(encoding="utf-8").split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert HOSTILE in page.text


def test_the_page_fits_any_width_and_both_colour_schemes(files: Path) -> None:
    page = Elements((files / "report.html").read_text(encoding="utf-8"))
    assert ("name", "viewport") in page.attributes
    assert "prefers-color-scheme: dark" in page.text
    assert page.tags.count("table") == page.attributes.count(("class", "scroll"))
    assert page.tags.count("svg") == 3
    described = [value for name, value in page.attributes if name == "aria-label" and re.search("top-1|points", value)]
    assert len(described) == 3
    assert "<title>Report: a study</title>" in (files / "report.html").read_text(encoding="utf-8")


def test_latex_is_escaped(files: Path) -> None:
    text = (files / "table.tex").read_text(encoding="utf-8")
    assert text.count(r"\toprule") == 2
    assert r"\& 50 \% a\_b \#1 | [x](http://x) \{y\}" in text
    code = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)[%#_]", code)
    widths = {row.count("&") - row.count(r"\&") for row in code.split(r"\end{tabular}")[0].splitlines() if row.endswith(r"\\")}
    assert len(widths) == 1


def test_markdown_is_escaped(files: Path) -> None:
    text = (files / "report.md").read_text(encoding="utf-8")
    assert r"\<script>alert(1)\</script> & 50 % a_b #1 \| \[x\](http://x) {y}" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 6
    for table in tables:
        assert len({len(re.sub(r"\\\|", "", line).split("|")) for line in table}) == 1


def test_no_run_is_dropped(report: Report, files: Path) -> None:
    runs = rows(files / "runs.csv")
    assert len(runs) == 37
    assert sorted(run["state"] for run in runs if run["state"] != "finished") == ["diverged", "failed", "waiting"]
    text = (files / "report.md").read_text(encoding="utf-8")
    for part in ("why it diverged", "why it failed", "5 of 6: 1 diverged", "5 of 6: 1 failed", "waiting"):
        assert part in text
    assert report.warnings == ["Runs finished: 34 of 37: 1 diverged, 1 failed, 1 waiting; the others count in no mean."]


def test_numbers_of_the_tables(files: Path) -> None:
    summary = {row["method"]: row for row in rows(files / "summary.csv")}
    assert list(summary)[:3] == ["student alone", "KD (TEMPERATURE 4.0)", HOSTILE]
    prkd = summary["PRKD"]
    values = [72 + (seed * 7 + 12) % 5 / 10 for seed in (0, 2, 3, 4, 5)]
    assert prkd["last_top1_n"] == "5"
    assert float(prkd["last_top1_mean"]) == pytest.approx(sum(values) / 5)
    assert float(prkd["average_top1_mean"]) == pytest.approx(sum(values) / 5 + 0.5)
    comparison = {row["method"]: row for row in rows(files / "comparison.csv")}
    assert comparison["PRKD"]["seeds"] == "0 2 3 4 5"
    assert comparison["PRKD"]["verdict"] == "5 seeds cannot tell (smallest possible p 0.0625)"
    assert comparison["student alone"]["better"] == "0"
    assert set(comparison) == set(summary) - {"KD (TEMPERATURE 4.0)"}


def test_the_same_runs_give_the_same_bytes(study: Path, files: Path, tmp_path: Path) -> None:
    for path in write_report(make_report([study]), tmp_path):
        assert path.read_bytes() == (files / path.name).read_bytes(), path.name


def test_published_accuracies_stand_beside_ours_where_the_networks_match(tmp_path: Path) -> None:
    pair = ["DATASET.TYPE", "cifar100", "DISTILLER.TEACHER", "resnet32x4", "DISTILLER.STUDENT"]
    write_run(tmp_path, "DKD", 0, 76.0, *pair, "resnet8x4", "SOLVER.EPOCHS", 30)
    write_run(tmp_path, "DKD", 0, 70.0, *pair, "resnet8")
    report = make_report([tmp_path])
    (table,) = [table for table in report.tables if table.title == "Published accuracies"]
    assert all("resnet32x4 → resnet8x4" in row[1] for row in table.rows)
    row = next(row for row in table.rows if "76.32" in row[4])
    assert row[2:4] == ["last 76.00, best 76.00", "1"]
    assert row[5:8] == ["5", "best", "mdistiller README"]
    assert "SOLVER.EPOCHS: 240 -> 30" in row[8]


def test_gains_are_costs_and_what_a_folder_holds_of_measurements(tmp_path: Path) -> None:
    write_run(tmp_path, "KD", 0, 70.0)

    def table_and_page() -> tuple[Table, str]:
        report = make_report([tmp_path])
        (table,) = [table for table in report.tables if table.title == "What was gained"]
        return table, page_of(report)

    table, page = table_and_page()
    assert [row[0] for row in table.rows] == ["parameters", "FLOPs", "size"]
    assert table.rows[0][1:] == ["278,324", "83,892", "3.32"]
    assert f"python -m mdistiller_ext.compression {tmp_path}" in table.text
    pictures = page.count("<svg")
    file = tmp_path / GAINS_FILE
    file.parent.mkdir()
    latency = {"quantity": "latency", "unit": "ms", "batch_size": 1, "teacher": 6.0, "student": 2.0, "ratio": 3.0}
    measured = {"n": 5, "measured_on": "<a CPU>"}
    others = ["resnet20 → resnet8, glyphs (32×32, 100 classes)", "networks of other runs"]
    file.write_text(gains_text(Gain(networks=networks, **latency, **measured) for networks in others), encoding="utf-8")
    table, page = table_and_page()
    assert table.rows[3:] == [["batch 1, ms", "6.00", "2.00", "3.00"]]
    assert "mdistiller_ext.compression" not in table.text
    assert "&lt;a CPU&gt;" in page
    assert page.count("<svg") == pictures + 1
    file.write_text("of another version")
    assert len(table_and_page()[0].rows) == 3
    assert any("damaged or of another version" in note for note in make_report([tmp_path]).notes)


def test_a_report_of_no_finished_run(tmp_path: Path) -> None:
    write_run(tmp_path, "KD", 0, [1.0], finished=False)
    report = make_report([tmp_path])
    write_report(report, tmp_path / "out")
    assert [table.rows[0][:3] for table in report.tables[:1]] == [["KD", "0 of 1: 1 unfinished", "–"]]


# ---- the command --------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["study", "report", *map(str, arguments)])
    try:
        run_command(program.main)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_prints_the_summary_and_the_paths(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    assert run(monkeypatch, copy, "--metric", "best", "--baseline", "AT") == 0
    out = capsys.readouterr().out
    assert "\n PRKD " in out
    assert max(map(len, out.split(str(copy))[0].splitlines())) <= 80
    assert "Paired differences from AT" in out
    assert "best top-1, in points" in " ".join(out.split())
    for name in ("report.md", "report.html", "table.tex", "runs.csv", "summary.csv", "comparison.csv"):
        assert str(copy / "report" / name) in out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["{study}/nowhere"], "no such folder: {study}/nowhere"),
        (["{study}", "--baseline", "DKDD"], "--baseline DKDD: no such method; did you mean"),
        (["{study}", "--metric", "mean"], "argument --metric: invalid choice: 'mean'"),
        (["{study}", "--out", "{study}/study.json"], "File exists"),
    ],
)
def test_a_mistake_is_one_line(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    assert run(monkeypatch, *(word.format(study=study) for word in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert error.format(study=study) in line
