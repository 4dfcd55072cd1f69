"""Analyse finished runs: numbers (CSV), pictures (PNG, SVG), and one page of HTML::

python -m mdistiller_ext.analyze gsnr output/my_study
python -m mdistiller_ext.analyze landscape output/kd,res20,res8 output/dkd,res20,res8 --limit 1000
python -m mdistiller_ext.analyze all output/my_study --limit 500
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ..command import Parser, print_markdown, run_command
from ..errors import UserError
from ..plugins import load_plugins
from .analysis import ANALYSES, Analysis
from .files import write_analysis, write_page
from .partial import Partial
from .runs import RunGroup, open_runs

PROGRAM = "mdistiller_ext.analyze"


def main() -> None:
    parser = Parser(prog=f"python -m {PROGRAM}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True, metavar="|".join((*ANALYSES, "all")))
    for name in ANALYSES:
        function = ANALYSES.get(name)
        command = commands.add_parser(name, help=(inspect.getdoc(function) or "").partition("\n")[0])
        _add_common(command)
        for option in _options(function).values():
            _add_option(command, option)
    every = commands.add_parser("all", help="every analysis that these runs allow, and a page of them")
    _add_common(every)
    every.add_argument("--limit", type=int, help="number of images of each analysis; by default its own, 0: all")
    arguments = parser.parse_args()
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    load_plugins(arguments.plugin)
    if arguments.upstream is not None:
        from ..bridge.theirs import Upstream

        Upstream(arguments.upstream)  # registers its methods
    groups = open_runs(arguments.runs, arguments.device)
    folder: Path = arguments.out or arguments.runs[0] / "analysis"
    if arguments.what == "all":
        analyse_all(groups, folder, arguments.limit)
        return
    options = {name: getattr(arguments, name) for name in _options(ANALYSES.get(arguments.what))}
    show(*analyse(arguments.what, groups, folder, options))


def analyse(name: str, groups: list[RunGroup], folder: Path, options: dict[str, Any]) -> tuple[Analysis, list[Path]]:
    """Make an analysis and write its files."""
    function = ANALYSES.get(name)
    if "partial" in inspect.signature(function).parameters:
        options = options | {"partial": Partial(folder / f"{name}.partial.jsonl")}
    analysis = function(groups, **options)
    return analysis, write_analysis(analysis, name, folder)


def analyse_all(groups: list[RunGroup], folder: Path, limit: int | None) -> None:
    """Make every analysis that the runs allow, and write a page of them."""
    made: dict[str, Analysis] = {}
    impossible: dict[str, str] = {}
    for name in ANALYSES:
        options = {"limit": limit} if limit is not None and "limit" in _options(ANALYSES.get(name)) else {}
        try:
            made[name], paths = analyse(name, groups, folder, options)
            show(made[name], paths)
        except UserError as error:
            impossible[name] = str(error)
            print(f"{name}: not possible: {error}\n")
    print(write_page(made, impossible, folder))


def show(analysis: Analysis, paths: list[Path]) -> None:
    """Print an analysis."""
    notes = [f"note: {note}" for note in analysis.notes]
    print_markdown(
        "\n\n".join([f"# {analysis.title}", analysis.text, *(table.markdown() for table in analysis.tables), *notes])
    )
    print("\n".join(["", *map(str, paths)]), end="\n\n")


# ---- arguments ----------------------------------------------------------------------------------------------------


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, or folders that hold some")
    command.add_argument("--out", metavar="FOLDER", type=Path, help="folder of the files; by default <first RUN>/analysis")
    command.add_argument("--device", default="auto", help="device of networks and images (default: auto)")
    command.add_argument("--plugin", metavar="FILE", action="append", default=[], help="as of train.py")
    command.add_argument("--upstream", metavar="FOLDER", help="as of train.py")


def _options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only arguments of an analysis that are options of its command."""
    parameters = inspect.signature(function, eval_str=True).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "partial"}


def _add_option(command: argparse.ArgumentParser, parameter: inspect.Parameter) -> None:
    """Declare an option as its argument is annotated: a number, text, choices, a list, or a switch."""
    kind, meaning = parameter.annotation.__origin__, parameter.annotation.__metadata__[0]
    default = parameter.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    how: dict[str, Any] = {"default": default, "help": f"{meaning} (default: {shown})"}
    if kind is bool:
        how["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        how["choices"] = get_args(kind)
    elif get_origin(kind) is not None:
        how |= {"nargs": "+", "type": get_args(kind)[0], "metavar": parameter.name.upper()}
    else:
        how |= {"type": kind, "metavar": parameter.name.upper()}
    command.add_argument(f"--{parameter.name.replace('_', '-')}", **how)


if __name__ == "__main__":
    run_command(main)
