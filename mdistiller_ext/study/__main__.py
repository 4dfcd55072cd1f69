"""Run the experiments of a comparison::

python -m mdistiller_ext.study run STUDY.yaml
python -m mdistiller_ext.study run --cfg configs/glyphs/kd/res20_res8.yaml configs/glyphs/dkd/res20_res8.yaml --seeds 0 1 2
python -m mdistiller_ext.study run --cfg my.yaml --seeds 0 1 2 --set SOLVER.LR=0.1,0.05 SOLVER.TRAINER=base,dot --jobs 2
python -m mdistiller_ext.study k-static --cfg configs/glyphs/deepkd/res20_res8.yaml --grid 5 20 50 --fraction 0.2
python -m mdistiller_ext.study phases output/my_study
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from ..command import Parser, run_command
from ..errors import ConfigError, from_here, python_command
from ..plugins import load_plugins
from ..run import locked
from . import phases, report
from .fill import fill_caches
from .k_static import FRACTION, accuracies_by_k, choose_k, describe_choice, plan_k_static, write_choice
from .local import LocalExecutor
from .plan import Study, plan_study
from .progress import LiveProgress, Progress
from .record import Record
from .runner import Executor, run_study

PROGRAM = "mdistiller_ext.study"


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
        default=FRACTION,
        help="part of the training images to train on; the others test (default: 0.2)",
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


def plan_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the arguments that all plans share say, as arguments of :func:`plan_study`; loads the plug-ins."""
    load_plugins(arguments.plugin)
    options = [word for plugin in arguments.plugin for word in ("--plugin", plugin)]
    dialect = None
    if arguments.upstream is not None:
        from ..bridge.theirs import Upstream

        dialect = Upstream(arguments.upstream).dialect
        options += ["--upstream", arguments.upstream]
    return {"seeds": arguments.seeds, "settings": arguments.set, "out": arguments.out, "options": options, "dialect": dialect}


def plan(arguments: argparse.Namespace) -> Study:
    """The study that the arguments of ``run`` and ``fill`` describe."""
    return plan_study(arguments.study, arguments.cfg, **plan_options(arguments))


def k_static(arguments: argparse.Namespace) -> None:
    """Run the ablation over K; print and write the choice."""
    study = plan_k_static(arguments.cfg, grid=arguments.grid, fraction=arguments.fraction, **plan_options(arguments))
    record = run(study, arguments)
    choice = choose_k(accuracies_by_k(record))
    print("", describe_choice(choice), "", *write_choice(choice, study.folder), sep="\n")
    exit_unless_finished(record)


def run(study: Study, arguments: argparse.Namespace) -> Record:
    """Run what is not finished of a study, as the arguments of execution say, and print the result."""
    if arguments.slurm and arguments.executor != "slurm":
        raise ConfigError("--slurm belongs to --executor slurm")
    with locked(study.folder, "study", "choose another by --out"):
        record = Record(study, python_command(PROGRAM, *map(shlex.quote, sys.argv[1:])))
        executor: Executor
        if arguments.executor == "slurm":
            from .slurm import SlurmExecutor

            executor = SlurmExecutor(record, arguments.slurm, arguments.jobs)
        else:
            executor = LocalExecutor(record, study.runs, arguments.jobs)
        progress = LiveProgress(record) if sys.stdout.isatty() else Progress(record)
        run_study(record, executor, progress)
    print_result(record)
    return record


def exit_unless_finished(record: Record) -> None:
    """Exit with status 1 unless all planned runs are finished."""
    if any(record.entries[run.name].state != "finished" for run in record.study.runs):
        sys.exit(1)


def print_result(record: Record) -> None:
    """Print the state, accuracy and error of every planned run, and what to do next."""
    runs = record.study.runs
    print(f"\n{'state':<9} {'last':>6} {'best':>6}  run")
    for run in runs:
        entry, top1 = record.entries[run.name], record.test_top1(run.name)
        last, best = (f"{top1[-1]:.2f}", f"{max(top1):.2f}") if top1 else ("", "")
        print(f"{entry.state:<9} {last:>6} {best:>6}  {run.name}")
        if entry.error:
            print(f"{'':<25}{entry.error}")
    states = [record.entries[run.name].state for run in runs]
    if {*states} & {"failed", "stopped"}:
        print(f"failed and stopped runs are run again by the same command: {record.command}")
    if "diverged" in states:
        print("a run that diverged would do so again; to try it nevertheless, delete its folder")
    finished, report = states.count("finished"), python_command(PROGRAM, "report", from_here(record.study.folder))
    print(f"{finished} of {len(runs)} runs finished; report: {report}")


def main() -> None:
    parser = Parser(prog=f"python -m {PROGRAM}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|fill|k-static|phases|report")
    run_parser = commands.add_parser("run", help="run what is not finished")
    add_study_arguments(run_parser)
    add_execution_arguments(run_parser)
    add_study_arguments(commands.add_parser("fill", help="fill the teacher's cache ahead (DISTILLER.TEACHER_CACHE disk)"))
    add_k_static_arguments(commands.add_parser("k-static", help="choose DEEPKD.K_STATIC by an ablation on training images"))
    phases.add_arguments(commands.add_parser("phases", help="suggest DEEPKD.PHASE_ENDS from accuracy curves"))
    report.add_arguments(commands.add_parser("report", help="tables, statistics and pictures of run folders"))
    arguments = parser.parse_args()
    if arguments.command == "fill":
        fill_caches(plan(arguments))
    elif arguments.command == "k-static":
        k_static(arguments)
    elif arguments.command == "phases":
        phases.main(arguments)
    elif arguments.command == "report":
        report.main(arguments)
    else:
        exit_unless_finished(run(plan(arguments), arguments))


if __name__ == "__main__":
    run_command(main)
