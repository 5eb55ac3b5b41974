"""How much more leaks if somebody may move the model a little: L(rho), the most within a ball.

A secret s of the victim is +1 or -1, all else of its data known. It is sent w + delta with
||delta|| <= rho and answers with an update under Gaussian noise of deviation sigma a coordinate.
The divergence between the two laws of what is seen is

    KL(delta) = ||m(+1, w + delta) - m(-1, w + delta)||^2 / (2 sigma^2),   L(rho) = max KL(delta),

in nats, with m the update's mean on the visible coordinates. L bounds every test of s, whoever
moved the model: by Neyman and Pearson the best one errs with probability Phi(-sqrt(KL / 2)).
Without noise (sigma = 0) there is no finite bound. That all else is known is a worst case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor, nn
from torch.func import functional_call, grad

from fedhive.leakage.view import Mask, Vector
from fedhive.learning.models import layout, unflatten

Floats = NDArray[np.float64]
Separation = Callable[[Tensor], Tensor]
"""m(+1, w + delta) - m(-1, w + delta) as a differentiable function of delta, float64 [P]."""


@dataclass(frozen=True, eq=False)
class Peak:
    """The largest divergence found in a ball.

    Args:
        kl: in nats; a lower bound on L(rho) where it was found by ascent.
        delta: where, float64 [P], of norm at most ``rho``.
        rho: radius.
        honest: the divergence at the centre.
        exact: whether ``kl`` is L(rho) itself, up to rounding.
    """

    kl: float
    delta: Floats
    rho: float
    honest: float
    exact: bool

    @property
    def accuracy(self) -> float:
        """Of the best guess of a secret that is either value with probability 1/2."""
        return float(ndtr(math.sqrt(self.kl / 2)))

    @property
    def auc(self) -> float:
        """Area under the ROC curve of the likelihood ratio: Phi(sqrt(KL))."""
        return float(ndtr(math.sqrt(self.kl)))


def linear_regression(
    weight: float, residual: float, square: float, rho: float, sigma: float
) -> float:
    """L(rho) in closed form for one record of linear regression with a binary attribute.

    For the prediction x . w + s t of y under half the squared error, the gradient in (w, t) is
    (a + s t) (x, s) with a = x . w - y, and the two values' gradients differ by (2 t x, 2 a):

        L(rho) = 2 X (sqrt(t^2 + a^2 / X) + rho)^2 / sigma^2,   X = ||x||^2,

    as a ball of radius rho lets (t, a / sqrt(X)) grow by exactly rho. The separation grows
    linearly in rho, the divergence quadratically.

    Args:
        weight: t.
        residual: a.
        square: X, above 0.
        rho: radius.
        sigma: deviation of the noise on each coordinate of the gradient, above 0.
    """
    start = math.hypot(weight, residual / math.sqrt(square))
    return 2 * square * (start + rho) ** 2 / sigma**2


def largest_affine(matrix: ArrayLike, offset: ArrayLike, rho: float, sigma: float) -> Peak:
    """L(rho) exactly where the separation is affine in delta: max ||A delta + b||^2 in a ball.

    A trust-region problem with a convex objective: its solution is on the sphere with
    (mu I - A^T A) delta = A^T b for a mu at or above the largest eigenvalue (More and Sorensen,
    SIAM J. Sci. Stat. Comput. 1983), found from the secular equation, hard case included. Linear
    models under squared loss are such a case, also through several full-batch steps and sums.

    Args:
        matrix: A, [m, P].
        offset: b, [m].
        rho: radius, at least 0.
        sigma: deviation of the noise, above 0.
    """
    a, b = np.asarray(matrix, np.float64), np.asarray(offset, np.float64)
    honest = float(b @ b)
    values, vectors = np.linalg.eigh(a.T @ a)
    pull, top = vectors.T @ (a.T @ b), float(values[-1])
    scale = max(top, 1e-300)

    def length(mu: float) -> float:
        gaps = np.maximum(mu - values, 1e-300)
        return float(np.linalg.norm(pull / gaps))

    norm, floor = float(np.linalg.norm(pull)), top * (1 + 1e-13) + 1e-290
    if rho == 0 or top <= 0:
        delta = np.zeros(len(values))
    elif norm == 0 or length(floor) <= rho:  # hard case: fill up along the top eigenvector
        gaps = np.where(top - values > 1e-10 * scale, top - values, np.inf)
        inner = pull / gaps
        inner[-1] += math.copysign(math.sqrt(max(rho**2 - float(inner @ inner), 0.0)), pull[-1])
        delta = vectors @ inner
    else:
        mu = float(brentq(lambda m: 1 / length(m) - 1 / rho, floor, top + norm / rho + scale))
        delta = vectors @ (pull / (mu - values))
    delta = _within(delta, rho)
    moved = a @ delta + b
    noise = 2 * sigma**2
    return Peak(float(moved @ moved) / noise, delta, rho, honest / noise, True)


def ascend(
    separation: Separation,
    size: int,
    rho: float,
    *,
    sigma: float,
    rng: np.random.Generator,
    restarts: int = 3,
    steps: int = 200,
    starts: Sequence[Floats] = (),
) -> Peak:
    """The largest divergence that projected gradient ascent finds in the ball: at most L(rho).

    From the centre, from ``starts`` (pulled into the ball) and from ``restarts`` random points of
    the sphere. Steps are shares of rho along the gradient, lengthened after a success and
    shortened after a failure; no step lowers the divergence. Where the separation is affine every
    local maximum has the norm rho, but there may be several.

    Args:
        separation: see `Separation`.
        size: P.
        rho: radius, at least 0.
        sigma: deviation of the noise, above 0.
        rng: draws the random starts.
        restarts: how many of them.
        steps: at most so many from each start.
        starts: further starting points, such as the best for a smaller ball.
    """
    directions = rng.standard_normal((restarts, size))
    points = [np.zeros(size), *starts, *(rho * directions.T / _norms(directions)).T]
    noise = 2 * sigma**2
    climbed = [_climb(separation, _within(point, rho), rho, steps) for point in points]
    best, delta = max(climbed, key=lambda pair: pair[0])
    with torch.no_grad():
        honest = float(separation(torch.zeros(size, dtype=torch.float64)).square().sum())
    return Peak(best / noise, delta, rho, honest / noise, False)


def curve(
    separation: Separation,
    size: int,
    radii: Sequence[float],
    *,
    sigma: float,
    rng: np.random.Generator,
    restarts: int = 3,
    steps: int = 200,
) -> list[Peak]:
    """`ascend` for radii in ascending order, each also from where the one before ended.

    So the curve never falls, as L never does.
    """
    if sorted(radii) != list(radii):
        raise ValueError(f"radii must ascend, got {list(radii)}")
    peaks: list[Peak] = []
    for rho in radii:
        starts = [peak.delta for peak in peaks[-1:]]
        starts += [start * (rho / norm) for start in starts if (norm := _norm(start)) > 0]
        peaks.append(ascend(separation, size, rho, sigma=sigma, rng=rng, restarts=restarts,
                            steps=steps, starts=starts))  # fmt: skip
    return peaks


def gradient_separation(
    model: nn.Module,
    weights: Vector,
    plus: tuple[Tensor, Tensor],
    minus: tuple[Tensor, Tensor],
    visible: Mask,
    share: float = 1.0,
) -> Separation:
    """The separation of two versions of a record in one gradient step of a network.

    The rest of the batch, and other clients in a sum, add the same to both and cancel; their
    number is in ``share``.

    Args:
        model: architecture, cross entropy.
        weights: w, float32 [P].
        plus: (x [n, ...], y int64 [n]) with s = +1, usually n = 1.
        minus: the same with s = -1.
        visible: bool [P].
        share: weight of the record in what is seen: 1 / batch size, times 1 / clients in a sum,
            times the rate if updates and not gradients are seen.
    """
    entries = layout(model)
    shown = torch.from_numpy(visible.astype(np.float64))
    base = torch.from_numpy(weights.astype(np.float64))
    doubled = [(x.double(), y) for x, y in (plus, minus)]

    def loss(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, unflatten(vector, entries), (x,)), y)

    slope = grad(loss)

    def separation(delta: Tensor) -> Tensor:
        first, second = (slope(base + delta, x, y) for x, y in doubled)
        apart: Tensor = (first - second) * shown * share
        return apart

    return separation


def _climb(separation: Separation, start: Floats, rho: float, steps: int) -> tuple[float, Floats]:
    """(squared separation, where) after projected ascent."""

    def look(point: Floats) -> tuple[float, Floats]:
        delta = torch.from_numpy(point).requires_grad_()
        value = separation(delta).square().sum()
        [slope] = torch.autograd.grad(value, delta)
        return float(value.detach()), slope.numpy()

    point, stride = start, 1.0
    value, slope = look(point)
    for _ in range(steps):
        length = _norm(slope)
        if stride < 1e-7 or length == 0 or rho == 0:
            break
        trial = _within(point + stride * rho * slope / length, rho)
        reached, steepness = look(trial)
        if reached > value:
            gained = reached - value
            point, value, slope, stride = trial, reached, steepness, min(2 * stride, 4.0)
            if gained < 1e-12 * value:
                break
        else:
            stride /= 3
    return value, point


def _within(point: Floats, rho: float) -> Floats:
    norm = _norm(point)
    return point * (rho / norm) if norm > rho else point


def _norm(vector: Floats) -> float:
    return float(np.linalg.norm(vector))


def _norms(rows: Floats) -> Floats:
    return np.asarray(np.linalg.norm(rows, axis=1))
