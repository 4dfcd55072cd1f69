"""The pages of the API, from the package: no module is listed by hand."""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "mdistiller_ext"


def api_pages() -> dict[str, str]:
    """Texts of the API pages by file, one for each module or package directly in the package.

    They show all modules without a leading underscore. What a package exports from its modules is shown there and listed here.
    """
    pages: dict[str, str] = {}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        if "._" in name or name == PACKAGE:
            continue
        page = f"api/{name.split('.')[1]}.md"
        text = f"\n::: {name}\n"
        if is_package:
            text += (
                f"    options: {{members: {[name for name in definitions(file) if not name.startswith('_')]}}}\n{exports(file)}"
            )
        pages[page] = pages.get(page, f"# {name.split('.')[1]}\n") + text
    return pages


def definitions(file: Path) -> list[str]:
    """Names of the classes and functions of a module."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def exports(init: Path) -> str:
    """A paragraph of what a package exports from its modules, with links."""
    links = []
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            module = init.parent.joinpath(*node.module.split(".")).with_suffix(".py")
            known = definitions(module) if module.is_file() else []
            name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
            links += [f"[`{alias.name}`][{name}.{alias.name}]" for alias in node.names if alias.name in known]
    return f"\nImport from this package: {', '.join(links)}.\n" if links else ""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace ``API: api/`` of the navigation by the API pages."""
    assert config.nav is not None
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference[0]["API"] = ["api/index.md", *sorted(api_pages())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, text in api_pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rank the guides before the API in the search."""
    if page.file.src_uri.startswith("api/"):
        page.meta["search"] = {"boost": 0.2}
    return markdown
