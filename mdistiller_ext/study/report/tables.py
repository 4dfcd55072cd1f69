"""Tables of a report, as text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import listing
from ...network_cost import Pair
from ...published import published_for, recipe_differences
from ...reporting.gains import HEADER, Gain, about, gain_rows
from ...reporting.groups import METRICS, Group, setting_differences
from ...reporting.records import Run
from ...reporting.table import NONE, Table, number
from .statistics import Interval, Paired, Sample, smallest_p


@dataclass(frozen=True)
class Comparison:
    """A group beside its baseline; None where they have no seed in common."""

    group: Group
    baseline: Group
    paired: Paired | None


def spread(values: Iterable[float]) -> str:
    """Mean ± standard deviation."""
    sample = Sample.of(list(values))
    return number(sample.mean) + (f" ± {number(sample.std)}" if sample.std is not None else "")


def interval(bounds: Interval | None) -> str:
    """``+0.68 to +3.07``, or a dash where there is none."""
    return NONE if bounds is None else f"{bounds[0]:+.2f} to {bounds[1]:+.2f}"


def states(runs: Sequence[Run]) -> str:
    """``3``, or ``3 of 5: 1 diverged, 1 failed``."""
    counts = Counter(run.state for run in runs)
    finished = counts.pop("finished", 0)
    others = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return f"{finished} of {len(runs)}: {others}" if others else str(finished)


def networks(groups: Sequence[Group]) -> tuple[list[str], Callable[[Group], list[str]]]:
    """Columns for data set, teacher and student, those that are not the same for all groups."""
    everything = {
        "data set": lambda group: group.dataset,
        "teacher": lambda group: group.teacher or NONE,
        "student": lambda group: group.student,
    }
    varying = {name: get for name, get in everything.items() if len({get(group) for group in groups if get(group) != NONE}) > 1}
    return list(varying), lambda group: [get(group) for get in varying.values()]


def summary_table(comparisons: Sequence[Comparison], metric: str) -> Table:
    """Accuracies of each group, and its difference from the baseline."""
    groups = [each.group for each in comparisons]
    extra, cells = networks(groups)
    metrics = [name for name in METRICS if any(group.values(name) for group in groups)]
    rows = []
    for each in comparisons:
        values = each.group.values(metric)
        difference = NONE if each.paired is None else number(each.paired.mean, sign="+")
        rows.append(
            [
                *(each.group.name, *cells(each.group), states(each.group.runs)),
                *(spread(each.group.values(name).values()) for name in metrics),
                " ".join(number(value) for value in values.values()) or NONE,
                "baseline" if each.group is each.baseline else difference,
            ]
        )
    header = ["method", *extra, "runs", *(f"{name} top-1 %" for name in metrics), f"every seed ({metric})", "difference"]
    text = (
        "Mean ± standard deviation (n - 1) over the finished runs. last: after the last epoch. best: the epoch with the "
        "highest accuracy on the test set, an overestimate. difference: mean paired difference from the baseline, in points."
    )
    return Table("Accuracy", header, rows, text)


def comparison_table(comparisons: Sequence[Comparison], metric: str) -> Table:
    """Paired differences from the baseline, with intervals and a verdict."""
    baselines = list(dict.fromkeys(each.baseline.name for each in comparisons))
    rows = []
    for each in comparisons:
        if each.group is each.baseline:
            continue
        paired = each.paired
        name = each.group.name if len(baselines) == 1 else f"{each.group.name} - {each.baseline.name}"
        if paired is None:
            rows.append([name, "no seed in common", "0", *[NONE] * 6])
            continue
        n = len(paired.differences)
        numbers = [number(paired.mean, sign="+"), interval(paired.bootstrap), interval(paired.t)]
        rows.append(
            [name, paired.verdict, str(n), f"{paired.better} of {n}", *numbers, f"{paired.p:.2g}", f"{paired.adjusted_p:.2g}"]
        )
    header = ["method", "verdict", "seeds", "better in", "difference", "95 % bootstrap", "95 % t", "p", "p (Holm)"]
    text = (
        f"Differences of {metric} top-1, in points, between runs with the same seed. p: exact two-sided sign-flip test, which "
        f"with n seeds cannot be smaller than 2^(1-n) ({smallest_p(3):g} for 3, {smallest_p(6):.2g} for 6). Holm: adjusted for "
        "the number of comparisons in this report. The bootstrap interval (BCa) of few seeds is too narrow; the t interval "
        "assumes normally distributed differences."
    )
    return Table(f"Paired differences from {listing(baselines)}", header, rows, text)


def published_table(groups: Sequence[Group]) -> Table:
    """Published accuracies for the same method, data set and networks, and how our settings differ from that recipe."""
    rows = []
    for group in groups:
        results = published_for(group.config) if not group.config.DATASET.VALIDATION else []
        changes = recipe_differences(group.config) if results else []
        recipe = "no recipe in configs/" if changes is None else "; ".join(changes) or "none"
        for result in results:
            pair = f"{result.dataset}, {result.teacher + ' → ' if result.teacher else ''}{result.student}"
            ours = [f"{name} {spread(group.values(name).values())}" for name in ("last", "best") if group.values(name)]
            published = [result.accuracy, result.runs, result.rule, result.source]
            rows.append([group.name, pair, ", ".join(ours) or NONE, str(len(group.finished)), *published, recipe])
    header = ["method", "pair", "our top-1 %", "our runs", "published top-1 %", "runs", "rule", "source", "recipe -> ours"]
    text = "Where a source does not state its number of runs or its rule, a difference below about 0.5 points proves nothing."
    return Table("Published accuracies", header, rows, text)


def settings_table(groups: Sequence[Group]) -> Table:
    """Settings that differ between the groups."""
    differing = setting_differences([group.settings for group in groups])
    rows = [[name, *values] for name, values in differing.items()]
    text = "Settings that are not the same in all methods; – where a method does not read the setting."
    return Table("Settings that differ", ["setting", *(group.name for group in groups)], rows, text)


def cost_table(groups: Sequence[Group], pairs: Mapping[str, Pair]) -> Table:
    """Size of the student, and what its training took. ``pairs``: by the group's name, those that are known."""
    measured = {"images_per_second": 0, "test_images_per_second": 0, "peak_memory_mib": 0, "seconds": 1}  # digits
    rows = []
    for group in groups:
        cost = pairs[group.name].student_cost if group.name in pairs else None
        parameters, flops = (NONE, NONE) if cost is None else (number(cost.parameters / 1e6, 3), number(cost.flops / 1e6, 1))
        means = []
        for key, digits in measured.items():
            values = [run.summary[key] for run in group.finished if key in run.summary]
            means.append(number(float(np.mean(values)) if values else None, digits))
        rows.append([group.name, group.student, parameters, flops, *means])
    header = ["method", "student", "parameters / 10⁶", "FLOPs / 10⁶", "training images/s *", "test images/s *"]
    header += ["peak memory / MiB *", "training / s *"]
    text = (
        "FLOPs of the student for one image; a multiply-add is two. * Measured, means over the finished runs: not "
        "reproducible, and comparable only between runs on the same idle hardware. Peak memory: on a GPU, of tensors; on a "
        "CPU, of the whole process."
    )
    return Table("Cost", header, rows, text)


def gains_table(gains: Sequence[Gain], command: str) -> Table:
    """Students beside their teachers. ``command``: what measures their latency."""
    by_networks = defaultdict(list)
    for gain in gains:
        by_networks[gain.networks].append(gain)
    several = len(by_networks) > 1
    rows = [[*([networks] * several), *row] for networks, same in by_networks.items() for row in gain_rows(same)]
    lines = [*([] if several else by_networks), *about(gains)]
    if not any(gain.quantity == "latency" for gain in gains):
        lines.append(f"Latency is not measured yet. To measure it, and accuracies on the same images: {command}")
    text = " ".join(line if line.endswith(".") else f"{line}." for line in lines)
    return Table("What was gained", [*(["networks"] * several), "quantity", *HEADER[1:]], rows, text)


def unfinished_table(groups: Sequence[Group], ungrouped: Sequence[Run]) -> Table:
    """Runs that count in no mean, those included whose settings are not known."""
    runs = [(group.name, run) for group in groups for run in (*group.runs, *group.others)]
    runs += [(run.label or NONE, run) for run in ungrouped]
    rows = [
        [name, str(run.seed), run.state, str(len(run.history)), run.error or NONE, run.where]
        for name, run in runs
        if not run.finished
    ]
    text = "These runs are part of the comparison and of no mean: a method that often diverges is not better for it."
    return Table("Runs that are not finished", ["method", "seed", "state", "epochs", "error", "run"], rows, text)


def runs_table(groups: Sequence[Group]) -> Table:
    """Each run, with its command."""
    rows = []
    for group in groups:
        for run in group.runs:
            accuracies = [number(run.summary.get(f"{name}_top1")) for name in ("last", "best")]
            starts = str(len(run.starts) or NONE)
            rows.append([group.name, str(run.seed), run.state, *accuracies, starts, run.where, run.command or NONE])
    header = ["method", "seed", "state", "last top-1 %", "best top-1 %", "starts", "run", "command"]
    return Table("Runs", header, rows, "starts: how often the run was started or resumed. command: of the last start.")
