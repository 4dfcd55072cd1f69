"""What the commands of ``python -m mdistiller_ext.study`` do with their arguments."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from ..errors import ConfigError, from_here
from ..extras import optional
from ..plugins import load_plugins
from ..project import python_command
from ..run import locked
from .fill import fill_caches
from .k_static import FRACTION, accuracies_by_k, choose_k, describe_choice, plan_k_static, write_choice
from .local import LocalExecutor
from .plan import Study, plan_study
from .progress import LiveProgress, Progress
from .record import Record
from .runner import Executor, run_study

PROGRAM = "mdistiller_ext.study"


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


def run(arguments: argparse.Namespace) -> None:
    """Run what is not finished of a study."""
    exit_unless_finished(execute(plan(arguments), arguments))


def fill(arguments: argparse.Namespace) -> None:
    """Fill the caches of the teachers of a study."""
    fill_caches(plan(arguments))


def plan(arguments: argparse.Namespace) -> Study:
    """The study that the arguments of ``run`` and ``fill`` describe."""
    return plan_study(arguments.study, arguments.cfg, **plan_options(arguments))


def k_static(arguments: argparse.Namespace) -> None:
    """Run the ablation over K; print and write the choice."""
    fraction = FRACTION if arguments.fraction is None else arguments.fraction
    study = plan_k_static(arguments.cfg, grid=arguments.grid, fraction=fraction, **plan_options(arguments))
    record = execute(study, arguments)
    choice = choose_k(accuracies_by_k(record))
    print("", describe_choice(choice), "", *write_choice(choice, study.folder), sep="\n")
    exit_unless_finished(record)


def execute(study: Study, arguments: argparse.Namespace) -> Record:
    """Run what is not finished of a study, as the arguments of execution say, and print the result."""
    if arguments.slurm and arguments.executor != "slurm":
        raise ConfigError("--slurm belongs to --executor slurm")
    with locked(study.folder, "study", "choose another by --out"):
        record = Record(study, python_command(PROGRAM, *map(shlex.quote, sys.argv[1:])))
        executor: Executor
        if arguments.executor == "slurm":
            optional("submitit", "slurm")
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
