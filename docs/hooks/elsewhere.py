"""Texts that lie elsewhere in the repository become pages, and links to them, or to sources, lead to pages of the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Texts of the repository that are pages, and their names in the site.
ELSEWHERE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "benchmarks.md": "benchmarks/README.md"}
# Pages to which links to sources lead; the first pattern that matches counts.
PAGES = {
    **{re.escape(source): name for name, source in ELSEWHERE.items()},
    r"mdistiller_ext/config/schema\.py": "settings.md",
    r"mdistiller_ext/(\w+)(?:\.py)?": r"api/\1.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the texts."""
    for name, source in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to what is outside docs/, which work on GitHub, by those to pages."""
    up = "../" * page.file.src_uri.count("/")
    for source, name in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)+{source}\)", f"]({up}{name})", markdown)
    return markdown
