"""Configuration files, and the messages about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mdistiller_ext.config import (
    load_config,
)
from mdistiller_ext.errors import ConfigWarning, UserError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def message(path: Path | str | None, *overrides: str) -> str:
    """What a user reads: of any UserError, which must be one line."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *groups, leaf = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree


def upstream_file(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / "upstream.yaml"
    path.write_text(yaml.safe_dump(nested(settings)), encoding="utf-8")
    return path


def load(path: Path, *overrides: Any) -> tuple[Any, str]:
    """The configuration and all that was said about it."""
    with pytest.warns(ConfigWarning) as said:
        config = load_config(path, overrides)
    return config, " | ".join(str(warning.message) for warning in said)


def bomb(leaf: str) -> str:
    """yaml of ten lines in which every mapping holds the one before nine times."""
    lines = [f"l{n}: &l{n} {{{', '.join(f'k{i}: *l{n - 1}' for i in range(9))}}}" for n in range(1, 10)]
    return "\n".join([f"l0: &l0 {leaf}", *lines])
