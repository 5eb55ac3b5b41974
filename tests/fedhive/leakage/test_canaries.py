from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from fedhive.leakage.audit import gaussian_delta, gaussian_eps
from fedhive.leakage.canaries import (
    canary,
    cosines,
    one_shot,
    two_gaussians_delta,
    two_gaussians_eps,
)


def integral(m1: float, s1: float, m0: float, s0: float, eps: float) -> float:
    x = np.linspace(-25, 25, 100_001)
    excess = norm.pdf(x, m1, s1) - math.exp(eps) * norm.pdf(x, m0, s0)
    return float(np.trapezoid(np.maximum(excess, 0), x))


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("deviation", [0.5, 0.9, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("eps", [0.0, 0.8, 2.5])
def test_the_hockey_stick_of_two_gaussians(mean: float, deviation: float, eps: float) -> None:
    expected = max(integral(mean, deviation, 0, 1, eps), integral(0, 1, mean, deviation, eps))
    found = float(two_gaussians_delta(mean, deviation, eps))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_equal_deviations_are_the_gaussian_mechanism() -> None:
    for mu in (0.3, 1.0, 4.0):
        assert float(two_gaussians_delta(mu, 1.0, 1.5)) == pytest.approx(
            float(gaussian_delta(mu, 1.5)), rel=1e-9
        )
        assert float(two_gaussians_eps(mu, 1.0, 1e-5)) == pytest.approx(
            gaussian_eps(mu, 1e-5), abs=1e-6
        )
        # and nearly equal ones are near it: no cancellation in the quadratic
        near = float(two_gaussians_eps(mu, 1.0 + 1e-7, 1e-5))
        assert near == pytest.approx(gaussian_eps(mu, 1e-5), rel=1e-4)


def test_canaries_are_unit_directions_known_by_number() -> None:
    one = canary(3, 0, 5000)
    assert one.dtype == np.float32
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(one, canary(3, 0, 5000))
    assert abs(float(one @ canary(3, 1, 5000))) < 5 / math.sqrt(5000)
    assert abs(float(one @ canary(4, 0, 5000))) < 5 / math.sqrt(5000)


def release(seed: int, k: int, d: int, sigma: float, benign: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    total = rng.standard_normal(d) * sigma
    direction = rng.standard_normal(d)
    total += benign * direction / np.linalg.norm(direction)
    return total + sum(canary(seed, number, d).astype(np.float64) for number in range(k))


@pytest.mark.parametrize(("sigma", "benign"), [(0.5, 0.0), (1.0, 20.0), (2.0, 0.0)])
def test_mu_tends_to_its_closed_form(sigma: float, benign: float) -> None:
    k, d = 60, 4000
    truth = 1 / math.sqrt(sigma**2 + (k + benign**2) / d)
    found = [
        one_shot(cosines(release(seed, k, d, sigma, benign), seed, k), d, delta=1e-5)
        for seed in range(12)
    ]
    mean = np.mean([each.mu for each in found])
    assert mean == pytest.approx(truth, abs=4 / math.sqrt(12 * k))
    covered = sum(each.mu_low <= truth <= each.mu_high for each in found)
    assert covered >= 9
    assert all(each.low <= each.eps <= each.high for each in found)


def test_the_interval_of_eps_covers_and_the_published_estimate_is_biased() -> None:
    # Gaussian cosines of known law: coverage of 95 % intervals in 200 runs
    k, d, mu, rng = 100, 10_000, 1.0, np.random.default_rng(1)
    truth = gaussian_eps(mu, 1e-5)
    runs = [one_shot(rng.normal(mu, 1.0, k) / math.sqrt(d), d, delta=1e-5) for _ in range(200)]
    covered = sum(each.low <= truth <= each.high for each in runs)
    assert 183 <= covered <= 199
    assert abs(np.mean([each.eps for each in runs]) - truth) < 0.1
    assert np.mean([each.eps_fitted for each in runs]) > truth + 0.5
    assert 0.01 < np.mean([each.spread_p < 0.05 for each in runs]) < 0.1


def test_a_disturbed_spread_is_noticed() -> None:
    values = np.random.default_rng(2).normal(1.0, 1.6, 100) / 100
    assert one_shot(values, 10_000, delta=1e-5).spread_p < 1e-3


def test_absent_canaries_give_an_interval_that_reaches_near_zero() -> None:
    d = 4000
    released = np.random.default_rng(0).standard_normal(d)
    found = one_shot(cosines(released, 9, 50), d, delta=1e-5)
    assert found.mu_low < 0 < found.mu_high
    assert found.low == 0


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="three"):
        one_shot([0.1, 0.2], 10, delta=1e-5)
    with pytest.raises(ValueError, match="equal"):
        one_shot([0.1] * 5, 10, delta=1e-5)
    with pytest.raises(ValueError, match="delta"):
        one_shot([0.1, 0.2, 0.3], 10, delta=0.0)
    with pytest.raises(ValueError, match="zero"):
        cosines(np.zeros(10), 0, 3)
