"""Run the experiments of a comparison::

python -m mdistiller_ext.study run STUDY.yaml
python -m mdistiller_ext.study run --cfg configs/glyphs/kd/res20_res8.yaml configs/glyphs/dkd/res20_res8.yaml --seeds 0 1 2
python -m mdistiller_ext.study run --cfg my.yaml --seeds 0 1 2 --set SOLVER.LR=0.1,0.05 SOLVER.TRAINER=base,dot --jobs 2
python -m mdistiller_ext.study k-static --cfg configs/glyphs/deepkd/res20_res8.yaml --grid 5 20 50 --fraction 0.2
python -m mdistiller_ext.study phases output/my_study
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..command import Parser, run_command
from . import report


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", metavar="STUDY.yaml", help="runs, seeds and settings of the study")
    parser.add_argument("--cfg", nargs="+", metavar="FILE", default=[], help="configurations to compare, without STUDY.yaml")
    add_shared_arguments(parser)


def add_k_static_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", metavar="FILE", required=True, help="configuration of DeepKD")
    parser.add_argument("--grid", nargs="+", type=int, metavar="K", default=[], help="default: 5 to 100 %% of the classes")
    parser.add_argument(
        "--fraction",
        type=float,
        help="part of the training images to train on; the others test (default: the paper's)",
    )
    add_shared_arguments(parser)
    add_execution_arguments(parser)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="a run of each configuration for each seed")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=V1,V2", help="settings of all runs; values: a product"
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder of the study; default: output/<NAME>")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="as of train.py")
    parser.add_argument("--upstream", metavar="FOLDER", help="as of train.py")


def add_execution_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, help="number of runs at the same time; default: one per GPU, or per core, up to 8")
    parser.add_argument("--executor", choices=["local", "slurm"], default="local", help="where the runs are executed")
    parser.add_argument(
        "--slurm", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="time=MINUTES partition=NAME ..."
    )


def add_phases_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="RUN", nargs="+", type=Path, help="run folders, or folders that hold some")
    parser.add_argument("--gains", metavar="PART", nargs=2, type=float, help="parts of the final gain at which the phases end")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="folder of the files; by default the first RUN")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(
        prog="python -m mdistiller_ext.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|fill|k-static|phases|report")
    run_parser = commands.add_parser("run", help="run what is not finished")
    add_study_arguments(run_parser)
    add_execution_arguments(run_parser)
    add_study_arguments(commands.add_parser("fill", help="fill the teacher's cache ahead (DISTILLER.TEACHER_CACHE disk)"))
    add_k_static_arguments(commands.add_parser("k-static", help="choose DEEPKD.K_STATIC by an ablation on training images"))
    add_phases_arguments(commands.add_parser("phases", help="suggest DEEPKD.PHASE_ENDS from accuracy curves"))
    report.add_arguments(commands.add_parser("report", help="tables, statistics and pictures of run folders"))
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    from . import commands, phases  # slow to import: they import torch

    if arguments.command == "fill":
        commands.fill(arguments)
    elif arguments.command == "k-static":
        commands.k_static(arguments)
    elif arguments.command == "phases":
        phases.main(arguments)
    elif arguments.command == "report":
        report.main(arguments)
    else:
        commands.run(arguments)


if __name__ == "__main__":
    run_command(main)
