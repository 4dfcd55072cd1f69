"""Load the user's own methods, trainers, models and data sets from Python files."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from .errors import ConfigError, MissingFileError


def load_plugins(paths: Iterable[str]) -> dict[str, bytes]:
    """Load each file once; returns the sources of all (see :func:`load_plugin`).

    Raises ConfigError for two different files of the same name.
    """
    sources: dict[str, bytes] = {}
    for path in {os.path.abspath(path): path for path in paths}.values():
        for name, source in load_plugin(path).items():
            if sources.setdefault(name, source) != source:
                raise ConfigError(f"plugin {path}: there is another {name} among the plug-ins and what they import; rename one")
    return sources


def load_plugin(path: str) -> dict[str, bytes]:
    """Execute a Python file that the user named, so that its entries are registered.

    Its folder is appended to ``sys.path``: the file can import its neighbours, none of which shadows a module of Python or
    of an installed package.

    Returns:
        The source of the file, and of all files in its folder that are imported by now, by file name.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: the file is not valid Python, or an import in it fails; the message names the line. Other exceptions
            pass with their traceback, for the author of the file.
    """
    file = Path(os.path.abspath(path))
    if not file.is_file():
        raise MissingFileError(f"plugin not found: {file}")
    name = f"plugin_{file.stem}"  # the prefix keeps random.py from replacing Python's module
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"plugin {path} is not a Python file")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        # The last line of the file in the traceback, also if the error is in a module that it imports.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        what = error if lines else error.msg  # str(SyntaxError) ends in file and line
        raise ConfigError(f"plugin {path}, line {line}: {what}") from error
    modules = [module for name, module in sys.modules.items() if name != "__main__"]
    files = {Path(name) for name in (getattr(module, "__file__", None) for module in modules) if name}
    return {each.name: each.read_bytes() for each in sorted(files) if each.parent == file.parent and each.is_file()}
