"""Pages of the site that are not files in docs/: the API, from the package, and texts that lie elsewhere in the repository."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import mdistiller_ext

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = mdistiller_ext.__name__
# Texts of the repository that are pages, and their names in the site.
ELSEWHERE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "benchmarks.md": "benchmarks/README.md"}


def public_modules() -> Iterator[str]:
    """Full names of all modules of the package without a leading underscore in any part, each package before its modules."""
    for module in pkgutil.walk_packages(mdistiller_ext.__path__, f"{PACKAGE}."):
        if not any(part.startswith("_") for part in module.name.split(".")):
            yield module.name


def api_pages() -> dict[str, str]:
    """Texts of the API pages by file: one for each module or package directly in the package."""
    pages: dict[str, str] = {}
    for name in public_modules():
        top = name.split(".")[1]
        pages[f"api/{top}.md"] = pages.get(f"api/{top}.md", f"# {top}\n") + f"\n::: {name}\n"
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace ``API: api/`` of the navigation by the API pages."""
    assert config.nav is not None
    for entry in config.nav:
        if entry.get("API") == "api/":
            entry["API"] = ["api/index.md", *sorted(api_pages())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    for name, text in api_pages().items():
        files.append(File.generated(config, name, content=text))
    for name, source in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to texts elsewhere in the repository, and to modules of the package, to their pages."""
    up = "../" * page.file.src_uri.count("/")
    for name, source in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{up}{source}", f"]({up}{name}")
    return re.sub(rf"\]\((?:\.\./)+{PACKAGE}/(\w+)(?:\.py)?\)", rf"]({up}api/\1.md)", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show the references of docstrings, such as ``:meth:`losses```, as plain names."""
    return re.sub(r":(?:class|func|meth|mod):(?=<code>)", "", html)
