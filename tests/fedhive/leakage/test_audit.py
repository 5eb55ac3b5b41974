from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from fedhive.leakage.audit import (
    audit_any,
    audit_gaussian,
    clopper_pearson,
    gaussian_delta,
    gaussian_eps,
)


def games(mu: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Scores of the best test of a Gaussian mechanism with sensitivity / sigma = mu."""
    rng = np.random.default_rng(seed)
    return rng.normal(mu, 1.0, n), rng.normal(0.0, 1.0, n), rng


@pytest.mark.parametrize(("mu", "eps"), [(0.5, 0.3), (1.0, 1.0), (2.0, 5.0), (4.0, 12.0)])
def test_delta_is_the_hockey_stick_of_two_gaussians(mu: float, eps: float) -> None:
    x = np.linspace(-12, 20, 2_000_001)
    excess = norm.pdf(x, mu) - math.exp(eps) * norm.pdf(x)
    integral = np.trapezoid(np.maximum(excess, 0), x)
    assert float(gaussian_delta(mu, eps)) == pytest.approx(integral, rel=1e-5)


@pytest.mark.parametrize("mu", [0.05, 0.3, 1.0, 2.7, 6.0, 30.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 1e-2])
def test_eps_inverts_delta(mu: float, delta: float) -> None:
    eps = gaussian_eps(mu, delta)
    at_zero = 2 * norm.cdf(mu / 2) - 1
    if delta >= at_zero:
        assert eps == 0
    else:
        assert float(gaussian_delta(mu, eps)) == pytest.approx(delta, rel=1e-6)


def test_eps_of_the_note() -> None:
    # sigma 1.5-ish settings of the literature: mu 1 gives eps 4.38 at 1e-5
    assert gaussian_eps(1.0, 1e-5) == pytest.approx(4.377, abs=2e-3)
    assert gaussian_eps(2.0, 1e-5) == pytest.approx(10.0, abs=0.1)
    assert gaussian_eps(0.0, 1e-5) == 0.0


def test_clopper_pearson_is_exact() -> None:
    n, level = 37, 0.975
    for k in (0, 1, 10, 36):
        p = float(clopper_pearson(k, n, level))
        assert binom.cdf(k, n, p) == pytest.approx(1 - level, rel=1e-6)
    assert float(clopper_pearson(37, 37, level)) == 1.0
    assert float(clopper_pearson(0, n, level)) == pytest.approx(1 - 0.025 ** (1 / n))


@pytest.mark.parametrize("mu", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("audit", [audit_gaussian, audit_any])
def test_bounds_hold_in_at_least_95_percent_of_200_runs(mu: float, audit: object) -> None:
    truth = gaussian_eps(mu, 1e-5)
    held = 0
    for seed in range(200):
        inside, outside, rng = games(mu, 400, seed)
        found = audit(inside, outside, delta=1e-5, rng=rng)  # type: ignore[operator]
        held += found.mu <= mu and found.eps <= truth
    assert held >= 190


def test_the_gaussian_bound_is_far_tighter_than_any_and_near_the_truth() -> None:
    truth = gaussian_eps(2.0, 1e-5)
    inside, outside, rng = games(2.0, 1000, 5)
    small = audit_gaussian(inside, outside, delta=1e-5, rng=rng)
    assert truth * 0.75 < small.eps < truth
    inside, outside, rng = games(2.0, 20_000, 6)
    large = audit_gaussian(inside, outside, delta=1e-5, rng=rng)
    plain = audit_any(inside, outside, delta=1e-5, rng=rng)
    assert truth * 0.9 < large.eps < truth
    assert plain.eps < 0.6 * truth
    assert small.eps < large.eps


def test_perfect_separation_is_bounded_by_the_number_of_games() -> None:
    n, rng = 200, np.random.default_rng(0)
    found = audit_any(np.ones(n), np.zeros(n), delta=0.0, rng=rng)
    worst = 1 - 0.025 ** (1 / 100)  # no error among the 100 games held back
    assert found.fpr == found.fnr == pytest.approx(worst)
    assert found.eps == pytest.approx(math.log((1 - worst) / worst))
    gaussian = audit_gaussian(np.ones(n), np.zeros(n), delta=1e-5, rng=rng)
    assert gaussian.mu == pytest.approx(-2 * norm.ppf(worst))


def test_scores_that_say_nothing_certify_nothing() -> None:
    rng = np.random.default_rng(0)
    for audit in (audit_gaussian, audit_any):
        found = audit(np.zeros(50), np.zeros(50), delta=1e-5, rng=rng)
        assert (found.mu, found.eps) == (0.0, 0.0)
        backwards = audit(np.zeros(50), np.ones(50), delta=1e-5, rng=rng)
        assert backwards.eps == 0.0  # higher must mean "in"


def test_what_is_refused() -> None:
    rng = np.random.default_rng(0)
    good = np.arange(10.0)
    for inside, outside in (([1.0], good), (good, [np.nan, 1.0]), (good.reshape(2, 5), good)):
        with pytest.raises(ValueError, match="score"):
            audit_gaussian(inside, outside, delta=1e-5, rng=rng)
    with pytest.raises(ValueError, match="delta"):
        audit_gaussian(good, good, delta=0.0, rng=rng)
    with pytest.raises(ValueError, match="delta"):
        audit_any(good, good, delta=1.0, rng=rng)
    with pytest.raises(ValueError, match="confidence"):
        audit_any(good, good, delta=0.0, rng=rng, confidence=1.0)
    with pytest.raises(ValueError, match="mu"):
        gaussian_eps(-1.0, 1e-5)
