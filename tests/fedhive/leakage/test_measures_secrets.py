"""Fano's inequality, two Gaussians, and the worst population: closed forms and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhive.leakage.measures_secrets import (
    binary_gaussian,
    entropy,
    fano,
    gaussian_plug_in,
    told_by_classifier,
)
from fedhive.leakage.measures_worst import worst_case


def test_fano_by_hand():
    assert fano(0, 100, [0.5, 0.5]).bits == 1.0
    assert fano(50, 100, [0.5, 0.5]).bits == 0.0
    assert fano(90, 100, [0.5, 0.5]).bits == 0.0  # worse than guessing says nothing here
    tenth = fano(10, 100, [0.25] * 4)
    closed = 2.0 - entropy([0.1, 0.9]) - 0.1 * math.log2(3)
    assert tenth.bits == pytest.approx(closed)
    assert (tenth.error, tenth.held_out) == (0.1, 100)
    # Clopper-Pearson for no error in 100: 1 - 0.05^(1/100).
    assert fano(0, 100, [0.5, 0.5]).high_error == pytest.approx(1 - 0.05 ** (1 / 100))
    assert fano(100, 100, [0.5, 0.5]).high_error == 1.0
    assert fano(10, 100, [0.9, 0.1]).bits == 0.0  # always saying the usual errs as often


@given(st.integers(2, 6), st.integers(1, 500), st.data())
def test_fano_never_tells_more_than_there_is(k, total, data):
    wrong = data.draw(st.integers(0, total))
    found = fano(wrong, total, [1 / k] * k)
    assert 0.0 <= found.low <= found.bits <= math.log2(k) + 1e-12
    assert found.high_error >= found.error


def test_two_gaussians():
    # At KL 5.67 the integral is .8299 bits; with no divergence nothing is told, with much all.
    assert binary_gaussian(5.672) == pytest.approx(0.8299, abs=2e-4)
    assert binary_gaussian(0.0) == 0.0
    assert binary_gaussian(0.01) == pytest.approx(0.01 / 4 / math.log(2), rel=0.01)
    assert binary_gaussian(60.0) == pytest.approx(1.0, abs=1e-6)


def test_a_classifier_tells_less_than_there_is_and_holds():
    """Two Gaussians in 40 dimensions: the bound is below the truth, and not far below."""
    rng = np.random.default_rng(0)
    kl, lows = 5.672, []
    for _ in range(20):
        s = rng.integers(0, 2, 400)
        x = rng.normal(size=(400, 40))
        x[:, 0] += np.where(s == 1, 0.5, -0.5) * math.sqrt(2 * kl)
        lows.append(told_by_classifier(x, s, rng).low)
    assert max(lows) < binary_gaussian(kl)
    assert np.mean(lows) > 0.4


def test_a_classifier_finds_nothing_where_nothing_is():
    rng = np.random.default_rng(1)
    x, s = rng.normal(size=(300, 20)), np.arange(300) % 3
    found = [told_by_classifier(x, rng.permutation(s), rng).low for _ in range(20)]
    assert max(found) < 0.02
    with pytest.raises(ValueError, match="missing"):
        told_by_classifier(x, np.array([0] * 299 + [2]), rng)


def test_more_features_than_views_and_many_values():
    rng = np.random.default_rng(2)
    s = np.arange(200) % 4
    x = rng.normal(size=(200, 1000)) + 0.6 * rng.normal(size=(4, 1000))[s]
    assert told_by_classifier(x, s, rng).bits > 1.9


def test_gaussian_plug_in_on_gaussians():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20_000, 4))
    for noise in (0.2, 1.0, 3.0):
        y = x + noise * rng.normal(size=x.shape)
        truth = 2.0 * math.log(1 + noise**-2)
        assert gaussian_plug_in(x, y) == pytest.approx(truth, rel=0.03, abs=0.002)
    with pytest.raises(ValueError, match="too few"):
        gaussian_plug_in(x[:8], x[:8])


@pytest.mark.parametrize("bad", [(-1, 10, [0.5, 0.5]), (1, 10, [0.5, 0.4]), (1, 10, [1.0])])
def test_impossible_questions_are_refused(bad):
    with pytest.raises(ValueError, match=r"impossible|sum to 1"):
        fano(*bad)


# ---- the worst population ----------------------------------------------------------------------


@pytest.mark.parametrize(("a", "gamma"), [(1.3, 0.5), (0.7, 0.02), (-2.0, 1.0)])
def test_a_linear_loss_on_a_gaussian(a, gamma):
    """Q = N(0, 1), loss a z: P* = N(sqrt(2 gamma), 1), sup = |a| sqrt(2 gamma)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    found = worst_case(a * nodes, gamma, weights / weights.sum())
    assert found.loss == pytest.approx(abs(a) * math.sqrt(2 * gamma), rel=1e-6)
    assert found.beta == pytest.approx(abs(a) / math.sqrt(2 * gamma), rel=1e-6)
    assert found.divergence == pytest.approx(gamma, rel=1e-6)
    assert found.probabilities @ nodes == pytest.approx(math.copysign(math.sqrt(2 * gamma), a))


def test_two_points_by_hand():
    found = worst_case([0.0, 1.0], 0.1)
    p = found.probabilities[1]
    assert p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)) == pytest.approx(0.1)
    assert found.loss == pytest.approx(p)
    assert math.log(p / (1 - p)) == pytest.approx(1 / found.beta)


def test_the_ends():
    losses = [0.0, 3.0, 1.0, 3.0]
    assert worst_case(losses, 0.0).loss == pytest.approx(1.75)
    far = worst_case(losses, 5.0)
    assert (far.loss, far.beta, far.divergence) == (3.0, 0.0, pytest.approx(math.log(2)))
    np.testing.assert_allclose(far.probabilities, [0, 0.5, 0, 0.5])
    assert worst_case([2.0, 2.0], 1.0).loss == 2.0
    unseen = worst_case([0.0, 9.0, 1.0], 3.0, [0.5, 0.0, 0.5])
    assert unseen.loss == 1.0  # what Q rules out no P near it has


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.001, 2.0), st.integers(0, 99)
)
def test_no_measure_in_the_ball_does_better(losses, gamma, seed):
    found = worst_case(losses, gamma)
    n = len(losses)
    rng = np.random.default_rng(seed)
    assert found.divergence <= gamma * (1 + 1e-6) + 1e-9
    for _ in range(20):
        p = rng.dirichlet(np.full(n, 0.5)) + 1e-12
        p /= p.sum()
        if float(np.sum(p * np.log(p * n))) <= gamma:
            assert p @ losses <= found.loss + 1e-6
    if 0.0 < found.beta < math.inf and np.all(found.probabilities > 0):
        # Jeffreys' divergence is the gap in losses over beta (their theorem on the gap).
        q = np.full(n, 1 / n)
        back = float(np.sum(q * np.log(q / found.probabilities)))
        gap = (found.loss - np.mean(losses)) / found.beta
        assert found.divergence + back == pytest.approx(gap, rel=1e-5, abs=1e-9)


def test_bad_questions():
    with pytest.raises(ValueError, match="gamma"):
        worst_case([1.0], -1.0)
    with pytest.raises(ValueError, match="gamma"):
        worst_case([1.0, math.inf], 1.0)
    with pytest.raises(ValueError, match="weights"):
        worst_case([1.0, 2.0], 1.0, [0.5, 0.6])
