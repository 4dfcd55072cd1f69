"""Tables as text: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

NONE = "–"
_NUMBER = re.compile(r"([-+–±,.\d\s]|e[-+]\d|to|of)*|baseline")

Row = dict[str, Any]
"""Values of a row of a CSV file by column"""


@dataclass(frozen=True)
class Table:
    """A table: title, one line about it, header and cells. Raises ValueError for a row of another length than the header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):  # tabulate would shift the header
            raise ValueError(f"table '{self.title}': a row has not {len(self.header)} cells")

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, and is aligned to the right."""
        return [all(_NUMBER.fullmatch(row[column]) for row in self.rows) for column in range(len(self.header))]

    def markdown(self) -> str:
        """A heading, the table in GitHub's Markdown, and the line about it."""
        rows = [[plain(cell) for cell in row] for row in self.rows]
        text = self._tabulate(rows, [plain(cell) for cell in self.header], "pipe")
        return "\n\n".join([f"## {plain(self.title)}", text, *([plain(self.text)] if self.text else [])])

    def latex(self) -> str:
        """A tabular of the package booktabs."""
        return f"% \\usepackage{{booktabs}} {plain(self.title)}\n{self._tabulate(self.rows, self.header, 'latex_booktabs')}\n"

    def _tabulate(self, rows: Sequence[Sequence[str]], header: Sequence[str], style: str) -> str:
        align = ["right" if numeric else "left" for numeric in self.numeric]
        return str(tabulate(rows, header, style, disable_numparse=True, colalign=align))


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number with so many decimals; – for None."""
    return NONE if value is None else f"{value:{sign},.{digits}f}"


def csv_text(rows: Sequence[Row]) -> str:
    """CSV, with an empty cell where a value is None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plain(text: str) -> str:
    """Text without Markdown's markup, on one line."""
    return re.sub(r"([\\`*<|\[\]])", r"\\\1", " ".join(text.split()))
