"""Run the experiments of a comparison::

python -m mdistiller_ext.study run STUDY.yaml
python -m mdistiller_ext.study run --cfg configs/glyphs/kd/res20_res8.yaml configs/glyphs/dkd/res20_res8.yaml --seeds 0 1 2
python -m mdistiller_ext.study run --cfg my.yaml --seeds 0 1 2 --set SOLVER.LR=0.1,0.05 SOLVER.TRAINER=base,dot --jobs 2
"""

from __future__ import annotations

import argparse
import shlex
import sys

from ..command import Parser, run_command
from ..errors import ConfigError, from_here, python_command
from ..plugins import load_plugins
from ..run import locked
from . import report
from .fill import fill_caches
from .local import LocalExecutor
from .plan import Study, plan_study
from .progress import LiveProgress, Progress
from .record import Record
from .runner import Executor, run_study

PROGRAM = "mdistiller_ext.study"


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", metavar="STUDY.yaml", help="runs, seeds and settings of the study")
    parser.add_argument("--cfg", nargs="+", metavar="FILE", default=[], help="configurations to compare, without STUDY.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="a run of each configuration for each seed")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=V1,V2", help="settings of all runs; values: a product"
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder of the study; default: output/<NAME>")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="as of train.py")
    parser.add_argument("--upstream", metavar="FOLDER", help="as of train.py")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument("--jobs", type=int, help="number of runs at the same time; default: one per GPU, or per core, up to 8")
    parser.add_argument("--executor", choices=["local", "slurm"], default="local", help="where the runs are executed")
    parser.add_argument(
        "--slurm", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="time=MINUTES partition=NAME ..."
    )


def plan(arguments: argparse.Namespace) -> Study:
    """The study that the arguments describe."""
    load_plugins(arguments.plugin)
    options = [word for plugin in arguments.plugin for word in ("--plugin", plugin)]
    dialect = None
    if arguments.upstream is not None:
        from ..bridge.theirs import Upstream

        dialect = Upstream(arguments.upstream).dialect
        options += ["--upstream", arguments.upstream]
    return plan_study(
        arguments.study,
        arguments.cfg,
        seeds=arguments.seeds,
        settings=arguments.set,
        out=arguments.out,
        options=options,
        dialect=dialect,
    )


def run(arguments: argparse.Namespace) -> None:
    """Run a study; exit with status 1 unless all of its runs are finished."""
    if arguments.slurm and arguments.executor != "slurm":
        raise ConfigError("--slurm belongs to --executor slurm")
    study = plan(arguments)
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
    if any(record.entries[run.name].state != "finished" for run in study.runs):
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
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|fill|report")
    add_run_arguments(commands.add_parser("run", help="run what is not finished"))
    add_study_arguments(commands.add_parser("fill", help="fill the teacher's cache ahead (DISTILLER.TEACHER_CACHE disk)"))
    report.add_arguments(commands.add_parser("report", help="tables, statistics and pictures of run folders"))
    arguments = parser.parse_args()
    if arguments.command == "fill":
        fill_caches(plan(arguments))
    elif arguments.command == "report":
        report.main(arguments)
    else:
        run(arguments)


if __name__ == "__main__":
    run_command(main)
