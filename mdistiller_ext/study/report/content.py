"""Report: what was found in run folders, as warnings, tables and rows of numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import CorruptFileError, from_here
from ...network_cost import Pair, find_pair
from ...project import python_command
from ...published import method_name
from ...reporting.gains import GAINS_FILE, Gain, cost_gains, read_gains, share_teachers
from ...reporting.groups import METRICS, Group, choose_baselines, make_groups
from ...reporting.records import Run, read_records
from ...reporting.table import Row, Table
from . import tables
from .provenance import as_dict, collect_facts, fact_rows, fact_warnings, fingerprint
from .statistics import SIGNIFICANCE, Sample, compare, smallest_p
from .tables import Comparison


@dataclass(frozen=True)
class Report:
    """A report on runs.

    Attributes:
        title, lead: what is compared, in a line and in a sentence or two.
        warnings: differences between the compared runs, and runs that are missing.
        notes: damaged files, and runs that are left out.
        comparisons: every group beside its baseline.
        pairs: student and teacher of each group, by its name, where they are known.
        gains: of each pair; measured ones from the ``compression.csv`` below a folder.
        tables: the accuracies first, the single runs last.
    """

    title: str
    lead: str
    metric: str
    warnings: list[str]
    notes: list[str]
    comparisons: list[Comparison]
    pairs: dict[str, Pair]
    gains: list[Gain]
    ungrouped: list[Run]
    tables: list[Table]

    @property
    def groups(self) -> list[Group]:
        """The methods, in the order of the report."""
        return [each.group for each in self.comparisons]

    def run_rows(self) -> list[Row]:
        """A row for each run; ``counts`` is False for one whose seed another run of the group has."""
        rows = [_run_row(run, group, run in group.runs) for group in self.groups for run in (*group.runs, *group.others)]
        return rows + [_run_row(run, None, False) for run in self.ungrouped]

    def summary_rows(self) -> list[Row]:
        """A row for each group."""
        return [_summary_row(group, self.pairs.get(group.name)) for group in self.groups]

    def comparison_rows(self) -> list[Row]:
        """A row for each group but the baselines."""
        return [_comparison_row(each, self.metric) for each in self.comparisons if each.group is not each.baseline]


def make_report(folders: Sequence[Path], baseline: str | None = None, metric: str = "last") -> Report:
    """Read all runs in folders and compare them.

    Args:
        baseline: name of the method that others are compared with; see :func:`choose_baselines`.
        metric: accuracy to compare, ``last`` or ``best``.

    Raises MissingFileError where there is no run, UnknownNameError for an unknown baseline.
    """
    records = read_records(folders)
    notes = records.notes
    groups = make_groups(records.runs, notes)
    ungrouped = [run for run in records.runs if run.config is None]
    baselines = choose_baselines(groups, baseline, records.baselines, notes)
    others = [group for group in groups if baselines[group.name] is not group]
    paired = compare([(group.values(metric), baselines[group.name].values(metric)) for group in others])
    by_name = dict(zip((group.name for group in others), paired, strict=True))
    comparisons = [Comparison(group, baselines[group.name], by_name.get(group.name)) for group in groups]
    pairs = {group.name: pair for group in groups if (pair := find_pair(group.config, group.data)) is not None}
    gains = _gains(list(pairs.values()), folders, notes)
    facts = collect_facts(groups)
    of_runs = "Data, teacher, versions, commit and hardware of the runs; – where it was not recorded."
    everything = [
        tables.summary_table(comparisons, metric),
        tables.comparison_table(comparisons, metric),
        tables.unfinished_table(groups, ungrouped),
        tables.settings_table(groups),
        tables.published_table(groups),
        tables.cost_table(groups, pairs),
        tables.gains_table(gains, python_command("mdistiller_ext.compression", from_here(folders[0]))),
        Table("Provenance", ["what", "value", "runs"], fact_rows(facts), of_runs),
        tables.runs_table(groups),
    ]
    names = list(dict.fromkeys(records.names)) or [folder.resolve().name for folder in folders]
    return Report(
        title=f"Report: {', '.join(names)}",
        lead=_lead(groups, baselines, metric),
        metric=metric,
        warnings=[*fact_warnings(facts), *_missing(groups, ungrouped)],
        notes=notes,
        comparisons=comparisons,
        pairs=pairs,
        gains=gains,
        ungrouped=ungrouped,
        tables=[table for table in everything if table.rows],
    )


def _lead(groups: Sequence[Group], baselines: dict[str, Group], metric: str) -> str:
    """What is compared, where it is the same for all groups."""
    what = {
        "data set": {group.dataset for group in groups},
        "teacher": {group.teacher for group in groups} - {""},
        "student": {group.student for group in groups},
    }
    same = ", ".join(f"{name} {min(values)}" for name, values in what.items() if len(values) == 1)
    names = ", ".join(dict.fromkeys(group.name for group in baselines.values()))
    most = max((len(group.finished) for group in groups), default=0)
    runs = sum(len(group.finished) for group in groups)
    lead = f"{runs} finished runs, {same or 'several data sets or networks'}. Baseline: {names}, by {metric} top-1 accuracy."
    if smallest_p(most) > SIGNIFICANCE:
        lead += f" With {most} seed{'s' * (most > 1)}, the sign-flip test cannot show a difference at the 5 % level."
    return lead


def _gains(pairs: Sequence[Pair], folders: Sequence[Path], notes: list[str]) -> list[Gain]:
    """Costs of each pair, and what the folders hold of measurements of it; adds a note for a file that cannot be read."""
    measured: dict[str, list[Gain]] = {}
    for file in (folder / GAINS_FILE for folder in folders):
        try:
            rows = read_gains(file) if file.is_file() else []
        except CorruptFileError as error:
            notes.append(str(error))
            continue
        for networks, same in itertools.groupby(rows, key=lambda gain: gain.networks):
            measured.setdefault(networks, [gain for gain in same if gain.measured_on])
    shown = dict.fromkeys(share_teachers(pairs))
    return [gain for pair in shown for gain in (*cost_gains(pair), *measured.get(str(pair), ()))]


def _missing(groups: Sequence[Group], ungrouped: Sequence[Run]) -> list[str]:
    runs = [run for group in groups for run in group.runs] + list(ungrouped)
    missing = [run for run in runs if not run.finished]
    return [f"Runs finished: {tables.states(runs)}; the others count in no mean."] if missing else []


# ---- rows of numbers ----------------------------------------------------------------------------------------------


def _run_row(run: Run, group: Group | None, counts: bool) -> Row:
    best = ("best_epoch", "epochs", "teacher_top1", "skipped_batches")
    measured = ("seconds", "images_per_second", "test_images_per_second", "peak_memory_mib")
    git = as_dict(run.starts[-1].get("git")) if run.starts else {}
    return {
        "method": group.name if group else run.label,
        **_networks(group),
        "seed": run.seed,
        "state": run.state,
        "counts": counts,
        **{f"{metric}_top1": run.summary.get(f"{metric}_top1") for metric in METRICS},
        **{key: run.summary.get(key) for key in best},
        "data": "".join(fingerprint(run.data)),
        "teacher_sha256": run.teacher_sha256,
        "commit": git.get("commit"),
        "starts": len(run.starts),
        "run": run.where,
        "command": run.command,
        "error": run.error,
        **{key: run.summary.get(key) for key in measured},
    }


def _summary_row(group: Group, pair: Pair | None) -> Row:
    row: Row = {"method": group.name, **_networks(group), "runs": len(group.runs), "finished": len(group.finished)}
    for metric in METRICS:
        sample = Sample.of(list(group.values(metric).values()))
        row |= {f"{metric}_top1_n": sample.n, f"{metric}_top1_mean": sample.mean, f"{metric}_top1_std": sample.std}
    parameters, flops = (pair.student_cost.parameters, pair.student_cost.flops) if pair is not None else (None, None)
    return row | {"type": method_name(group.config), "student_parameters": parameters, "student_flops": flops}


def _comparison_row(each: Comparison, metric: str) -> Row:
    row: Row = {"method": each.group.name, "baseline": each.baseline.name, **_networks(each.group), "metric": metric}
    paired = each.paired
    if paired is None:
        return row | {"n": 0}
    (low, high), (t_low, t_high) = (bounds or (None, None) for bounds in (paired.bootstrap, paired.t))
    return row | {
        "n": len(paired.differences),
        "seeds": " ".join(map(str, paired.differences)),
        "mean_difference": paired.mean,
        "bootstrap_low": low,
        "bootstrap_high": high,
        "t_low": t_low,
        "t_high": t_high,
        "better": paired.better,
        "p": paired.p,
        "smallest_p": smallest_p(len(paired.differences)),
        "p_holm": paired.adjusted_p,
        "verdict": paired.verdict,
    }


def _networks(group: Group | None) -> Row:
    if group is None:
        return {"dataset": None, "teacher": None, "student": None}
    return {"dataset": group.dataset, "teacher": group.teacher, "student": group.student}
