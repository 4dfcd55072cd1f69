"""Docstrings as Markdown: the few parts that are reStructuredText."""

from __future__ import annotations

import re
from typing import Any

import griffe


class DocstringsAsMarkdown(griffe.Extension):
    """Extension of griffe, which reads the docstrings for the pages of the API."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Convert a docstring as it is read."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Convert references, paragraphs of commands after ``::``, and names that share a description."""
    text = re.sub(r":(?:class|func|meth|mod):(?=`)", "", text)
    text = re.sub(r"::\n\n((?:\S.*(?:\n|$))+)", r":\n\n```text\n\1```\n", text)
    text = re.sub(r"::\n\n(?= {4})", ":\n\n", text)
    # griffe takes a space in a name for the beginning of a type.
    return re.sub(r"^    \w+(?:, \w+)+:", lambda names: names[0].replace(", ", ",\u00a0"), text, flags=re.MULTILINE)
