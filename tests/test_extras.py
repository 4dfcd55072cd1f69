"""Packages of extras: imported, missing, or broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mdistiller_ext import extras
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.extras import optional
from mdistiller_ext.project import ROOT


def test_an_optional_package_is_imported_or_the_line_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert optional("xml.etree", "export").__name__ == "xml.etree"
    with pytest.raises(ConfigError, match=re.escape(f'package no_such: pip install -e "{ROOT}[export]"')):
        optional("no_such.module", "export")
    monkeypatch.setattr(extras, "IN_CHECKOUT", False)
    with pytest.raises(ConfigError, match=re.escape('package no_such: pip install "mdistiller_ext[export]"')):
        optional("no_such.module", "export")
    (tmp_path / "broken_package.py").write_text("import no_such")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such"):  # not the package that was asked for
        optional("broken_package", "export")
