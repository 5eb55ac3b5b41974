from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedhive.leakage import bounded
from fedhive.learning import models

# The published table: L(0) = 5.672 and so on; only t^2 + a^2 / X and X / sigma^2 matter.
TABLE = {0.0: 5.672, 0.1: 10.9240, 0.3: 26.5470, 1.0: 134.9702, 3.0: 905.4038}


def record(d: int, seed: int) -> tuple[np.ndarray, float, float]:
    """x, weight t of the attribute, residual a."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(d), float(rng.standard_normal()), float(rng.standard_normal())


def affine(x: np.ndarray, t: float, a: float) -> tuple[np.ndarray, np.ndarray]:
    """The separation (2 t x, 2 a) as A delta + b, delta = (change of w, change of t)."""
    d = len(x)
    matrix = np.zeros((d + 1, d + 1))
    matrix[:d, d] = 2 * x
    matrix[d, :d] = 2 * x
    return matrix, np.append(2 * t * x, 2 * a)


def test_the_table_of_the_closed_form() -> None:
    growth = math.sqrt(TABLE[0.1] / TABLE[0.0])
    start = 0.1 / (growth - 1)
    square = TABLE[0.0] / (2 * start**2)
    for rho, value in TABLE.items():
        found = bounded.linear_regression(start, 0.0, square, rho, 1.0)
        assert found == pytest.approx(value, rel=1e-3)
        turned = bounded.linear_regression(0.0, start * math.sqrt(square), square, rho, 1.0)
        assert turned == pytest.approx(found)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rho", [0.0, 0.1, 1.0, 3.0])
def test_ascent_and_trust_region_reach_the_closed_form(seed: int, rho: float) -> None:
    x, t, a = record(6, seed)
    sigma = 0.7
    truth = bounded.linear_regression(t, a, float(x @ x), rho, sigma)
    matrix, offset = affine(x, t, a)
    exact = bounded.largest_affine(matrix, offset, rho, sigma)
    assert exact.kl == pytest.approx(truth, rel=1e-6)
    assert np.linalg.norm(exact.delta) <= rho * (1 + 1e-12)

    weights = torch.from_numpy(np.append(np.zeros(6), t))
    inputs = torch.from_numpy(x)

    def separation(delta: torch.Tensor) -> torch.Tensor:
        w = weights + delta  # x . w_0 - y = a
        residual = inputs @ w[:6] + a
        sides = [torch.cat([(residual + s * w[6]) * inputs, ((residual + s * w[6]) * s)[None]])
                 for s in (1.0, -1.0)]  # fmt: skip
        return sides[0] - sides[1]

    rng = np.random.default_rng(seed)
    found = bounded.ascend(separation, 7, rho, sigma=sigma, rng=rng, steps=300)
    assert found.kl == pytest.approx(truth, rel=1e-4)
    assert found.kl <= truth * (1 + 1e-9)
    assert np.linalg.norm(found.delta) <= rho * (1 + 1e-12)
    assert found.honest == pytest.approx(bounded.linear_regression(t, a, float(x @ x), 0.0, sigma))


def test_the_trust_region_against_a_grid() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        matrix, offset = rng.standard_normal((4, 2)), rng.standard_normal(4)
        angle = np.linspace(0, 2 * np.pi, 20_001)
        circle = 0.8 * np.stack([np.cos(angle), np.sin(angle)])
        best = np.max(np.sum((matrix @ circle + offset[:, None]) ** 2, axis=0)) / 2
        assert bounded.largest_affine(matrix, offset, 0.8, 1.0).kl == pytest.approx(best, rel=1e-6)


def test_the_hard_case() -> None:
    # b is orthogonal to the top direction: the answer leaves along it all the same
    matrix, offset = np.diag([1.0, 3.0]), np.asarray([1.0, 0.0])
    found = bounded.largest_affine(matrix, offset, 2.0, 1.0)
    # (1 + c)^2 + 9 (4 - c^2) is largest at c = 1/8
    assert found.kl == pytest.approx(((1 + 0.125) ** 2 + 9 * (4 - 0.125**2)) / 2)
    zero = bounded.largest_affine(matrix, np.zeros(2), 2.0, 1.0)
    assert zero.kl == pytest.approx(18.0)
    flat = bounded.largest_affine(np.zeros((2, 2)), offset, 2.0, 1.0)
    assert (flat.kl, flat.honest) == (0.5, 0.5)


def network_separation() -> tuple[bounded.Separation, int]:
    model = models.build(lambda s, n: models.mlp(s, n, (8,)), (5,), 3, 0)
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.standard_normal((1, 5)).astype(np.float32))
    other = x.clone()
    x[0, 0], other[0, 0] = 1.0, -1.0
    y = torch.tensor([2])
    weights = models.flatten(model).numpy()
    visible = np.ones(len(weights), np.bool_)
    separation = bounded.gradient_separation(model, weights, (x, y), (other, y), visible, 0.1)
    return separation, len(weights)


def test_a_networks_curve_rises_and_never_leaves_the_ball() -> None:
    separation, size = network_separation()
    rng = np.random.default_rng(0)
    radii = [0.0, 0.5, 2.0]
    peaks = bounded.curve(separation, size, radii, sigma=0.05, rng=rng, restarts=1, steps=20)
    assert peaks[0].kl == pytest.approx(peaks[0].honest)
    for before, after in itertools.pairwise(peaks):
        assert after.kl > before.kl
    for peak in peaks:
        assert np.linalg.norm(peak.delta) <= peak.rho * (1 + 1e-12)
        at = float(separation(torch.from_numpy(peak.delta)).square().sum()) / (2 * 0.05**2)
        assert at == pytest.approx(peak.kl)


def test_hidden_coordinates_do_not_leak() -> None:
    separation, size = network_separation()
    model = models.build(lambda s, n: models.mlp(s, n, (8,)), (5,), 3, 0)
    x, y = torch.zeros(1, 5), torch.tensor([0])
    nothing = np.zeros(size, np.bool_)
    hidden = bounded.gradient_separation(
        model, models.flatten(model).numpy(), (x + 1, y), (x - 1, y), nothing
    )
    assert not hidden(torch.zeros(size, dtype=torch.float64)).any()
    assert separation(torch.zeros(size, dtype=torch.float64)).any()


def test_the_best_test_has_the_promised_accuracy_and_auc() -> None:
    peak = bounded.Peak(2.0, np.zeros(1), 0.0, 2.0, True)
    assert peak.accuracy == pytest.approx(norm.cdf(1.0))  # means 2 deviations apart
    assert peak.auc == pytest.approx(norm.cdf(2 / math.sqrt(2)))


def test_radii_must_ascend() -> None:
    separation, size = network_separation()
    with pytest.raises(ValueError, match="ascend"):
        bounded.curve(separation, size, [1.0, 0.5], sigma=1.0, rng=np.random.default_rng(0))
