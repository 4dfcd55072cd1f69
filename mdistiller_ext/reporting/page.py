"""Pages of HTML that need no other file."""

from __future__ import annotations

from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """A page from a template, whose path is relative to the package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mdistiller_ext", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(values) + "\n"
