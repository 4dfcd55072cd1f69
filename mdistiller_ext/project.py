"""The files of this project, in a checkout and in an installation, and the commands that run its programs.

A wheel holds ``configs/``, ``studies/`` and ``teachers/`` in a folder ``files`` of the package, which a checkout does not have.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from .errors import from_here

PACKAGE = Path(__file__).parent
IN_CHECKOUT = not (PACKAGE / "files").is_dir()
ROOT = PACKAGE.parent if IN_CHECKOUT else PACKAGE / "files"
"""The folder that holds ``configs/``, ``studies/`` and ``teachers/`` and, in a checkout, ``train.py`` and ``eval.py``"""
CONFIGS = ROOT / "configs"
SCRIPT = "mdistiller-ext"
"""Name of the console script"""


def find_file(asked: str | os.PathLike[str], folder: str = "configs") -> Path:
    """The file ``asked`` or, without one, the project's file of that name.

    Args:
        folder: ``configs`` or ``studies``. The name of a file in it may leave out this folder and ``.yaml``.

    Returns:
        ``asked`` itself if neither exists, the project's folder if it is the name of one.
    """
    path = Path(asked)
    if os.path.isfile(path) or path.is_absolute() or ".." in path.parts:
        return path
    own = ROOT / folder / (path.relative_to(folder) if path.parts[:1] == (folder,) else path)
    for file in (own, own.with_name(f"{own.name}.yaml")):
        if os.path.isfile(file):
            return file
    return own if os.path.isdir(own) and not os.path.exists(path) else path


def config_word(path: Path) -> str:
    """A yaml file, or a folder of some, as a word after ``--cfg``: for one of an installation its name, else its path."""
    if IN_CHECKOUT or not path.is_relative_to(CONFIGS):
        return from_here(path)
    return shlex.quote(str(path.relative_to(CONFIGS)).removesuffix(".yaml"))


def program_words(program: str) -> list[str]:
    """The first words of a command that runs a program of this copy of the project, whatever the working directory is.

    Args:
        program: ``train.py``, ``eval.py``, or a module, such as ``mdistiller_ext.download``, which in a checkout is found from
            its root alone.
    """
    if IN_CHECKOUT:
        return [sys.executable, str(ROOT / program)] if program.endswith(".py") else [sys.executable, "-m", program]
    name = program.removesuffix(".py").removeprefix("mdistiller_ext.")
    script = Path(sys.executable).with_name(SCRIPT)
    # Not -m, which searches the working directory first: it may hold a checkout.
    return [str(script), name] if script.is_file() else [sys.executable, "-m", f"mdistiller_ext.{name}"]


def python_command(program: str, *arguments: str) -> str:
    """A shell command that runs a program (see :func:`program_words`) in the current working directory.

    ``arguments`` are words quoted for the shell (see :func:`mdistiller_ext.errors.from_here`).
    """
    path, *words = program_words(program)
    name = Path(path).name
    words = [name if shutil.which(name) == path else from_here(path), *words]
    if IN_CHECKOUT and program.endswith(".py"):
        words[1] = from_here(words[1])
    elif IN_CHECKOUT and Path.cwd() != ROOT:  # -m searches the working directory
        words.insert(0, f"PYTHONPATH={from_here(ROOT)}")
    return " ".join([*words, *arguments])
