"""What the runs of a report have in common, and where they differ, in data, teacher, versions, commit and hardware."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import listing
from ...reporting.groups import Group
from ...reporting.records import Run
from ...run.provenance import hardware_text

UNKNOWN = "–"

Facts = dict[str, dict[str, list[str]]]
"""Names of runs by fact and value"""
_ORDER = ("data", "teacher", "accuracy", "version", "commit", "hardware", "number")  # first words of the facts


def collect_facts(groups: Iterable[Group]) -> Facts:
    """Facts about the runs of all groups; a run that was resumed may have several values of one."""
    facts: Facts = defaultdict(lambda: defaultdict(list))
    runs = [(group, run) for group in groups for run in group.runs if run.folder is not None]
    packages = dict.fromkeys(name for _, run in runs for start in run.starts for name in as_dict(start.get("versions")))
    for group, run in runs:
        for fact, values in _facts(group, run, list(packages)).items():
            for value in dict.fromkeys(values or [UNKNOWN]):
                facts[fact][value].append(f"{group.name}, seed {run.seed}")
    return dict(sorted(facts.items(), key=lambda item: _ORDER.index(item[0].split()[0])))


def fact_warnings(facts: Facts) -> list[str]:
    """A line for each fact of which compared runs have several known values."""
    lines = []
    for fact, values in facts.items():
        known = {value: runs for value, runs in values.items() if value != UNKNOWN}
        if len(known) > 1 and not fact.startswith("accuracy"):  # which follows from the others
            lines.append(f"Not all runs have the same {fact}: {'; '.join(f'{v} ({_count(r)})' for v, r in known.items())}")
    return lines


def fact_rows(facts: Facts) -> list[tuple[str, str, str]]:
    """Rows of a table: fact, value, runs."""
    rows = []
    for fact, values in facts.items():
        everyone = {run for runs in values.values() for run in runs}
        for value, runs in values.items():
            rows.append((fact, value, f"all {len(runs)}" if len(set(runs)) == len(everyone) else _count(runs)))
    return rows


def fingerprint(data: Mapping[str, Any] | None) -> list[str]:
    """Fingerprint of a data set as text."""
    if data is None:
        return []
    parts = [f"{data['classes']} classes"] if data.get("classes") else []
    for part in ("train", "test"):
        split = as_dict(data.get(part))
        parts += [f"{part} {split.get('images', UNKNOWN)} images, SHA-256 {str(split.get('sha256'))[:12]}"] if split else []
    return ["; ".join(parts)]


def _facts(group: Group, run: Run, packages: list[str]) -> dict[str, list[str]]:
    """Values of each fact for one run; none where it was not recorded."""
    facts = {f"data ({group.dataset})": fingerprint(run.data)}
    if group.teacher:
        teacher = f"teacher ({group.teacher} on {group.dataset})"
        facts[teacher] = [f"SHA-256 {run.teacher_sha256[:12]}"] if run.teacher_sha256 else []
        top1 = run.summary.get("teacher_top1")
        facts[f"accuracy of the {teacher}"] = [] if top1 is None else [f"{top1:.2f} %"]
    for package in packages:
        versions = [as_dict(start.get("versions")).get(package) for start in run.starts]
        facts[f"version of {package}"] = [str(version) for version in versions if version is not None]
    facts["commit"] = [_commit(git) for start in run.starts if (git := as_dict(start.get("git")))]
    facts["hardware"] = [hardware_text(found) for start in run.starts if (found := as_dict(start.get("hardware")))]
    facts["number of processes"] = [str(start["processes"]) for start in run.starts if "processes" in start]
    return facts


def _commit(git: Mapping[str, Any]) -> str:
    return f"{str(git.get('commit'))[:12]}{', with changed Python files' if git.get('dirty') else ''}"


def _count(runs: list[str]) -> str:
    return f"{len(runs)} runs" if len(runs) > 2 else listing(runs, "; ")


def as_dict(value: object) -> dict[str, Any]:
    """An object of JSON; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}
