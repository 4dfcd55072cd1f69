"""Groups of runs that differ only in seed, their names, and the baseline of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode

from ..config import all_settings, effective_settings, having
from ..errors import UnknownNameError, did_you_mean, listing
from ..published import method_name
from .records import Run

ALONE = "student alone"
METRICS = ("last", "best", "average")  # entries <metric>_top1 of summary.json


@dataclass(frozen=True)
class Group:
    """Runs of one method with the same settings but for the seed and what is not part of a recipe.

    Attributes:
        name: unique in a report.
        method: name that a study gives, else that of the method.
        settings: those that its runs read, by dotted names.
        runs: in the order of their seeds; of several runs with one seed, the one that counts.
        others: the rest of these.
    """

    name: str
    method: str
    settings: dict[str, Any]
    runs: tuple[Run, ...]
    others: tuple[Run, ...] = ()

    @property
    def config(self) -> Any:
        """Settings of its first run."""
        return self.runs[0].config

    @property
    def finished(self) -> list[Run]:
        """Its finished runs."""
        return [run for run in self.runs if run.finished]

    @property
    def data(self) -> dict[str, Any] | None:
        """Fingerprint of the data set, of the first run that has it."""
        return next((run.data for run in self.runs if run.data is not None), None)

    @property
    def dataset(self) -> str:
        """``DATASET.TYPE``."""
        return str(self.config.DATASET.TYPE)

    @property
    def student(self) -> str:
        """Network of the student."""
        return str(self.config.DISTILLER.STUDENT)

    @property
    def teacher(self) -> str:
        """Network of the teacher; empty without one."""
        return str(self.settings.get("DISTILLER.TEACHER", ""))

    def values(self, metric: str) -> dict[int, float]:
        """Top-1 accuracy in percent by seed, of the finished runs that have it."""
        key = f"{metric}_top1"
        return {run.seed: run.summary[key] for run in self.finished if key in run.summary}


def make_groups(runs: Iterable[Run], notes: list[str]) -> list[Group]:
    """Group runs; adds a note for each seed of which several runs are in one group. Runs without settings are left out."""
    is_recipe = _not(having(recipe=False))
    # A setting such as TEACHER_CKPT is no part of a recipe, but where one seed ran with two values, these are compared.
    is_named = having(recipe=False, in_name=True)
    by_recipe = defaultdict(list)
    for run in runs:
        if run.config is not None:
            by_recipe[run.label or _method(run.config), _chosen(run, is_recipe)].append(run)
    found: list[tuple[str, list[Run]]] = []
    for (base, _), members in by_recipe.items():
        by_values = defaultdict(list)
        for run in members:
            by_values[_chosen(run, is_named)].append(run)
        seeds = Counter(seed for part in by_values.values() for seed in {run.seed for run in part})
        compared = max(seeds.values()) > 1  # a seed ran with several values
        found += [(base, part) for part in (by_values.values() if compared else [members])]
    bases, settings = [base for base, _ in found], [effective_settings(members[0].config) for _, members in found]
    groups = [
        Group(name, base, own, *_one_per_seed(name, members, notes))
        for name, own, (base, members) in zip(_names(bases, settings), settings, found, strict=True)
    ]
    return sorted(groups, key=lambda group: (group.dataset, group.student))  # otherwise in the order of the runs


def setting_differences(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Settings that differ between groups, each with its value in every group as text; – where a group does not read it.

    Of the settings of one method or trainer, those that differ between the groups that read them. That a group lacks a setting
    which this version does not know is a difference.
    """
    left_out, known = having(in_name=False), all_settings()
    groups_here = {name.split(".")[0] for name in known}
    found = {}
    for name in sorted({name for own in settings for name in own if not left_out(name)}):
        values = [str(own.get(name, "–")) for own in settings]
        of_other_version = name not in known and name.split(".")[0] in groups_here
        if len({value for own, value in zip(settings, values, strict=True) if name in own or of_other_version}) > 1:
            found[name] = values
    return found


def choose_baselines(
    groups: Sequence[Group], asked: str | None, of_studies: Sequence[str], notes: list[str]
) -> dict[str, Group]:
    """Return the baseline of each group by the group's name: a group of the same data set and student.

    Of several, one with the same teacher. The baseline is the one asked for, else that of a study, else KD, else the student
    alone, else the first. Raises UnknownNameError if no group has the name that is asked for.
    """
    known = {name for group in groups for name in _spellings(group)}
    if asked is not None and asked.lower() not in {name.lower() for name in known}:
        near = did_you_mean(asked, known)
        raise UnknownNameError(f"--baseline {asked}: no such method{near or '.'} Known: {listing(sorted(known))}")
    notes += [f"the study's baseline {name} is none of its methods" for name in of_studies if name not in known]
    chosen = {}
    for group in groups:
        family = [other for other in groups if _task(other) == _task(group)]
        for name in (*([asked] if asked is not None else []), *of_studies, "KD", ALONE, family[0].name):
            candidates = [other for other in family if name.lower() in map(str.lower, _spellings(other))]
            if candidates:
                chosen[group.name] = min(candidates, key=lambda other: (other.teacher != group.teacher, other.name != name))
                break
    return chosen


def _task(group: Group) -> tuple[object, ...]:
    """What accuracies must have in common to be compared; held-out training images are another test set."""
    return group.dataset, group.student, group.config.DATASET.VALIDATION


def _spellings(group: Group) -> set[str]:
    """What a group may be called by ``--baseline``."""
    return {group.name, group.method, method_name(group.config), _method(group.config)}


def _not(predicate: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda name: not predicate(name)


def _chosen(run: Run, wanted: Callable[[str], bool]) -> str:
    """A run's settings, those that are wanted, as text."""
    assert run.config is not None
    return repr(sorted((name, value) for name, value in effective_settings(run.config).items() if wanted(name)))


def _method(config: CfgNode) -> str:
    name = method_name(config)
    return ALONE if name == "NONE" else name


def _names(bases: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Unique names of groups: equal ones are extended by the settings in which the groups differ."""
    names = list(bases)
    for base in set(bases):
        same = [i for i, other in enumerate(bases) if other == base]
        differing = setting_differences([settings[i] for i in same])
        leaves = Counter(name.rpartition(".")[2] for name in differing)
        short = {name: leaf if leaves[leaf := name.rpartition(".")[2]] == 1 else name for name in differing}
        for position, i in enumerate(same):
            words = [f"{short[name]} {values[position]}" for name, values in differing.items()]
            names[i] = f"{base} ({', '.join(words)})" if words else base
    return names


def _one_per_seed(name: str, runs: Sequence[Run], notes: list[str]) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Of several runs with one seed, the newest that is finished, or else the newest, and the others; adds a note."""
    by_seed = defaultdict(list)
    for run in runs:
        by_seed[run.seed].append(run)
    kept, left_out = [], []
    for seed, same in sorted(by_seed.items()):
        same.sort(key=lambda run: (run.finished, str(run.starts[-1].get("time", "")) if run.starts else "", run.name))
        kept.append(same[-1])
        left_out += same[:-1]
        if len(same) > 1:
            notes.append(f"{name}, seed {seed}: {same[-1].where} counts, and not {listing(run.where for run in same[:-1])}")
    return tuple(kept), tuple(left_out)
