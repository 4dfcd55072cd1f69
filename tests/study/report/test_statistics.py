"""Paired statistics against values computed by hand."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest

from mdistiller_ext.study.report.statistics import (
    Sample,
    bootstrap_interval,
    compare,
    holm,
    sign_flip_p,
    smallest_p,
    t_interval,
)

BASELINE = {0: 70.0, 1: 71.0, 2: 69.0, 3: 70.5, 4: 70.2, 5: 69.9}


def above(*differences: float) -> dict[int, float]:
    return {seed: BASELINE[seed] + difference for seed, difference in enumerate(differences)}


def test_samples_of_no_one_and_several_values() -> None:
    assert Sample.of([]) == Sample(0, None, None)
    assert Sample.of([3.0]) == Sample(1, 3.0, None)
    assert Sample.of([1.0, 2.0, 6.0]) == Sample(3, 3.0, pytest.approx(math.sqrt(7)))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0], 1.0),
        ([1.0, 2.0], 0.5),
        ([0.1, 0.2, 0.3], 0.25),
        ([-0.1, -0.2, -0.3], 0.25),
        ([0.1, 0.2, -0.3], 1.0),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.03125),
        ([0.0, 0.0, 0.0], 1.0),
        ([0.5] * 7, 2 / 2**7),
    ],
)
def test_sign_flip_p(differences: list[float], p: float) -> None:
    assert sign_flip_p(differences) == p
    assert p >= smallest_p(len(differences))


def test_sign_flip_p_counts_all_flips() -> None:
    values = [0.4, -0.1, 0.7, 0.2, -0.3, 0.55, 0.05]
    flips = itertools.product((1, -1), repeat=len(values))
    sums = [abs(sum(sign * value for sign, value in zip(signs, values, strict=True))) for signs in flips]
    assert sign_flip_p(values) == pytest.approx(sum(total >= abs(sum(values)) - 1e-12 for total in sums) / 2**7)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_intervals() -> None:
    values = [0.1, 0.4, 0.3, 0.7, 0.2]
    mean, half = statistics.mean(values), 2.7764451 * statistics.stdev(values) / math.sqrt(5)  # t of 4 degrees of freedom
    assert t_interval(values) == pytest.approx((mean - half, mean + half))
    bootstrap, t = bootstrap_interval(values), t_interval(values)
    assert bootstrap is not None
    assert t is not None
    assert t[0] < bootstrap[0] < mean < bootstrap[1] < t[1]  # the bootstrap of few seeds is too narrow
    assert bootstrap == bootstrap_interval(values)


@pytest.mark.parametrize("values", [[], [0.3], [0.3, 0.3, 0.3]])
def test_there_is_no_interval_without_spread(values: list[float]) -> None:
    assert bootstrap_interval(values) is None
    assert t_interval(values) is None


def test_pairs_are_made_by_seed_and_not_by_order() -> None:
    ours = dict(reversed(above(0.1, 0.2, 0.3).items())) | {9: 50.0}
    (paired,) = compare([(ours, BASELINE)])
    assert paired is not None
    assert paired.differences == {0: 0.1, 1: 0.2, 2: 0.3}  # exact: differences of decimal fractions are rounded
    assert (paired.mean, paired.better) == (pytest.approx(0.2), 3)
    assert compare([({8: 1.0}, BASELINE), (above(1.0), BASELINE)])[0] is None


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.5,), "1 seed cannot tell (smallest possible p 1)"),
        ((0.5, 0.5, 0.5), "3 seeds cannot tell (smallest possible p 0.25)"),
        ((0.1, 0.2, 0.3, 0.4, 0.5), "5 seeds cannot tell (smallest possible p 0.0625)"),
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), "better (p = 0.031)"),
        ((-0.1, -0.2, -0.3, -0.4, -0.5, -0.6), "worse (p = 0.031)"),
        ((0.1, 0.2, -0.3, 0.4, 0.5, 0.6), "no difference shown (p = 0.16)"),
        ((0.0,) * 6, "no difference shown (p = 1)"),
    ],
)
def test_verdicts(differences: tuple[float, ...], verdict: str) -> None:
    (paired,) = compare([(above(*differences), BASELINE)])
    assert paired is not None
    assert paired.verdict == verdict


def test_a_verdict_names_the_correction_that_it_does_not_survive() -> None:
    better = above(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    first, _ = compare([(better, BASELINE), (better, BASELINE)])
    assert first is not None
    assert first.adjusted_p == 0.0625
    assert first.verdict == "better (p = 0.031; not after Holm's correction for 2 comparisons (p = 0.062))"
