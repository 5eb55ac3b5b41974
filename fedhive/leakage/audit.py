"""Lower bounds on what a mechanism leaks, from an attack's scores on those in and those out.

An audit plays the distinguishing game of differential privacy: one score for each of many
independent runs or records, higher where the attack believes "in". Any test's error rates lie on
or above the mechanism's trade-off curve (Dong, Roth and Su, JRSS-B 2022), so that bounds on the
rates with confidence refute every better privacy than they allow. Nothing here says how private a
mechanism is at least: a weak attack gives a small bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtri
from scipy.stats import beta

Floats = NDArray[np.float64]
Sides = tuple[Floats, Floats]
"""Sorted scores of games in, and of games out."""

MOST_THRESHOLDS = 512
"""Thresholds tried on the first half of the scores: quantiles of them, if there are more."""
CHOOSING = 0.9999
"""Level of the bounds by which the threshold is chosen. The largest of many bounds at the level
of the certificate would often be an extreme threshold's that was lucky: at 0.975, 20,000 games of
a mechanism with eps 10 certify 9.5 on average and now and then 8.6, at 0.9999 9.6 and 9.4."""


@dataclass(frozen=True)
class Audit:
    """What an audit certifies, with probability ``confidence`` over its scores.

    Args:
        mu: lower bound on the Gaussian differential privacy parameter; 0 says nothing.
        eps: lower bound on epsilon at ``delta``.
        delta: of the (epsilon, delta) statement.
        confidence: of both bounds together (they are one event).
        threshold: a score at or above it counted as "in"; chosen on the other half.
        fpr: upper confidence bound on the false positive rate at it.
        fnr: upper confidence bound on the false negative rate.
    """

    mu: float
    eps: float
    delta: float
    confidence: float
    threshold: float
    fpr: float
    fnr: float


def gaussian_delta(mu: ArrayLike, eps: ArrayLike) -> Floats:
    """delta(eps) of a mu-GDP mechanism: Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2).

    Dong, Roth and Su 2022, corollary 1; exact for the Gaussian mechanism of sensitivity mu times
    its deviation (Balle and Wang, ICML 2018).

    Args:
        mu: above 0.
        eps: any real number at or above 0, broadcast with ``mu``.
    """
    mu, eps = np.asarray(mu, np.float64), np.asarray(eps, np.float64)
    first = log_ndtr(-eps / mu + mu / 2)
    gap = eps + log_ndtr(-eps / mu - mu / 2) - first
    return np.asarray(-np.exp(first) * np.expm1(np.minimum(gap, 0.0)), np.float64)


def gaussian_eps(mu: float, delta: float) -> float:
    """The least epsilon at or above 0 that a mu-GDP mechanism has at ``delta`` in (0, 1).

    Raises:
        ValueError: for a negative ``mu`` or a ``delta`` outside (0, 1).
    """
    _check_delta(delta)
    if mu < 0 or not np.isfinite(mu):
        raise ValueError(f"mu must be finite and at least 0, got {mu}")
    if mu == 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    most = mu * (mu / 2 - float(ndtri(delta)))  # where the first term alone is delta
    return float(brentq(lambda eps: float(gaussian_delta(mu, eps)) - delta, 0.0, most + 1.0))


def clopper_pearson(successes: ArrayLike, trials: int, confidence: float) -> Floats:
    """One-sided upper confidence bound on a probability (Clopper and Pearson 1934).

    Args:
        successes: counts, of any shape.
        trials: n; the bound is 1 where there are none.
        confidence: of each bound by itself.

    Returns:
        float64 of the same shape: the largest p with P(Binomial(n, p) <= k) >= 1 - confidence.
    """
    k = np.asarray(successes, np.float64)
    upper = np.ones_like(k)
    below = k < trials
    upper[below] = beta.ppf(confidence, k[below] + 1, trials - k[below])
    return upper


def audit_gaussian(
    inside: ArrayLike,
    outside: ArrayLike,
    *,
    delta: float,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> Audit:
    """Lower bound on mu, and on eps(delta) of a mechanism known to be Gaussian.

    The scores are halved at random. On the first half the threshold is chosen that would certify
    most; on the second, untouched by the choice, FPR and FNR at it are bounded from above by
    Clopper-Pearson at level (1 + confidence) / 2 each, and

        mu >= Phi^-1(1 - FPR) - Phi^-1(FNR)

    (Nasr et al., "Tight auditing of differentially private machine learning", USENIX 2023).

    Assumptions: the scores of ``inside`` are independent and identically distributed, those of
    ``outside`` too, and each comes from a game of its own (scores of records of one training run
    are not quite independent). "Not mu'-GDP for any mu' below mu" holds for every mechanism;
    ``eps`` assumes besides that the trade-off curve is Gaussian, as for the Gaussian mechanism and
    its compositions. With subsampling, say, it is not: use `audit_any`.

    Args:
        inside: scores of games in which the target took part, [n].
        outside: scores of games in which it did not, [m].
        delta: in (0, 1).
        rng: halves the scores.
        confidence: probability that the bound holds.

    Raises:
        ValueError: fewer than two scores on a side, NaN among them, or a bad level.
    """
    chosen, held = _halves(inside, outside, rng, confidence)
    level = (1.0 + confidence) / 2.0
    candidates = _candidates(chosen)
    fpr, fnr = _rates(chosen, candidates, CHOOSING)
    threshold = float(candidates[int(np.argmax(_mu(fpr, fnr)))])
    fpr, fnr = _rates(held, np.asarray([threshold]), level)
    mu = max(0.0, float(_mu(fpr, fnr)[0]))
    eps = gaussian_eps(mu, delta)
    return Audit(mu, eps, delta, confidence, threshold, float(fpr[0]), float(fnr[0]))


def audit_any(
    inside: ArrayLike,
    outside: ArrayLike,
    *,
    delta: float,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> Audit:
    """Lower bound on eps(delta) of any mechanism; looser than `audit_gaussian` where that holds.

    Every (eps, delta)-private mechanism has TPR <= e^eps FPR + delta and TNR <= e^eps FNR + delta
    (Kairouz, Oh and Viswanath, ICML 2015), hence

        eps >= max(log((1 - delta - FNR) / FPR), log((1 - delta - FPR) / FNR)),

    which is log(TPR / FPR) at delta 0. Halves, threshold and bounds as in `audit_gaussian`; so is
    what is assumed of the scores, and nothing else is assumed.

    Args:
        inside: scores of games in which the target took part, [n].
        outside: scores of games in which it did not, [m].
        delta: in [0, 1).
        rng: halves the scores.
        confidence: probability that the bound holds.

    Raises:
        ValueError: as `audit_gaussian`.
    """
    if not 0.0 <= delta < 1.0:
        raise ValueError(f"delta must be in [0, 1), got {delta}")
    chosen, held = _halves(inside, outside, rng, confidence)
    level = (1.0 + confidence) / 2.0
    candidates = _candidates(chosen)
    fpr, fnr = _rates(chosen, candidates, CHOOSING)
    threshold = float(candidates[int(np.argmax(_log_ratio(fpr, fnr, delta)))])
    fpr, fnr = _rates(held, np.asarray([threshold]), level)
    eps = max(0.0, float(_log_ratio(fpr, fnr, delta)[0]))
    mu = max(0.0, float(_mu(fpr, fnr)[0]))
    return Audit(mu, eps, delta, confidence, threshold, float(fpr[0]), float(fnr[0]))


def _mu(fpr: Floats, fnr: Floats) -> Floats:
    # fpr = fnr = 1 would be -inf - inf; both are bounds, so that below 0 is all the same.
    return np.asarray(-ndtri(np.minimum(fpr, 1 - 1e-12)) - ndtri(np.minimum(fnr, 1 - 1e-12)))


def _log_ratio(fpr: Floats, fnr: Floats, delta: float) -> Floats:
    tiny = np.finfo(np.float64).tiny
    sides = ((1.0 - delta - fnr, fpr), (1.0 - delta - fpr, fnr))
    logs = [np.log(np.maximum(top, tiny)) - np.log(bottom) for top, bottom in sides]
    return np.asarray(np.maximum(*logs), np.float64)


def _rates(sides: Sides, at: Floats, level: float) -> tuple[Floats, Floats]:
    """Upper bounds on (FPR, FNR) at each threshold [k]."""
    inside, outside = sides
    positives = len(outside) - np.searchsorted(outside, at, side="left")
    negatives = np.searchsorted(inside, at, side="left")
    return (
        clopper_pearson(positives, len(outside), level),
        clopper_pearson(negatives, len(inside), level),
    )


def _candidates(sides: Sides) -> Floats:
    """Thresholds worth trying: midway between neighbouring scores, at most `MOST_THRESHOLDS`."""
    scores = np.unique(np.concatenate(sides))
    if len(scores) == 1:
        return scores
    middles = scores[:-1] + np.diff(scores) / 2
    if len(middles) <= MOST_THRESHOLDS:
        return middles
    picked = np.linspace(0, len(middles) - 1, MOST_THRESHOLDS).round().astype(np.int64)
    return np.asarray(middles[picked])


def _halves(
    inside: ArrayLike, outside: ArrayLike, rng: np.random.Generator, confidence: float
) -> tuple[Sides, Sides]:
    """The half to choose on and the half to certify on, sorted."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    first: list[Floats] = []
    second: list[Floats] = []
    for name, side in (("inside", inside), ("outside", outside)):
        scores = np.asarray(side, np.float64)
        if scores.ndim != 1 or len(scores) < 2:
            raise ValueError(f"at least two scores {name} are needed, as a vector")
        if np.isnan(scores).any():
            raise ValueError(f"a score {name} is NaN")
        order = rng.permutation(len(scores))
        half = len(scores) // 2
        first.append(np.sort(scores[order[:half]]))
        second.append(np.sort(scores[order[half:]]))
    return (first[0], first[1]), (second[0], second[1])


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
