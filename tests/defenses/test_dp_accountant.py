from __future__ import annotations

import builtins
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from defenses.dp import accountant
from defenses.dp.accountant import Spent, epsilon, gaussian_delta, gaussian_epsilon, merged
from fedhive.errors import UserError


@pytest.mark.parametrize(
    ("z", "q", "steps", "delta", "rdp", "prv"),
    [
        (1.0, 0.05, 1000, 1e-5, 11.98, 11.00),
        (0.8, 0.05, 200, 1000**-1.1, 6.57, 5.57),
        (1.0, 0.1, 100, 100**-1.1, 4.58, 3.73),
    ],
)
def test_published_numbers(
    z: float, q: float, steps: int, delta: float, rdp: float, prv: float
) -> None:
    history = [Spent(z, q, steps)]
    assert epsilon(history, delta, "rdp") == pytest.approx(rdp, abs=0.005)
    assert epsilon(history, delta, "prv") == pytest.approx(prv, abs=0.005)


def test_sampling_saves_most_of_epsilon_and_without_it_the_number_is_exact() -> None:
    delta = 1000**-1.1
    alone = epsilon([Spent(0.8, 1.0, 200)], delta)
    # Renyi divergences give 222.8 here, numerical composition 213.506 with an error up to 0.01.
    assert alone == pytest.approx(213.5, abs=0.02)
    assert alone / epsilon([Spent(0.8, 0.05, 200)], delta) > 34


def test_gaussian_delta_is_the_textbook_formula() -> None:
    for mu in (0.1, 1.0, 3.0):
        for e in (0.0, 0.5, 2.0):
            formula = norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu)
            assert gaussian_delta(mu, e) == pytest.approx(formula, rel=1e-9)


@settings(max_examples=50)
@given(st.floats(0.01, 30.0), st.floats(1e-12, 0.4))
def test_gaussian_epsilon_inverts_delta(mu: float, delta: float) -> None:
    found = gaussian_epsilon(mu, delta)
    if found == 0.0:
        assert gaussian_delta(mu, 0.0) <= delta
    else:
        assert gaussian_delta(mu, found) == pytest.approx(delta, rel=1e-5)


def test_gaussian_releases_compose_by_the_sum_of_squares() -> None:
    together = epsilon([Spent(2.0, 1.0, 3), Spent(4.0, 1.0, 4)], 1e-5)
    assert together == pytest.approx(gaussian_epsilon(math.sqrt(3 / 4 + 4 / 16), 1e-5))
    assert together == pytest.approx(epsilon([Spent(1.0, 1.0, 1)], 1e-5))
    assert epsilon([Spent(1.0, 1.0, 1)], 1e-5) == pytest.approx(4.3772, abs=1e-3)


def test_nothing_done_costs_nothing_and_no_noise_promises_nothing() -> None:
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([Spent(0.0, 0.5, 0)], 1e-5) == 0.0
    assert epsilon([Spent(1.0, 0.0, 9)], 1e-5) == 0.0
    assert epsilon([Spent(1.0, 0.5, 9), Spent(0.0, 0.1, 1)], 1e-5) == math.inf


def test_order_and_cutting_of_a_history_do_not_matter() -> None:
    a, b = Spent(1.0, 0.1, 5), Spent(2.0, 0.3, 7)
    assert merged([a, b, a]) == merged([b, Spent(1.0, 0.1, 10)])
    assert epsilon([a, b, a], 1e-5) == epsilon([b, a, a], 1e-5)


@pytest.mark.parametrize(("z", "q", "steps"), [(0.8, 0.1, 30), (2.0, 0.5, 1)])
def test_more_of_anything_costs_more_and_sampling_never_costs(
    z: float, q: float, steps: int
) -> None:
    cost = epsilon([Spent(z, q, steps)], 1e-5, "rdp")
    assert epsilon([Spent(z, q, steps + 1)], 1e-5, "rdp") >= cost
    assert epsilon([Spent(z * 1.1, q, steps)], 1e-5, "rdp") <= cost
    # The conversion from Renyi divergences is loose, so compare it with itself at q close to 1.
    assert epsilon([Spent(z, 1 - 1e-9, steps)], 1e-5, "rdp") >= cost


def test_the_largest_of_many_is_the_largest() -> None:
    histories = [[Spent(1.0, q, s)] for q, s in ((0.1, 40), (0.2, 10), (0.05, 60), (1.0, 1))]
    every = max(epsilon(h, 1e-5) for h in histories)
    assert accountant.largest(histories, 1e-5) == every
    assert accountant.largest([], 1e-5) == 0.0


def test_noise_for_a_budget() -> None:
    # z = 1.252 by RDP and 1.191 by PRV: measured with Opacus' own search, which stops within 0.01.
    assert accountant.noise_for(8.0, 1e-5, 0.05, 1000, "rdp") == pytest.approx(1.252, abs=0.006)
    found = accountant.noise_for(8.0, 1e-5, 0.05, 1000)
    assert found == pytest.approx(1.191, abs=0.006)
    assert epsilon([Spent(found, 0.05, 1000)], 1e-5) <= 8.0
    exact = accountant.noise_for(1.0, 1e-5, 1.0, 1)
    assert exact == pytest.approx(3.7304, abs=0.003)  # Balle and Wang's calibration


def test_a_budget_beyond_reason_is_bounded_by_renyi_alone() -> None:
    history = [Spent(0.3, 0.5, 100)]
    assert epsilon(history, 1e-5, "prv") == epsilon(history, 1e-5, "rdp") > accountant.WORTH_IT


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon([Spent(1.0, 0.1, 1)], 0.0)
    with pytest.raises(ValueError, match="q in"):
        epsilon([Spent(1.0, 1.5, 1)], 1e-5)


def test_without_opacus_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "opacus":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'fedhive\[dp\]'"):
        epsilon([Spent(1.23, 0.123, 1)], 1e-5)
    assert epsilon([Spent(1.23, 1.0, 1)], 1e-5) > 0.0  # the exact formula needs no library
