from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.reconstruction.lbfgs import Memory, minimise

Floats = np.ndarray


def test_a_quadratic_is_solved() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(30, 30))
    square, wanted = root @ root.T + 0.1 * np.eye(30), rng.normal(size=30)

    def quadratic(x: Floats) -> tuple[float, Floats]:
        gap = square @ (x - wanted)
        return float(0.5 * (x - wanted) @ gap), gap

    np.testing.assert_allclose(minimise(quadratic, np.zeros(30), 400), wanted, atol=1e-5)


def rosenbrock(x: Floats) -> tuple[float, Floats]:
    gap = x[1:] - x[:-1] ** 2
    gradient = np.zeros_like(x)
    gradient[:-1] = -400 * x[:-1] * gap - 2 * (1 - x[:-1])
    gradient[1:] += 200 * gap
    return float(np.sum(100 * gap**2 + (1 - x[:-1]) ** 2)), gradient


@pytest.mark.parametrize("history", [3, 10, 100])
def test_a_curved_valley_is_followed(history: int) -> None:
    found = minimise(rosenbrock, np.zeros(10), 600, history)
    np.testing.assert_allclose(found, 1.0, atol=1e-4)


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_compact_form_is_the_two_loop_recursion(seed: int, most: int, pairs: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(8, 8))
    square = root @ root.T + np.eye(8)
    memory, kept = Memory(8, most), []
    for _ in range(pairs):
        step = rng.normal(size=8)
        memory.add(step, square @ step)
        kept = [*kept, (step, square @ step)][-most:]
    gradient = rng.normal(size=8)
    q, saved = gradient.copy(), []
    for s, y in reversed(kept):
        a = (s @ q) / (s @ y)
        saved.append(a)
        q -= a * y
    s, y = kept[-1]
    r = q * (s @ y) / (y @ y)
    for (s, y), a in zip(kept, reversed(saved), strict=True):
        r += s * (a - (y @ r) / (s @ y))
    np.testing.assert_allclose(memory.direction(gradient), -r, rtol=1e-6, atol=1e-8)


def test_never_more_evaluations_than_allowed_and_never_worse() -> None:
    count = 0

    def counted(x: Floats) -> tuple[float, Floats]:
        nonlocal count
        count += 1
        return rosenbrock(x)

    start = np.full(6, -1.0)
    found = minimise(counted, start, 17)
    assert count <= 17
    assert rosenbrock(found)[0] < rosenbrock(start)[0]


def test_kinks_and_cliffs_do_not_break_it() -> None:
    def kink(x: Floats) -> tuple[float, Floats]:
        return float(np.abs(x).sum()), np.sign(x)

    assert kink(minimise(kink, np.array([3.0, -2.0]), 200))[0] < 0.05

    def cliff(x: Floats) -> tuple[float, Floats]:
        if x[0] > 1:
            return np.nan, np.full(1, np.nan)
        return float((x[0] - 0.9) ** 2), 2 * (x - 0.9)

    assert abs(minimise(cliff, np.array([-50.0]), 100)[0] - 0.9) < 1e-4


def test_a_start_without_a_value_is_handed_back() -> None:
    start = np.array([1.0, 2.0])
    found = minimise(lambda x: (np.inf, np.full(2, np.nan)), start, 10)
    np.testing.assert_array_equal(found, start)
