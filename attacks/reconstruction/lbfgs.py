"""Limited-memory BFGS for searches whose every evaluation counts.

The inverse Hessian is applied in its compact form (Byrd, Nocedal and Schnabel, 1994): two thin
matrix products in place of a loop over the history, so that a long history costs next to nothing
beside a gradient of a gradient. The line search brackets a weak Wolfe point by doubling and
halving (Lewis and Overton, 2013), which needs no smoothness; mostly its first point will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

Floats = NDArray[np.float64]
Function = Callable[[Floats], tuple[float, Floats]]
"""Value and gradient at a point."""
ARMIJO, CURVATURE, MOST_TRIES = 1e-4, 0.9, 25


class Memory:
    """The last steps s and changes of gradient y, and the inverse Hessian they tell.

    Args:
        size: numbers of a point.
        most: pairs kept.
    """

    def __init__(self, size: int, most: int) -> None:
        self.s, self.y = np.empty((most, size)), np.empty((most, size))
        self.sy, self.yy = np.zeros((most, most)), np.zeros((most, most))
        self.count, self.most = 0, most

    def clear(self) -> None:
        """Forget all."""
        self.count = 0

    def add(self, step: Floats, change: Floats) -> None:
        """Keep a pair, unless its curvature is not clearly positive."""
        if step @ change <= 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
            return
        if self.count == self.most:
            for table in (self.s, self.y):
                table[:-1] = table[1:]
            for square in (self.sy, self.yy):
                square[:-1, :-1] = square[1:, 1:].copy()
            self.count -= 1
        k = self.count
        self.s[k], self.y[k] = step, change
        self.count = n = k + 1
        self.sy[k, :n] = self.y[:n] @ step
        self.sy[:n, k] = self.s[:n] @ change
        self.yy[k, :n] = self.yy[:n, k] = self.y[:n] @ change

    def direction(self, gradient: Floats) -> Floats:
        """-H gradient."""
        n = self.count
        if not n:
            return -gradient / max(1.0, float(np.abs(gradient).sum()))
        s, y, upper = self.s[:n], self.y[:n], np.triu(self.sy[:n, :n])
        gamma = self.sy[n - 1, n - 1] / self.yy[n - 1, n - 1]
        p = solve_triangular(upper, s @ gradient, check_finite=False)
        middle = np.diag(self.sy)[:n] * p + gamma * (self.yy[:n, :n] @ p)
        q = solve_triangular(upper, middle - gamma * (y @ gradient), trans=1, check_finite=False)
        return np.asarray(-(gamma * gradient + q @ s - gamma * (p @ y)))


def minimise(function: Function, start: Floats, evaluations: int, history: int = 100) -> Floats:
    """The best point met within so many evaluations; it never gets worse than the start.

    Args:
        function: value and gradient.
        start: float64 [n].
        evaluations: at most so many.
        history: pairs of steps and changes that are kept.
    """
    budget = _Budget(function, evaluations)
    x = start.copy()
    value, gradient = budget(x)
    memory = Memory(x.size, history)
    fresh = True
    while budget.left > 0 and math.isfinite(value):
        direction = memory.direction(gradient)
        slope = float(gradient @ direction)
        found = _line_search(budget, x, value, slope, direction) if slope < 0 else None
        if found is None:  # rounding: once more along the gradient, then nothing is to be gained
            if fresh:
                break
            memory.clear()
            fresh = True
            continue
        new, value, slopes = found
        memory.add(new - x, slopes - gradient)
        x, gradient, fresh = new, slopes, False
    return budget.best


class _Budget:
    """Counts evaluations and keeps the best point."""

    def __init__(self, function: Function, evaluations: int) -> None:
        self.function, self.left = function, evaluations
        self.least = math.inf
        self.best: Floats = np.empty(0)

    def __call__(self, x: Floats) -> tuple[float, Floats]:
        self.left -= 1
        value, gradient = self.function(x)
        if not np.isfinite(gradient).all():
            value = math.inf
        if value < self.least or not self.best.size:
            self.least, self.best = value, x.copy()
        return value, gradient


def _line_search(
    budget: _Budget, x: Floats, value: float, slope: float, direction: Floats
) -> tuple[Floats, float, Floats] | None:
    """A weak Wolfe point, or the best that lowers the value; None if there is none."""
    low, high, t = 0.0, math.inf, 1.0
    kept: tuple[Floats, float, Floats] | None = None
    for _ in range(MOST_TRIES):
        if budget.left <= 0:
            break
        new = x + t * direction
        reached, gradient = budget(new)
        if not reached <= value + ARMIJO * t * slope:
            high = t
        else:
            if kept is None or reached < kept[1]:
                kept = new, reached, gradient
            if gradient @ direction >= CURVATURE * slope:
                return new, reached, gradient
            low = t
        t = 0.5 * (low + high) if math.isfinite(high) else 2.0 * t
    return kept
