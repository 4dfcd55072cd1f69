"""The console script ``mdistiller-ext``: the modules of this package that are programs are its commands."""

from __future__ import annotations

import argparse
import ast
import importlib
import platform
import sys
import textwrap
import warnings
from pathlib import Path

import mdistiller_ext

from .command import Parser, run_command
from .errors import Note, UnknownNameError, did_you_mean
from .project import PACKAGE, SCRIPT

_COPY = f"version {mdistiller_ext.__version__} in {PACKAGE}, Python {platform.python_version()}"


def commands() -> dict[str, tuple[str, str]]:
    """Module and first line of the docstring of every command by name, without an import.

    Commands are modules, and ``__main__`` modules of packages, that run their ``main`` where they are executed.
    """
    found = {}
    for file in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__main__.py")]):
        source = file.read_text(encoding="utf-8")
        if '\nif __name__ == "__main__":\n' in source:
            parts = file.relative_to(PACKAGE).with_suffix("").parts
            first_line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
            found[parts[0]] = ".".join((__package__, *parts)), first_line.rstrip(":")
    return found


def main() -> None:
    """Entry point of the console script."""
    run_command(_run)


def _run() -> None:
    name, *words = sys.argv[1:] or ["--help"]
    known = commands()
    _note_on_another_copy()
    if name.startswith("-"):
        _parser({command: about for command, (_, about) in known.items()}).parse_args([name])
    elif name not in known:
        raise UnknownNameError(f"unknown command '{name}'{did_you_mean(name, known) or '.'} Known: {', '.join(known)}")
    else:
        sys.argv = [f"{SCRIPT} {name}", *words]
        importlib.import_module(known[name][0]).main()


def _parser(described: dict[str, str]) -> Parser:
    """Parser of the options before a command; its help lists the commands."""
    width = max(map(len, described))
    lines = [f"  {name:{width}}  {about}" for name, about in described.items()]
    table = [textwrap.fill(line, 79, subsequent_indent=" " * (width + 4)) for line in lines]
    parser = Parser(
        prog=SCRIPT,
        usage=f"{SCRIPT} [-h] [--version] COMMAND [ARGUMENTS]",
        description=(mdistiller_ext.__doc__ or "").partition("\n")[0],
        epilog="\n".join(["commands:", *table, "", f"{SCRIPT} COMMAND --help describes a command."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    meaning = "print the version, and the folder that it runs from"
    parser.add_argument("--version", action="version", version=f"{SCRIPT} {_COPY}", help=meaning)
    return parser


def _note_on_another_copy() -> None:
    """Note that a checkout in the working directory is not what runs."""
    beside = Path("mdistiller_ext", "__init__.py")
    if beside.is_file() and not beside.samefile(PACKAGE / "__init__.py"):
        text = f"this is {_COPY}, not the checkout in the working directory"
        warnings.warn(text, Note, stacklevel=2)
