"""``python -m mdistiller_ext.study.report``."""

from __future__ import annotations

from ...command import Parser, run_command
from . import add_arguments, main


def run() -> None:
    parser = Parser(prog="python -m mdistiller_ext.study.report")
    add_arguments(parser)
    main(parser.parse_args())


if __name__ == "__main__":
    run_command(run)
