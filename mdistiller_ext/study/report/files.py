"""Files of a report: Markdown, CSV, LaTeX and a page of HTML that needs no other file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
from tabulate import tabulate

from .content import Report, Row
from .figures import pictures
from .tables import Table


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write all files of a report into a folder; returns their paths. The same report gives the same bytes."""
    contents = {
        "report.md": markdown(report),
        "report.html": html(report),
        "table.tex": latex(report.tables[:2]),
        "runs.csv": table_of(report.run_rows()),
        "summary.csv": table_of(report.summary_rows()),
        "comparison.csv": table_of(report.comparison_rows()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_bytes(text.encode(errors="replace"))
    return [folder / name for name in contents]


def html(report: Report) -> str:
    """One page with all tables and pictures."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mdistiller_ext.study.report", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html.j2")
    return page.render(report=report, pictures=pictures(report.comparisons, report.metric)) + "\n"


def markdown(report: Report, tables: int | None = None) -> str:
    """GitHub's Markdown.

    Args:
        tables: number of tables, the first ones; all by default.
    """
    parts = [f"# {_plain(report.title)}", _plain(report.lead)]
    parts += ["\n".join(f"- **{_plain(line)}**" for line in report.warnings)] if report.warnings else []
    for table in report.tables[:tables]:
        rows = [[_plain(cell) for cell in row] for row in table.rows]
        text = _tabulate(table, rows, [_plain(cell) for cell in table.header], "github")
        parts += [f"## {_plain(table.title)}", text, _plain(table.text)]
    parts += ["## Notes", "\n".join(f"- {_plain(line)}" for line in report.notes)] if report.notes else []
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """Tabulars of the package booktabs."""
    return "".join(
        f"% \\usepackage{{booktabs}} {_plain(table.title)}\n{_tabulate(table, table.rows, table.header, 'latex_booktabs')}\n"
        for table in tables
    )


def table_of(rows: list[Row]) -> str:
    """CSV, with an empty cell where a value is None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _tabulate(table: Table, rows: Sequence[Sequence[str]], header: Sequence[str], style: str) -> str:
    align = ["right" if numeric else "left" for numeric in table.numeric]
    return str(tabulate(rows, header, style, disable_numparse=True, colalign=align))


def _plain(text: str) -> str:
    """Text without Markdown's markup, on one line."""
    return re.sub(r"([\\`*<|\[\]])", r"\\\1", " ".join(text.split()))
