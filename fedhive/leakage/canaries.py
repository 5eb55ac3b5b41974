"""One-shot empirical privacy: clients whose updates are random directions, found again by cosine.

Andrew, Kairouz, Oh, Oprea, McMahan and Suriyakumar, "One-shot empirical privacy estimation for
federated learning", ICLR 2024. One run of training tells, as independent random directions in high
dimension are nearly orthogonal: each of the k canaries is a game of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtr
from scipy.stats import chi2
from scipy.stats import t as student

from fedhive import seeding
from fedhive.leakage.audit import gaussian_eps

Floats = NDArray[np.float64]

LARGEST = 500.0
"""Epsilons are sought up to here; a larger one is given as infinity."""


@dataclass(frozen=True)
class Estimate:
    """What one run of canaries says.

    Args:
        eps: estimate of epsilon at ``delta``, of `gaussian_eps` at ``mu``; not a bound.
        low: lower end of its confidence interval.
        high: upper end.
        eps_fitted: the published estimate, which also uses the fitted deviation; without an
            interval, as it is biased upwards.
        delta: of the (epsilon, delta) statement.
        confidence: of the intervals.
        mu: sqrt(d) times the mean cosine: the separation in deviations of the null law.
        mu_low: lower end of its confidence interval.
        mu_high: upper end.
        spread: deviation of the cosines times sqrt(d); 1 where canaries do not disturb each other.
        spread_p: two-sided p-value of the chi-squared test that it is 1.
        canaries: how many.
    """

    eps: float
    low: float
    high: float
    eps_fitted: float
    delta: float
    confidence: float
    mu: float
    mu_low: float
    mu_high: float
    spread: float
    spread_p: float
    canaries: int


def canary(seed: int, number: int, size: int) -> NDArray[np.float32]:
    """A direction drawn uniformly from the unit sphere, float32 [size].

    Equal arguments give equal bits, so that the auditor need not keep the directions.

    Args:
        seed: the audit's own; whoever knows it knows all canaries.
        number: which canary.
        size: d, number of parameters.
    """
    values = seeding.stream(seed, "canary", number).standard_normal(size)
    return np.asarray(values / np.linalg.norm(values), np.float32)


def cosines(released: ArrayLike, seed: int, count: int) -> Floats:
    """`cosines_of` the canaries numbered from 0, float64 [count]."""
    return cosines_of(released, seed, range(count))


def cosines_of(released: ArrayLike, seed: int, numbers: Sequence[int]) -> Floats:
    """Cosine of each of these canaries with what was released, float64.

    Args:
        released: the noisy sum of updates of a round, or the final model minus the initial one,
            [d]; not all zero.
        seed: of the canaries.
        numbers: which of them took part.

    Raises:
        ValueError: if ``released`` is zero or not finite.
    """
    target = np.asarray(released, np.float64).ravel()
    norm = float(np.linalg.norm(target))
    if not np.isfinite(norm) or norm == 0:
        raise ValueError("what was released must be finite and not all zero")
    found = [canary(seed, number, target.size).astype(np.float64) @ target for number in numbers]
    return np.asarray(found, np.float64) / norm


def one_shot(found: ArrayLike, size: int, *, delta: float, confidence: float = 0.95) -> Estimate:
    """Estimate of epsilon from the cosines of canaries that took part once in one run.

    A direction that took no part has a cosine of N(0, 1 / d). Andrew et al. (section 3) fit
    N(m, s^2) to those that did and take the epsilon between the two laws: ``eps_fitted``. That is
    biased upwards: any s beside 1 / sqrt(d), also one that is only an error of k cosines, adds
    tails, and at small delta tails decide (of 200 simulated runs with k = 100, its interval covers
    the truth in 139). As the deviation is known where canaries do not disturb each other,
    ``eps`` takes it as known; ``spread_p`` says whether that fits.

    Assumptions: the release depends on a canary only through its linear part in the sum; d is
    large (the null law is exact up to O(1/d)) and so much larger than k that canaries hardly
    disturb each other: for a sum of k unit canaries, benign updates of total norm b and noise of
    deviation sigma, mu tends to 1 / sqrt(sigma^2 + (k + b^2) / d), below the mechanism's
    1 / sigma. It is the estimate for an adversary who sees the release alone and whose data are
    random; a worst-case one may do better.

    Args:
        found: cosines, [k], k at least 3.
        size: d, number of parameters.
        delta: in (0, 1).
        confidence: of the intervals, by Student's t.

    Raises:
        ValueError: fewer than three cosines, all equal, or a level out of range.
    """
    values = np.asarray(found, np.float64)
    if values.ndim != 1 or len(values) < 3:
        raise ValueError("at least three cosines are needed, as a vector")
    if not 0 < delta < 1 or not 0 < confidence < 1:
        raise ValueError(f"delta and confidence must be in (0, 1), got {delta}, {confidence}")
    k, root = len(values), math.sqrt(size)
    mu, spread = float(values.mean()) * root, float(values.std(ddof=1)) * root
    if not spread > 0:
        raise ValueError("the cosines are all equal")
    margin = float(student.ppf((1 + confidence) / 2, k - 1)) * spread / math.sqrt(k)
    tail = float(chi2.cdf((k - 1) * spread**2, k - 1))
    eps, low, high = (gaussian_eps(max(x, 0.0), delta) for x in (mu, mu - margin, mu + margin))
    fitted = float(two_gaussians_eps(mu, spread, delta))
    return Estimate(
        *(eps, low, high, fitted, delta, confidence),
        *(mu, mu - margin, mu + margin, spread, 2 * min(tail, 1 - tail), k),
    )


def two_gaussians_delta(mean: ArrayLike, deviation: ArrayLike, eps: ArrayLike) -> Floats:
    """The larger hockey-stick divergence between N(mean, deviation^2) and N(0, 1) at eps.

    max over both orders (P, Q) of the integral of max(p - e^eps q, 0); arguments broadcast. At
    deviation 1 it is `fedhive.leakage.audit.gaussian_delta` of |mean|.
    """
    m, s, e = np.broadcast_arrays(
        np.abs(np.asarray(mean, np.float64)),
        np.asarray(deviation, np.float64),
        np.asarray(eps, np.float64),
    )
    one = np.ones_like(m)
    # The second order, rescaled so that Q is the standard Gaussian: P = N(m / s, 1 / s^2).
    return np.maximum(_hockey_stick(m, s, e), _hockey_stick(m / s, one / s, e))


def _hockey_stick(m: Floats, s: Floats, eps: Floats) -> Floats:
    """The integral of max(p - e^eps q, 0) for p of N(m, s^2) and q of N(0, 1)."""
    # log(p / q) - eps = a x^2 + b x + c
    a = 0.5 - 0.5 / s**2
    b = m / s**2
    c = -np.log(s) - 0.5 * (m / s) ** 2 - eps
    flat = np.abs(a) < 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        edge = -c / b
        half = np.where(b > 0, _above(edge, m, s, eps), np.where(c > 0, -np.expm1(eps), 0.0))
        root = np.sqrt(np.maximum(b**2 - 4 * a * c, 0.0))
        ends = (-b - root) / (2 * a), (-b + root) / (2 * a)
        low, high = np.minimum(*ends), np.maximum(*ends)
        none = b**2 - 4 * a * c <= 0
        inner = _between(low, high, m, s, eps)
        outer = _above(high, m, s, eps) + _below(low, m, s, eps)
    between = np.where(none, 0.0, inner)
    outside = np.where(none, -np.expm1(eps), outer)
    found = np.where(flat, half, np.where(a < 0, between, outside))
    return np.asarray(np.maximum(found, 0.0))


def _above(x: Floats, m: Floats, s: Floats, eps: Floats) -> Floats:
    return np.asarray(ndtr((m - x) / s) - np.exp(eps + log_ndtr(-x)))


def _below(x: Floats, m: Floats, s: Floats, eps: Floats) -> Floats:
    return np.asarray(ndtr((x - m) / s) - np.exp(eps + log_ndtr(x)))


def _between(low: Floats, high: Floats, m: Floats, s: Floats, eps: Floats) -> Floats:
    ours = ndtr((high - m) / s) - ndtr((low - m) / s)
    # From the far side where both ends are positive, so that tails do not cancel.
    flip = low > 0
    top, bottom = np.where(flip, -low, high), np.where(flip, -high, low)
    theirs = np.exp(eps + log_ndtr(top)) - np.exp(eps + log_ndtr(bottom))
    return np.asarray(ours - theirs)


def two_gaussians_eps(mean: ArrayLike, deviation: ArrayLike, delta: float) -> Floats:
    """The least eps at or above 0 at which `two_gaussians_delta` is at most ``delta``.

    By bisection to 1e-9; infinity above `LARGEST`. Arguments broadcast.
    """
    m, s = np.broadcast_arrays(np.asarray(mean, np.float64), np.asarray(deviation, np.float64))
    low, high = np.zeros_like(m), np.full_like(m, LARGEST)
    beyond = two_gaussians_delta(m, s, high) > delta
    for _ in range(40):
        middle = (low + high) / 2
        more = two_gaussians_delta(m, s, middle) > delta
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    none = two_gaussians_delta(m, s, np.zeros_like(m)) <= delta
    return np.asarray(np.where(none, 0.0, np.where(beyond, np.inf, high)))
