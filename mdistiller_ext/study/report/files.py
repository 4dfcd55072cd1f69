"""Files of a report: Markdown, CSV, LaTeX and a page of HTML that needs no other file."""

from __future__ import annotations

from pathlib import Path

from ...reporting.page import render
from ...reporting.table import csv_text, plain
from .content import Report
from .figures import gains_pictures, pictures


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write all files of a report into a folder; returns their paths. The same report gives the same bytes."""
    contents = {
        "report.md": markdown(report),
        "report.html": html(report),
        "table.tex": "".join(table.latex() for table in report.tables[:2]),
        "runs.csv": csv_text(report.run_rows()),
        "summary.csv": csv_text(report.summary_rows()),
        "comparison.csv": csv_text(report.comparison_rows()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_bytes(text.encode(errors="replace"))
    return [folder / name for name in contents]


def html(report: Report) -> str:
    """One page with all tables and pictures."""
    drawn = {"Accuracy": pictures(report.comparisons, report.metric), "What was gained": gains_pictures(report.gains)}
    return render("study/report/page.html.j2", report=report, pictures=drawn)


def markdown(report: Report, tables: int | None = None) -> str:
    """GitHub's Markdown.

    Args:
        tables: number of tables, the first ones; all by default.
    """
    parts = [f"# {plain(report.title)}", plain(report.lead)]
    parts += ["\n".join(f"- **{plain(line)}**" for line in report.warnings)] if report.warnings else []
    parts += [table.markdown() for table in report.tables[:tables]]
    parts += ["## Notes", "\n".join(f"- {plain(line)}" for line in report.notes)] if report.notes else []
    return "\n\n".join(part for part in parts if part) + "\n"
