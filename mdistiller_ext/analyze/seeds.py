"""Tables of quantities that every run of a group has: mean and deviation over the seeds, and differences in pairs."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..reporting.groups import ALONE
from ..reporting.table import NONE, Table, number
from .runs import RunGroup

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Quantity:
    """A number of each run.

    Attributes:
        name: heading of its column and label of its axis, with the unit.
        values: by the name of the group, and by seed.
        digits: decimals shown.
    """

    name: str
    values: Mapping[str, BySeed]
    digits: int = 3


def mean_std(values: Collection[float], digits: int = 2) -> str:
    """Mean ± standard deviation (n - 1); one value as it is, – for none."""
    if not values:
        return NONE
    deviation = f" ± {number(statistics.stdev(values), digits)}" if len(values) > 1 else ""
    return number(statistics.fmean(values), digits) + deviation


def paired(values: BySeed, baseline: BySeed, digits: int = 2) -> str:
    """Mean of the differences by seed and, in brackets, each of them in the order of the seeds; – without a common seed."""
    differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    if not differences:
        return NONE
    return f"{number(statistics.fmean(differences), digits, '+')} ({', '.join(number(d, digits, '+') for d in differences)})"


def in_words(groups: Sequence[RunGroup], quantities: Sequence[Quantity]) -> str:
    """Mean ± standard deviation of each quantity of each group, as the description of a picture."""
    return "; ".join(
        f"{group.name}: " + ", ".join(f"{q.name} {mean_std(q.values[group.name].values(), q.digits)}" for q in quantities)
        for group in groups
    )


def value_table(title: str, groups: Sequence[RunGroup], quantities: Sequence[Quantity], text: str = "") -> Table:
    """A row for each group: number of runs, and mean ± standard deviation of each quantity."""
    rows = [
        [group.name, str(len(group.runs)), *(mean_std(q.values[group.name].values(), q.digits) for q in quantities)]
        for group in groups
    ]
    return Table(title, ["method", "n", *(q.name for q in quantities)], rows, text)


def paired_tables(title: str, groups: Sequence[RunGroup], quantities: Sequence[Quantity]) -> list[Table]:
    """Differences of all other groups from the student alone, and from KD, where these are among the groups."""
    tables = []
    for baseline in (group for group in groups if group.name in (ALONE, "KD") and len(groups) > 1):
        rows = [
            [group.name, *(paired(q.values[group.name], q.values[baseline.name], q.digits) for q in quantities)]
            for group in groups
            if group is not baseline
        ]
        text = f"Minus {baseline.name} with the same seed: mean and, in brackets, every seed."
        tables.append(Table(f"{title}: difference from {baseline.name}", ["method", *(q.name for q in quantities)], rows, text))
    return tables
