"""Scores of reconstructions: the only place that ever holds the truth.

Attacks hand in samples; here they are matched one to one with the real ones and judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment

from fedhive.leakage.view import View

Array = NDArray[Any]
RECOVERED_DB = 30.0
"""PSNR from which a sample counts as recovered: hardly to be told from the original by eye."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The examples that a subject really trained on.

    Args:
        x: float32 [n, ...], in the units of training.
        y: int64 [n].
        low: smallest value of an input.
        high: largest.
    """

    x: Array
    y: Array
    low: float = 0.0
    high: float = 1.0

    def tell_labels(self, view: View) -> View:
        """The view of somebody who was told the classes: an upper bound, to be named as such."""
        labels = tuple(int(label) for label in np.sort(self.y))
        return replace(view, knows=replace(view.knows, labels=labels, examples=len(labels)))


@dataclass(frozen=True, eq=False)
class Leakage:
    """How much of the truth was reconstructed; arrays are by true example.

    Args:
        psnr: dB, -inf where no sample was assigned.
        ssim: structural similarity, for images; NaN for others and where none was assigned.
        found: index of the sample assigned to each example, -1 for none.
        identified: share of the assigned samples whose nearest neighbour in the pool is their
            own original; NaN without a pool.
        certified: number of certified samples, ``wrong`` of them belong to no true example.
        wrong: false certificates.
    """

    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]
    found: NDArray[np.int64]
    identified: float
    certified: int
    wrong: int

    @property
    def recall(self) -> float:
        """Share of the examples recovered with at least 30 dB."""
        return float(np.mean(self.psnr >= RECOVERED_DB))

    @property
    def precision(self) -> float:
        """Share of the certificates that are right; NaN without certificates."""
        return 1.0 - self.wrong / self.certified if self.certified else math.nan

    def summary(self) -> dict[str, float]:
        """Plain numbers for tables."""
        some = self.psnr[np.isfinite(self.psnr)]
        similar = self.ssim[np.isfinite(self.ssim)]
        return {
            "psnr_mean": float(np.mean(some)) if len(some) else math.nan,
            "psnr_best": float(np.max(some)) if len(some) else math.nan,
            "ssim_mean": float(np.mean(similar)) if len(similar) else math.nan,
            "recall": self.recall,
            "identified": self.identified,
            "certified": float(self.certified),
            "certificate_precision": self.precision,
        }


MOST_DB = 160.0
"""Equal to float32's last bit; PSNR is cut here so that means stay finite."""


def psnr(errors: Array, span: float) -> Array:
    """Peak signal-to-noise ratio in dB of mean squared errors, for a range of ``span``."""
    floor = span**2 * 10 ** (-MOST_DB / 10)
    return np.asarray(10 * np.log10(span**2 / np.maximum(errors, floor)))


def ssim(one: Array, other: Array, span: float, window: int = 7) -> float:
    """Structural similarity of two images (Wang et al. 2004), a uniform window, mean of channels.

    Args:
        one: [channels, height, width].
        other: of the same shape.
        span: the values' range.
        window: side of the window, pixels; cut to the image's smaller side.
    """
    size = min(window, one.shape[-1], one.shape[-2])
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    values = []
    for a, b in zip(one.astype(np.float64), other.astype(np.float64), strict=True):
        mean_a, mean_b = uniform_filter(a, size), uniform_filter(b, size)
        unbiased = size**2 / (size**2 - 1) if size > 1 else 1.0
        var_a = unbiased * (uniform_filter(a * a, size) - mean_a**2)
        var_b = unbiased * (uniform_filter(b * b, size) - mean_b**2)
        both = unbiased * (uniform_filter(a * b, size) - mean_a * mean_b)
        top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
        bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
        inner = slice(size // 2, None if size < 3 else -(size // 2))
        values.append(float(np.mean((top / bottom)[inner, inner])))
    return float(np.mean(values))


def score(
    samples: Array,
    truth: Truth,
    certified: Sequence[bool] | NDArray[np.bool_] | None = None,
    pool: Array | None = None,
) -> Leakage:
    """Match samples with true examples one to one (least total error), and judge.

    Args:
        samples: float32 [k, ...].
        truth: the real examples.
        certified: bool [k].
        pool: further examples of the same kind [m, ...] among which an original must be found.
    """
    n, k = len(truth.x), len(samples)
    span = truth.high - truth.low
    found = np.full(n, -1, np.int64)
    decibel = np.full(n, -np.inf)
    similar = np.full(n, np.nan)
    real = truth.x.reshape(n, -1).astype(np.float64)
    flat = np.nan_to_num(samples.reshape(k, real.shape[1]).astype(np.float64))
    made = np.clip(flat, truth.low, truth.high)
    errors = _errors(real, made)
    if k:
        rows, columns = linear_sum_assignment(errors)
        found[rows] = columns
        decibel[rows] = psnr(errors[rows, columns], span)
        if truth.x.ndim == 4:
            for row, column in zip(rows, columns, strict=True):
                image = made[column].reshape(truth.x.shape[1:])
                similar[row] = ssim(truth.x[row], image, span)
    proved = np.zeros(k, np.bool_) if certified is None else np.asarray(certified, np.bool_)
    right = psnr(errors.min(0), span) >= RECOVERED_DB if n and k else np.zeros(k, np.bool_)
    wrong = int(np.sum(proved & ~right))
    return Leakage(
        decibel, similar, found, _identified(real, made, found, pool), int(proved.sum()), wrong
    )


def _errors(real: Array, made: Array) -> NDArray[np.float64]:
    """Mean squared error of each pair, [n, k]; exact where they agree."""
    out = np.empty((len(real), len(made)))
    for i, row in enumerate(real):
        out[i] = np.mean((made - row) ** 2, axis=1) if len(made) else 0.0
    return out


def _identified(real: Array, made: Array, found: NDArray[np.int64], pool: Array | None) -> float:
    if pool is None or not np.any(found >= 0):
        return math.nan
    others = pool.reshape(len(pool), -1).astype(np.float64)
    hits = []
    for i in np.flatnonzero(found >= 0):
        sample = made[found[i]]
        own = np.mean((sample - real[i]) ** 2)
        away = np.mean((others - real[i]) ** 2, axis=1) > 0  # the original may lie in the pool
        rivals = np.mean((others - sample) ** 2, axis=1)[away]
        hits.append(own < rivals.min(initial=np.inf))
    return float(np.mean(hits))
