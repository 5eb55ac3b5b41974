"""The worst population near the one that was measured: leakage that another hive might show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WorstCase:
    """The measure that makes the expected loss largest within a divergence.

    Args:
        loss: its expected loss, the supremum.
        probabilities: of the samples, [n].
        beta: temperature of the Gibbs measure; 0 where it is concentrated on the largest losses,
            infinite where it is the reference.
        divergence: from the reference, nats.
    """

    loss: float
    probabilities: Floats
    beta: float
    divergence: float


def worst_case(losses: ArrayLike, gamma: float, weights: ArrayLike | None = None) -> WorstCase:
    """sup of E_P[loss] over all P with KL(P || Q) <= gamma.

    Zou, Perlaza, Esnaola, Altman, Poor: The Worst-Case Data-Generating Probability Measure in
    Statistical Learning, IEEE JSAIT 2024, theorem 1: it is the Gibbs measure
    dP*/dQ ~ exp(loss / beta), with beta such that the divergence is gamma. With a loss that says
    how much each record leaks, the number is what a population would leak on average that gamma
    nats can tell from this one.

    Assumptions: Q is the samples' own measure, so nothing is said about records unlike any of
    them, and of few samples only a small gamma means anything: from log n on, all weight is on
    the worst one.

    Args:
        losses: of samples from Q, [n].
        gamma: nats, at least 0.
        weights: Q's probabilities of the samples, summing to 1; equal by default.

    Raises:
        ValueError: for a negative gamma, losses that are not finite or wrong weights.
    """
    loss = np.asarray(losses, np.float64)
    n = len(loss)
    q = np.full(n, 1.0 / n) if weights is None else np.asarray(weights, np.float64)
    if not gamma >= 0.0 or not np.isfinite(loss).all():
        raise ValueError(f"gamma must be at least 0 and losses finite, got gamma {gamma}")
    if q.shape != loss.shape or (q < 0.0).any() or abs(float(q.sum()) - 1.0) > 1e-9:
        raise ValueError("weights must be as many probabilities as losses, summing to 1")
    used = loss[q > 0.0]
    spread = float(used.max() - used.min())
    if gamma == 0.0 or spread == 0.0:
        return WorstCase(float(q @ loss), q, math.inf, 0.0)
    top = (loss == used.max()) & (q > 0.0)
    most = -math.log(float(q[top].sum()))
    if gamma >= most:
        peak = np.where(top, q, 0.0) / q[top].sum()
        return WorstCase(float(used.max()), peak, 0.0, most)

    def tilted(log_beta: float) -> Floats:
        power = (loss - used.max()) / math.exp(log_beta)
        p: Floats = q * np.exp(np.where(q > 0.0, power, -np.inf))
        total = float(p.sum())
        return np.asarray(p / total)

    def excess(log_beta: float) -> float:
        return _divergence(tilted(log_beta), q) - gamma

    low = high = math.log(spread)
    while excess(low) < 0.0:
        low -= 2.0
    while excess(high) > 0.0:
        high += 2.0
    root = float(brentq(excess, low, high, xtol=1e-12))
    p = tilted(root)
    return WorstCase(float(p @ loss), p, math.exp(root), _divergence(p, q))


def _divergence(p: Floats, q: Floats) -> float:
    some = p > 0.0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))
