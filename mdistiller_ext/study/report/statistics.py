"""Statistics of a comparison: means and deviations, paired differences with intervals, and the sign-flip test.

Runs of two methods with the same seed have the same initial weights and the same order of the training images, so their
accuracies are compared in pairs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
_RESAMPLES = 99_999  # all sign flips of up to 16 seeds: the test of these is exact

Interval = tuple[float, float]


@dataclass(frozen=True)
class Sample:
    """Mean and standard deviation (n - 1) of ``n`` values; None where there are too few."""

    n: int
    mean: float | None
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Mean and standard deviation of these values."""
        n = len(values)
        return cls(n, float(np.mean(values)) if n else None, float(np.std(values, ddof=1)) if n > 1 else None)


@dataclass(frozen=True)
class Paired:
    """A method's accuracies minus those of the baseline, by seed.

    Attributes:
        differences: in points, by seed, for the seeds that both have.
        mean: their mean.
        bootstrap: 95 % interval of the mean, by resampling; None for one seed or equal differences.
        t: 95 % interval of the mean, by Student's t distribution; None as ``bootstrap``.
        p: two-sided p of the sign-flip test.
        adjusted_p: p by Holm's method for all comparisons of a report.
        comparisons: number of these.
    """

    differences: dict[int, float]
    mean: float
    bootstrap: Interval | None
    t: Interval | None
    p: float
    adjusted_p: float
    comparisons: int

    @property
    def better(self) -> int:
        """Number of seeds for which the method is better than the baseline."""
        return sum(difference > 0 for difference in self.differences.values())

    @property
    def verdict(self) -> str:
        """What the test can tell, in words."""
        n, smallest = len(self.differences), smallest_p(len(self.differences))
        if smallest > SIGNIFICANCE:
            return f"{n} seed{'s' * (n > 1)} cannot tell (smallest possible p {smallest:g})"
        if self.p > SIGNIFICANCE:
            return f"no difference shown (p = {self.p:.2g})"
        direction = "better" if self.mean > 0 else "worse"
        beyond = f"; not after Holm's correction for {self.comparisons} comparisons (p = {self.adjusted_p:.2g})"
        return f"{direction} (p = {self.p:.2g}{beyond if self.adjusted_p > SIGNIFICANCE else ''})"


def compare(samples: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[Paired | None]:
    """Compare pairs of methods, each as accuracies by seed, the baseline second; None for a pair without a common seed."""
    # Rounded, so that differences of decimal fractions that are equal remain so.
    differences = [
        {seed: round(ours[seed] - theirs[seed], 9) for seed in sorted(ours.keys() & theirs)} for ours, theirs in samples
    ]
    found = [list(each.values()) for each in differences if each]
    p = [sign_flip_p(values) for values in found]
    results = iter(
        Paired(each, float(np.mean(values)), bootstrap_interval(values), t_interval(values), own, adjusted, len(p))
        for each, values, own, adjusted in zip(filter(None, differences), found, p, holm(p), strict=True)
    )
    return [next(results) if each else None for each in differences]


def smallest_p(n: int) -> float:
    """The smallest two-sided p that a sign-flip test of ``n`` differences can have."""
    return 2.0 ** min(1 - n, 0)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of the sign-flip test: how often random signs give a mean at least as far from 0. Exact for up to 16."""
    if len(differences) < 2:
        return 1.0
    found = stats.permutation_test(
        (np.asarray(differences),),
        np.mean,
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        batch=10_000,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def bootstrap_interval(values: Sequence[float]) -> Interval | None:
    """Bias-corrected and accelerated bootstrap interval of the mean, of fixed random numbers; None without any spread."""
    if len(set(values)) < 2:
        return None
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():  # where the first method fails, the other is taken
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (np.asarray(values),), np.mean, confidence_level=CONFIDENCE, method=method, rng=np.random.default_rng(0)
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return float(found.low), float(found.high)


def t_interval(values: Sequence[float]) -> Interval | None:
    """Interval of the mean of normally distributed values; None without any spread."""
    if len(set(values)) < 2:
        return None
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(low), float(high)


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values for their number by Holm's step-down method (Holm 1979)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        highest = max(highest, min(1.0, p[index] * (len(p) - rank)))
        adjusted[index] = highest
    return adjusted
