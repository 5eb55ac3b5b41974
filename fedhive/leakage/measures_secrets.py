"""Bounds on what is told of a discrete secret, and information between samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.stats import beta as beta_law

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class FanoBound:
    """Bits that a view tells of a secret, at least.

    Args:
        bits: by the error rate as measured.
        low: holds with the confidence asked for.
        error: rate measured on held-out views.
        high_error: its upper confidence limit.
        held_out: how many views were held out.
    """

    bits: float
    low: float
    error: float
    high_error: float
    held_out: int


def entropy(probabilities: Sequence[float]) -> float:
    """H, bits."""
    return -sum(p * math.log2(p) for p in probabilities if p > 0.0)


def fano(wrong: int, total: int, prior: Sequence[float], confidence: float = 0.95) -> FanoBound:
    """Least information that explains how often a secret was guessed: Fano's inequality.

    I(S; V) >= H(S) - H_b(e) - e log(K - 1) for K values of S and a guess from V that errs with
    probability e (Cover and Thomas, theorem 2.10.1). The confidence limit of e is Clopper and
    Pearson's, one-sided.

    Assumptions: the guesses are of independent views that the guesser was not fitted to, and the
    prior is that of the secret in the population asked about, known rather than estimated.

    Args:
        wrong: guesses that were wrong.
        total: guesses.
        prior: probabilities of the K values, summing to 1.
        confidence: of ``low``.

    Raises:
        ValueError: for impossible counts or a prior that does not sum to 1.
    """
    if not 0 <= wrong <= total or total < 1:
        raise ValueError(f"{wrong} wrong of {total} guesses is impossible")
    if len(prior) < 2 or abs(sum(prior) - 1.0) > 1e-9 or min(prior) < 0.0:
        raise ValueError("the prior must be two or more probabilities that sum to 1")
    high = 1.0 if wrong == total else float(beta_law.ppf(confidence, wrong + 1, total - wrong))
    error = wrong / total
    return FanoBound(_told(error, prior), _told(high, prior), error, high, total)


def _told(error: float, prior: Sequence[float]) -> float:
    k = len(prior)
    error = min(error, 1.0 - 1.0 / k)  # beyond it the inequality says less and less, then nothing
    left = entropy([error, 1.0 - error]) + (error * math.log2(k - 1) if k > 2 else 0.0)
    return max(0.0, entropy(prior) - left)


def told_by_classifier(
    features: ArrayLike,
    secrets: ArrayLike,
    rng: np.random.Generator,
    prior: Sequence[float] | None = None,
    confidence: float = 0.95,
    ridge: float = 1e-3,
) -> FanoBound:
    """`fano` for a linear discriminant that is fitted on half of the views and tried on the rest.

    A lower bound for whatever the features show linearly; a better classifier gives a larger one.

    Args:
        features: what was seen, [n, p].
        secrets: values 0 to K - 1, [n].
        rng: splits the views.
        prior: of the secret; equal probabilities by default.
        confidence: of the bound.
        ridge: share of the mean variance that is added to the common covariance.

    Raises:
        ValueError: if a value of the secret is not among the views that it is fitted on.
    """
    x, s = np.asarray(features, np.float64), np.asarray(secrets, np.int64)
    k = int(s.max()) + 1
    law = [1.0 / k] * k if prior is None else list(prior)
    order = rng.permutation(len(s))
    fitted, held = order[: len(s) // 2], order[len(s) // 2 :]
    if len(np.unique(s[fitted])) != k:
        raise ValueError("some value of the secret is missing among the views fitted on")
    guess = _discriminant(x[fitted], s[fitted], x[held], law, ridge)
    return fano(int((guess != s[held]).sum()), len(held), law, confidence)


def _discriminant(
    x: Floats, s: Integers, asked: Floats, prior: Sequence[float], ridge: float
) -> Integers:
    means = np.stack([x[s == value].mean(0) for value in range(len(prior))])
    centred = x - means[s]
    mean_variance = float(centred.var()) or 1.0
    gram, n = centred @ centred.T / len(x), len(x)
    # (C + r I)^-1 means^T by Woodbury: as many views as there are, however many features.
    r = ridge * mean_variance

    def solve(rows: Floats) -> Floats:
        inner = np.linalg.solve(r * np.eye(n) + gram, centred @ rows.T / len(x))
        return np.asarray((rows - (centred.T @ inner).T) / r)

    solved = solve(means)
    offset = np.log(np.maximum(prior, 1e-300)) - 0.5 * np.einsum("kp,kp->k", means, solved)
    return np.asarray((asked @ solved.T + offset).argmax(1), np.int64)


def binary_gaussian(kl: float) -> float:
    """Bits that a Gaussian view tells of a fair coin whose two laws have divergence ``kl`` nats.

    The means are sqrt(2 KL) standard deviations apart; the integral over the log-likelihood ratio
    is done numerically.
    """
    if kl <= 0.0:
        return 0.0
    half = math.sqrt(2.0 * kl) / 2.0

    def left(t: float) -> float:  # bits that remain, at t deviations from the true mean
        ratio = 2.0 * half * (t + half)
        density = math.exp(-t * t / 2.0) / math.sqrt(2.0 * math.pi)
        return float(density * float(np.logaddexp(0.0, -ratio)) / math.log(2.0))

    remaining = float(quad(left, -12.0, 12.0, limit=200)[0])
    return max(0.0, 1.0 - remaining)


def gaussian_plug_in(x: ArrayLike, y: ArrayLike) -> float:
    """Mutual information of samples as if they were Gaussian, nats: an approximation.

    1/2 log(det C_x det C_y / det C_xy) with sample covariances. For other laws it is neither a
    lower nor an upper bound, and it is biased upwards by about p q / (2 n) for p and q columns.

    Args:
        x: [n, p].
        y: [n, q]; n must exceed p + q.

    Raises:
        ValueError: for too few samples.
    """
    a, b = np.atleast_2d(np.asarray(x, np.float64)), np.atleast_2d(np.asarray(y, np.float64))
    if len(a) <= a.shape[1] + b.shape[1]:
        raise ValueError(f"{len(a)} samples are too few for {a.shape[1]} + {b.shape[1]} columns")
    covariance = np.cov(np.hstack([a, b]).T)
    p = a.shape[1]
    parts = (covariance[:p, :p], covariance[p:, p:], covariance)
    first, second, both = (np.linalg.slogdet(np.atleast_2d(part))[1] for part in parts)
    return float(0.5 * (first + second - both))
