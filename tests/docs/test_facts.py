"""Numbers and names that pages repeat from files of the repository."""

from __future__ import annotations

import json
import re

import pytest

from mdistiller_ext.config import all_settings
from mdistiller_ext.distillers import Distiller
from mdistiller_ext.published import published_results
from mdistiller_ext.registry import DISTILLERS
from tests.support.documents import PAGES
from tests.support.programs import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
METHODS = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
# Names of methods in the published tables, where they differ from DISTILLER.TYPE.
PUBLISHED_AS = {"LSKD": "KD+LS", "DEEPKD": "DeepKD"}

# Settings of mdistiller's files that are none here.
OF_UPSTREAM = {"CRD.FEAT.STUDENT_DIM", "REVIEWKD.IN_CHANNELS", "FITNET.INPUT_SIZE", "DISTILLER.AUG_TEACHER"}


def table(columns: int) -> dict[str, list[str]]:
    """Cells by first cell of the rows of docs/methods.md that have so many columns."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in METHODS.splitlines() if line.startswith("|")]
    return {row[0].strip("`"): row[1:] for row in rows if len(row) == columns}


def test_every_method_is_in_the_tables_of_methods() -> None:
    ours = {name for name in DISTILLERS if DISTILLERS.get(name).__module__.startswith(Distiller.__module__.rpartition(".")[0])}
    assert ours == set(table(7)) - {"method", "---"}
    section = README.split("## Methods")[1].split("\n## ")[0]
    assert ours == set(re.findall(r"\b[A-Z][A-Z0-9]+\b", section)) - {"DISTILLER", "TYPE", "NAME"}
    assert f"**{len(ours) - 1} methods**" in README  # without NONE


@pytest.mark.parametrize("name", sorted(set(table(7)) - {"method", "---"}))
def test_published_accuracies_are_those_of_the_table_of_results(name: str) -> None:
    teacher = "" if name == "NONE" else "resnet32x4"
    known = published_results("cifar100", teacher, "resnet8x4", PUBLISHED_AS.get(name, name))
    known = [result for result in known if bool(result.teacher) == bool(teacher)]
    cell = table(7)[name][4]
    assert bool(cell) == bool(known)
    if known:
        runs = f" ({known[0].runs})" if known[0].runs.isdigit() else ", second-hand" if "second-hand" in known[0].source else ""
        assert cell == known[0].accuracy + runs


def test_costs_are_those_that_were_measured() -> None:
    rows = json.loads((ROOT / "benchmarks/results/method_cost.json").read_text())["rows"]
    in_short, in_full = table(7), table(4)
    for row in rows:
        fastest, median, slowest = (1 / row["ratio"][what] for what in ("max", "median", "min"))
        assert in_short[row["variant"]][3] == f"{median:.2f}"
        if row["variant"] in in_full:
            assert in_full[row["variant"]][0] == f"{median:.2f} ({fastest:.2f} to {slowest:.2f})"
            assert in_full[row["variant"]][2] == f"{row['own_parameters']:,}"


def test_settings_that_pages_name_exist() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    named = {name for text in texts for name in re.findall(r"`([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)+)\b", text)}
    assert len(named) > 50
    assert {name for name in named - set(all_settings()) if not name.startswith("UPSTREAM.")} == OF_UPSTREAM
