"""The documentation's site: it builds strictly, loads nothing from elsewhere, and documents every public name."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mdistiller_ext
from tests.support.programs import ROOT


def public_modules() -> Iterator[ModuleType]:
    """All modules without a leading underscore in a part of their names."""
    for module in pkgutil.walk_packages(mdistiller_ext.__path__, f"{mdistiller_ext.__name__}."):
        if "._" not in module.name:
            yield importlib.import_module(module.name)


def public_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Full names and values of the classes and functions that a module defines, and of the methods that its classes do.

    Not of ``main`` and ``parse_arguments`` of a command, which its module's docstring describes.
    """
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__ or not is_defined(name, value):
            continue
        if name not in ("main", "parse_arguments"):
            yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            for method in vars(value):
                member = getattr(value, method)
                if is_defined(method, member):
                    yield f"{module.__name__}.{name}.{method}", member


def is_defined(name: str, value: Any) -> bool:
    """Whether a class or function is public, and defined under this name rather than assigned to it."""
    kind = inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, property)
    return kind and not name.startswith("_") and getattr(value, "__name__", name) == name


def is_documented(value: Any) -> bool:
    """Whether a value has a docstring: a class its own, a method its own or that of the method that it overrides."""
    if inspect.isclass(value):
        generated = f"{value.__name__}("  # by dataclass and namedtuple
        return bool(value.__doc__) and not value.__doc__.startswith(generated) and "__doc__" in vars(value)
    return bool(inspect.getdoc(value))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link or anchor is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]  # --quiet would count no warnings
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_public_name_has_a_docstring() -> None:
    modules = list(public_modules())
    missing = [module.__name__ for module in modules if not module.__doc__]
    missing += [name for module in modules for name, value in public_names(module) if not is_documented(value)]
    assert not missing, "\n".join(missing)


def test_every_public_name_is_in_the_api_pages(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    listed = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    modules = list(public_modules())
    expected = {module.__name__ for module in modules}
    # A method without a docstring of its own is described where the base class defines it.
    expected |= {name for module in modules for name, value in public_names(module) if value.__doc__}
    assert len(expected) > 500
    assert not sorted(expected - listed)


def test_pages_load_nothing_from_other_servers(site: Path) -> None:
    for page in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\bsrc="?(https?:)?//', text) + re.findall(
            r"url\([\"']?(?:https?:)?//", text
        )
        loaded += re.findall(r'<link[^>]*\brel="?(?:stylesheet|preconnect|icon)"?[^>]*href="?(?:https?:)?//', text)
        assert not loaded, page.relative_to(site)
