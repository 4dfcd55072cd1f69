"""Published accuracies, to compare a result with::

python -m mdistiller_ext.published --dataset cifar100 --teacher resnet32x4 --student resnet8x4

The numbers and their sources are in ``published.csv``, with the number of runs and the rule by which an epoch was chosen where
the source states them. Most sources do not: a difference of less than about 0.5 points from such a number proves nothing. A
paper's statement about its tables is taken for every number in them, also for those that it took over from other papers.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate
from yacs.config import CfgNode

from .command import Parser, run_command
from .errors import ConfigWarning, MissingFileError, UnknownNameError, UserError
from .project import CONFIGS

NOT_STATED = "not stated"
_RULES = {
    "best": "best epoch",
    "last": "last epoch",
    "median": "median of the last epochs",
    NOT_STATED: "epoch not stated",
}


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        teacher: empty for a student that was trained alone.
        top1, std: in percent; ``std`` is empty where none is given.
        runs: how many runs ``top1`` summarises, or ``not stated``.
        rule: which epoch counts: ``best`` (chosen on the test set) or ``last`` of each run, averaged; ``median`` of the runs'
            last epochs; or ``not stated``.
    """

    dataset: str
    teacher: str
    student: str
    method: str
    top1: str
    std: str
    runs: str
    rule: str
    source: str

    @property
    def accuracy(self) -> str:
        """Mean and, if given, standard deviation."""
        return f"{float(self.top1):.2f}" + (f" ± {self.std}" if self.std else "")

    def __str__(self) -> str:
        runs = "number of runs not stated" if self.runs == NOT_STATED else f"{self.runs} runs"
        return f"{self.accuracy} % ({self.source}; {runs}, {_RULES[self.rule]})"


def published_results(dataset: str = "", teacher: str = "", student: str = "", method: str = "") -> list[Published]:
    """Return the published results that match every argument that is not empty."""
    asked = {"dataset": dataset, "teacher": teacher, "student": student, "method": method}
    with open(Path(__file__).with_name("published.csv"), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(not value or row[key] == value for key, value in asked.items())]
    return [Published(**{key.removesuffix("_percent"): value for key, value in row.items()}) for row in rows]


def method_name(config: CfgNode) -> str:
    """Return the name of a run's method in the tables: ``KD+DOT``, ``DKD+LS``, ..."""
    name = config.DISTILLER.TYPE
    standardized = name == "LSKD" or config[name].get("STANDARDIZE", False)
    name = {"LSKD": "KD", "DEEPKD": "DeepKD"}.get(name, name)
    trainer = {"base": "", "dot": "+DOT", "deepkd": "+DeepKD"}.get(config.SOLVER.TRAINER, f"+{config.SOLVER.TRAINER}")
    trainer = "" if name == "DeepKD" and trainer == "+DeepKD" else trainer
    return f"{name}{'+LS' if standardized else ''}{trainer}"


def published_for(config: CfgNode) -> list[Published]:
    """Return the published results for the method, data set and networks of a run."""
    method, teacher, student = _pair(config)
    return published_results(config.DATASET.TYPE, teacher, student, method)


def recipe_differences(config: CfgNode) -> list[str] | None:
    """Return how a run differs from its recipe, the file of its method and networks in ``configs/``, as ``KEY: recipe -> run``.

    Returns None if there is no such file.
    """
    from .config import recipe_changes  # slow to import

    for recipe in _recipes(CONFIGS / config.DATASET.TYPE, config.DISTILLER.STUDENT):
        if _pair(recipe) == _pair(config):
            return recipe_changes(recipe, config)
    return None


@functools.cache  # a report asks for many runs
def _recipes(folder: Path, student: str) -> list[CfgNode]:
    """Configurations of all files of a data set's folder for a student."""
    from .config import default_config, load_config, written_settings  # slow to import

    recipes = []
    # Reading a file is faster than loading its configuration, and most files are for other students.
    default = default_config().DISTILLER.STUDENT
    for file in sorted(folder.glob("*/*.yaml")):
        try:
            if written_settings(file).get("DISTILLER.STUDENT", default) != student:
                continue
            with warnings.catch_warnings():  # of the recipe, which is not the file of the run
                warnings.simplefilter("ignore", ConfigWarning)
                recipes.append(load_config(file))
        except UserError:  # a user's file, such as one that needs a plug-in
            continue
    return recipes


def _pair(config: CfgNode) -> tuple[str, str, str]:
    """Return method, teacher and student; the teacher is empty for a student that is trained alone."""
    teacher = "" if config.DISTILLER.TYPE == "NONE" else config.DISTILLER.TEACHER
    return method_name(config), teacher, config.DISTILLER.STUDENT


def main() -> None:
    parser = Parser(
        prog="python -m mdistiller_ext.published", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("dataset", "teacher", "student", "method"):
        parser.add_argument(f"--{name}", default="")
    asked = vars(parser.parse_args())
    everything = published_results()
    for name, value in asked.items():
        known = {getattr(result, name) for result in everything} - {""}
        if value and value not in known:
            raise UnknownNameError(f"nothing published with --{name} {value} is known here. Known: {', '.join(sorted(known))}")
    results = published_results(**asked)
    if not results:
        raise MissingFileError("no published result for this combination is known here; leave an option out to see more")
    results.sort(key=lambda result: (result.dataset, result.teacher, result.student, float(result.top1)))
    for pair, group in itertools.groupby(results, key=lambda result: (result.dataset, result.teacher, result.student)):
        dataset, teacher, student = pair
        print(f"{dataset}: {f'{teacher} -> {student}' if teacher else f'{student} alone'}\n")
        stated = [[cell.replace(NOT_STATED, "-") for cell in (r.method, r.accuracy, r.runs, r.rule, r.source)] for r in group]
        header = ("method", "top-1 %", "runs", "epoch", "source")
        print(tabulate(stated, header, "simple", disable_numparse=True, maxcolwidths=[16, None, None, None, 34]), end="\n\n")
    print("-: not stated by the source")


if __name__ == "__main__":
    run_command(main)
