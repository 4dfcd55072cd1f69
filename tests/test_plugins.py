"""Loading plug-ins: failures name the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext.errors import ConfigError
from mdistiller_ext.plugins import load_plugin
from tests.support.configs import write


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\ndef broken(:\n", ", line 2: "),
        ("x = 1\n\nimport no_such_module\n", ", line 3: No module named 'no_such_module'"),
        ("\nfrom mdistiller_ext.distillers import Nothing\n", ", line 2: cannot import name 'Nothing'"),
    ],
)
def test_a_plugin_that_is_no_python_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    file = write(tmp_path / "mine.py", code)
    monkeypatch.chdir(tmp_path)
    for path in (str(file), "mine.py"):
        with pytest.raises(ConfigError) as caught:
            load_plugin(path)
        assert f"plugin {path}{said}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_exceptions_of_a_plugin_are_its_author_s(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        load_plugin(str(write(tmp_path / "mine.py", "1 / 0\n")))
