"""Code blocks of the README and of the pages in docs/, and their shell commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .programs import ROOT

# A comment in front of a block that is not run, with the reason.
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES.remove(ROOT / "docs/results/glyphs_hard/report.md")  # written by `study report`


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: of its fence, from 1.
        language: ``""`` where the fence has none.
        not_run: why the block is not run; empty if it is.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    @property
    def file(self) -> str:
        """Name of the file that the block is, as its first line says in a comment; empty if it is none."""
        found = re.match(r"# ([\w./]+\.(?:py|yaml))$", self.text.partition("\n")[0])
        return found[1] if found else ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in their order."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    before = ""
    for number, line in lines:
        if line.startswith("```"):
            text = []
            for _, inside in lines:
                if inside == "```":
                    break
                text.append(inside)
            reason = NOT_RUN.fullmatch(before)
            yield Block(page, number, line[3:], "\n".join(text) + "\n", reason[1] if reason else "")
        before = line or before


def commands(script: str) -> Iterator[list[str]]:
    """The words of each command of a shell script, without comments."""
    for line in script.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words
