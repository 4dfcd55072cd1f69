"""Import packages that only parts of this project need: those of the extras of ``pyproject.toml``."""

from __future__ import annotations

import importlib
import types
from pathlib import Path

from .errors import ConfigError
from .project import IN_CHECKOUT, ROOT


def optional(module: str, extra: str) -> types.ModuleType:
    """Import ``module`` and return it.

    Args:
        module: its full name, such as ``onnxruntime``.
        extra: the extra of ``pyproject.toml`` that installs its package, such as ``export``.

    Raises ConfigError if the package is not installed. An import that fails within it keeps its own error.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        checkout = "." if Path.cwd() == ROOT else str(ROOT)
        install = f'-e "{checkout}[{extra}]"' if IN_CHECKOUT else f'"mdistiller_ext[{extra}]"'
        raise ConfigError(f"this needs the package {package}: pip install {install}") from error
