"""Report on studies: accuracies, paired statistics, published numbers, cost and provenance of any run folders::

python -m mdistiller_ext.study report output/my_study
python -m mdistiller_ext.study report output/kd,res20,res8 output/old --baseline KD --metric best --out my_report
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...command import print_markdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="run folders, or folders that hold some")
    parser.add_argument("--baseline", metavar="NAME", help="method to compare with; by default the study's, else KD")
    parser.add_argument("--metric", choices=("last", "best"), default="last", help="accuracy to compare (default: last)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="folder of the files; by default <first folder>/report")


def main(arguments: argparse.Namespace) -> None:
    """Write the report, and print accuracies, differences and the paths."""
    # Imported here: scipy costs a second, also where the arguments are only parsed.
    from .content import make_report
    from .files import markdown, write_report

    report = make_report(arguments.folders, arguments.baseline, arguments.metric)
    paths = write_report(report, arguments.out or arguments.folders[0] / "report")
    print_markdown(markdown(report, tables=2))
    print("\n".join(["", *map(str, paths)]))
