"""How well an inference attack does, with intervals: AUC, TPR at low FPR, success of a guess.

Only scoring may hold the truth (who was a member, which value was right); attacks return scores
alone. All intervals treat the records as independent draws given everything else: they are about
this run's trained models, and say nothing of the spread over runs or seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtri
from scipy.stats import beta, binom, rankdata
from scipy.stats import t as student

Floats = NDArray[np.float64]

FPRS = (0.01, 0.001)
"""False positive rates at which membership attacks are compared (Carlini et al., S&P 2022)."""


@dataclass(frozen=True)
class Interval:
    """A measured number and its confidence interval.

    Args:
        value: the estimate; NaN where the sample is too small for one.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Membership:
    """How well scores tell members from others.

    Args:
        auc: probability that a member scores above a non-member, ties counting half.
        tpr: true positive rate at each false positive rate asked for.
        members: number of members.
        others: number of non-members.
        confidence: of each interval.
    """

    auc: Interval
    tpr: dict[float, Interval]
    members: int
    others: int
    confidence: float


def score_membership(
    scores: ArrayLike,
    member: ArrayLike,
    fprs: Sequence[float] = FPRS,
    confidence: float = 0.95,
) -> Membership:
    """AUC and TPR at low FPR of membership scores, with intervals.

    Args:
        scores: [n], higher for members.
        member: [n], the truth.
        fprs: false positive rates.
        confidence: of each interval by itself.

    Raises:
        ValueError: shapes differ, a score is NaN, or there are no members or no others.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(member, np.bool_)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError("scores and membership must be vectors of the same length")
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    inside, outside = values[truth], values[~truth]
    if not len(inside) or not len(outside):
        raise ValueError("there must be members and others")
    tpr = {fpr: tpr_at(inside, outside, fpr, confidence) for fpr in fprs}
    found = auc(inside, outside, confidence)
    return Membership(found, tpr, len(inside), len(outside), confidence)


def auc(inside: Floats, outside: Floats, confidence: float = 0.95) -> Interval:
    """Area under the ROC curve with DeLong's interval on the logit scale.

    Variance by the structural components of DeLong, DeLong and Clarke-Pearson (Biometrics 1988).
    Where it is 0, as for scores that separate perfectly, Newcombe's interval from Hanley and
    McNeil's variance (Statistics in Medicine 2006, method 5), which never degenerates.

    Args:
        inside: scores of members, [m].
        outside: scores of others, [n].
        confidence: of the interval.
    """
    m, n = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    of_inside = (ranks[:m] - rankdata(inside)) / n  # share of others below each member
    of_outside = 1.0 - (ranks[m:] - rankdata(outside)) / m
    value = float(of_inside.mean())
    z = float(ndtri((1 + confidence) / 2))
    variance = _variance(of_inside) / m + _variance(of_outside) / n
    if variance <= 0 or not 0 < value < 1:
        low, high = _newcombe(value, m, n, z)
    else:
        width = z * math.sqrt(variance) / (value * (1 - value))
        low, high = (float(expit(logit(value) + sign * width)) for sign in (-1, 1))
    return Interval(value, low, high)


def tpr_at(inside: Floats, outside: Floats, fpr: float, confidence: float = 0.95) -> Interval:
    """True positive rate at a false positive rate; no distribution is assumed.

    The estimate takes the lowest threshold at which at most ``fpr`` of the others score at or
    above it; with fewer than 1 / fpr others there is none (NaN). The interval holds for the true
    rate at the true threshold: with Bonferroni, a confidence interval of that quantile by order
    statistics, then Clopper-Pearson's of the share of members above its ends. It is exact, and
    wide: where all others together do not bound the quantile from above, the lower end is 0.

    Args:
        inside: scores of members, [m].
        outside: scores of others, [n].
        fpr: in (0, 1).
        confidence: of the interval.
    """
    m, n = len(inside), len(outside)
    ordered = np.sort(outside)[::-1]
    allowed = math.floor(fpr * n + 1e-9)
    value = math.nan
    if allowed >= 1:
        above = inside > ordered[allowed] if allowed < n else np.ones(m, np.bool_)
        value = float(np.mean(above))
    error = (1 - confidence) / 4  # two ends of two intervals
    strict, loose = _quantile_ranks(n, fpr, error)
    low, high = 0.0, 1.0
    if strict is not None:
        k = int(np.sum(inside > ordered[strict]))
        low = float(beta.ppf(error, k, m - k + 1)) if k else 0.0
    if loose is not None:
        k = int(np.sum(inside >= ordered[loose]))
        high = float(beta.ppf(1 - error, k + 1, m - k)) if k < m else 1.0
    return Interval(value, low, high)


def proportion(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share of successes, such as guessed attributes, with Clopper and Pearson's interval."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    error = (1 - confidence) / 2
    low = float(beta.ppf(error, successes, trials - successes + 1)) if successes else 0.0
    high = (
        float(beta.ppf(1 - error, successes + 1, trials - successes))
        if successes < trials
        else 1.0
    )
    return Interval(successes / trials, low, high)


def over_subjects(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of shares over subjects and Student's interval within [0, 1]; NaN for one subject."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    margin = float(student.ppf((1 + confidence) / 2, len(values) - 1)) * spread
    return Interval(mean, max(0.0, mean - margin), min(1.0, mean + margin))


def _quantile_ranks(n: int, fpr: float, error: float) -> tuple[int | None, int | None]:
    """Indices, from the largest, of others' scores that enclose the true threshold; None if none.

    The number of others above the true threshold is Binomial(n, fpr): the score of index i lies
    above it with probability P(B > i), and the first is not below it with P(B <= i) likewise.
    """
    # The score of index i is at or above the threshold exactly if more than i lie there.
    counts = np.arange(n + 1)
    below = binom.cdf(counts, n, fpr)  # P(B <= i)
    sure_above = np.flatnonzero(1 - below >= 1 - error)  # P(B > i) high: score i above threshold
    sure_below = np.flatnonzero(below >= 1 - error)  # P(B <= i) high: score i below threshold
    strict = int(sure_above[-1]) if len(sure_above) else None
    loose = int(sure_below[0]) if len(sure_below) and sure_below[0] < n else None
    return strict, loose


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _newcombe(value: float, m: int, n: int, z: float) -> tuple[float, float]:
    """Newcombe's interval, method 5: |theta - value| = z * sd(theta), solved for theta."""
    mean = (m + n) / 2 - 1

    def excess(theta: float) -> float:
        spread = theta * (1 - theta) / (m * n)
        spread *= 1 + mean * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (theta - value) ** 2 - z**2 * spread

    inner = min(max(value, 1e-9), 1 - 1e-9)  # 0 and 1 themselves always solve it
    low = 0.0 if value <= 0 else float(brentq(excess, 0.0, inner))
    high = 1.0 if value >= 1 else float(brentq(excess, inner, 1.0))
    return low, high
