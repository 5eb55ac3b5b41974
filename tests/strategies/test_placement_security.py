"""Protections chosen per client: against enumeration, by properties, and at size."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhive.errors import UserError
from strategies.placement_program import NOBODY
from strategies.placement_security import (
    Assignment,
    Clients,
    Infeasible,
    Instance,
    Plan,
    Prices,
    Rules,
    solve,
)

PLANS = (
    Plan("shielded", level=4, exposure=0.125, compute=1.25),
    Plan("encrypted", level=2, exposure=0.0, compute=1.0, traffic=4.0, cohort=True),
    Plan("noised", level=0, exposure=0.25, accuracy_loss=0.25),
    Plan("plain", level=0, exposure=1.0),
)


def clients(n: int, rng: np.random.Generator) -> Clients:
    """Numbers on a coarse grid, so that nothing hangs on the last bit."""
    eighths = lambda low, high: rng.integers(8 * low, 8 * high + 1, n) / 8.0  # noqa: E731
    return Clients(
        level=rng.integers(0, 5, n), available=eighths(0, 1), compute_s=eighths(1, 8),
        transfer_s=eighths(0, 2), train_w=8.0 * eighths(1, 8), comm_w=eighths(0, 2),
        g_per_kwh=450.0 * eighths(0, 2), sensitivity=eighths(0, 2),
    )  # fmt: skip


def judged(instance: Instance, plans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row of ``plans`` keeps the rules, and its cost: both written a second time."""
    rules, prices, tiny = instance.rules, instance.prices, 1e-6
    who, chosen = np.arange(plans.shape[1]), plans != NOBODY
    cells = who[None, :], np.where(chosen, plans, 0)

    def total(values: np.ndarray) -> np.ndarray:
        return np.where(chosen, values, 0.0).sum(axis=1)

    least = np.array([plan.level for plan in instance.plans])[cells[1]]
    worth = 1.0 - np.array([plan.accuracy_loss for plan in instance.plans])[cells[1]]
    hides = np.array([plan.cohort for plan in instance.plans])[cells[1]]
    seconds, count = np.where(chosen, instance.seconds()[cells], 0.0), chosen.sum(axis=1)
    risks, hidden = total(instance.risks()[cells]), total(hides)
    trusted = total(np.broadcast_to(instance.clients.level >= 2, plans.shape))
    good = ~(chosen & (instance.clients.level < least)).any(axis=1)
    good &= seconds.max(axis=1) <= rules.deadline_s
    good &= total(instance.clients.available * worth) >= rules.replies - tiny
    if rules.most is not None:
        good &= count <= rules.most
    if rules.risk is not None:
        good &= risks <= rules.risk * count + tiny
    good &= trusted >= rules.hardware * count - tiny
    good &= (hidden == 0) | (hidden >= rules.cohort)
    grams = total(instance.grams()[cells])
    cost = prices.second * seconds.max(axis=1) + prices.risk * risks + prices.gram * grams
    return good, cost


def keeps(instance: Instance, plan: np.ndarray) -> bool:
    return bool(judged(instance, plan[None])[0][0])


def enumerated(instance: Instance) -> float:
    """The least cost over all assignments; infinite if none keeps the rules."""
    choices = range(NOBODY, len(instance.plans))
    every = np.array(list(itertools.product(choices, repeat=len(instance.clients))))
    good, cost = judged(instance, every)
    return float(cost[good].min(initial=math.inf))


@st.composite
def instances(draw: st.DrawFn, most: int = 4) -> Instance:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, most))
    rules = Rules(
        replies=draw(st.sampled_from([0.0, 0.3, 0.9, 1.7])),
        most=draw(st.sampled_from([None, 2, 3])),
        risk=draw(st.sampled_from([0.11, 0.37, 0.73, None])),
        hardware=draw(st.sampled_from([0.0, 0.4, 0.7])),
        cohort=draw(st.integers(1, 3)),
        deadline_s=draw(st.sampled_from([math.inf, 6.03])),
    )
    prices = Prices(
        second=draw(st.sampled_from([0.0, 0.013, 0.31])), risk=draw(st.sampled_from([0.0, 1.0])),
        gram=draw(st.sampled_from([0.0, 0.7])),
    )  # fmt: skip
    return Instance(clients(n, rng), PLANS, rules, prices)


@settings(max_examples=30, deadline=None)
@given(instances())
def test_nothing_is_cheaper(instance):
    least = enumerated(instance)
    if math.isinf(least):
        with pytest.raises(Infeasible):
            solve(instance)
        return
    found = solve(instance)
    assert keeps(instance, found.plan)
    assert found.cost == pytest.approx(judged(instance, found.plan[None])[1][0], abs=1e-9)
    assert found.cost == pytest.approx(least, rel=1e-6, abs=1e-6)
    assert found.bound <= found.cost + 1e-9
    assert found.gap <= 1e-5 or found.cost < 1e-5


@settings(max_examples=25, deadline=None)
@given(instances())
def test_rounding_keeps_the_rules_and_its_bound(instance):
    """The way of large hives, on small ones: never wrong, and its bound is one."""
    try:
        found = solve(instance, exact_up_to=0, most_steps=50)
    except Infeasible:
        assert math.isinf(enumerated(instance))
        return
    least = enumerated(instance)
    assert keeps(instance, found.plan)
    assert found.bound <= least + 1e-6
    assert found.cost >= least - 1e-6


def test_by_hand():
    """Two clients, one protection: the faster one is dearer in carbon."""
    who = Clients(
        level=np.array([1, 1]), available=np.ones(2), compute_s=np.array([10.0, 100.0]),
        transfer_s=np.zeros(2), train_w=np.array([3600.0, 360.0]), comm_w=np.zeros(2),
        g_per_kwh=np.array([1000.0, 100.0]), sensitivity=np.ones(2),
    )  # fmt: skip
    # 36 kJ = 10 Wh each: 10 g and 1 g.
    plain = [Plan("plain", 0, exposure=1.0)]
    prices = Prices(second=1.0, risk=0.0, gram=1.0)
    cheap_time = solve(Instance(who, plain, prices=prices))
    assert (cheap_time.plan.tolist(), cheap_time.seconds) == ([0, NOBODY], 10.0)
    assert cheap_time.cost == pytest.approx(20.0)
    dear_carbon = solve(Instance(who, plain, prices=replace(prices, gram=11.0)))
    assert dear_carbon.plan.tolist() == [NOBODY, 0]
    assert dear_carbon.cost == pytest.approx(111.0)
    both = solve(Instance(who, plain, Rules(replies=2.0), prices))
    assert both.cost == pytest.approx(111.0)
    assert both.grams == pytest.approx(11.0)


def test_a_cohort_is_empty_or_large_enough():
    """Encryption is best for each alone, but there is one client too few that may use it."""
    rng = np.random.default_rng(3)
    who = replace(clients(9, rng), level=np.array([2, 2, 2, 0, 0, 0, 0, 0, 0]))
    who = replace(who, available=np.ones(9), sensitivity=np.ones(9))
    for m, expected in ((3, 3), (4, 0)):
        rules = Rules(replies=6.0, cohort=m)
        found = solve(Instance(who, PLANS, rules, Prices(second=0.0, gram=0.0)))
        assert int((found.plan == 1).sum()) == expected
    lone = Rules(replies=1.0, cohort=1)
    assert int((solve(Instance(who, PLANS, lone)).plan == 1).sum()) == 1


def test_levels_are_respected():
    rng = np.random.default_rng(5)
    instance = Instance(clients(60, rng), PLANS, Rules(replies=20.0))
    found = solve(instance)
    for i in np.flatnonzero(found.plan != NOBODY):
        assert instance.clients.level[i] >= PLANS[found.plan[i]].level


@pytest.mark.parametrize(
    ("rules", "culprit"),
    [
        (Rules(replies=3.0, risk=0.01), "risk"),
        (Rules(replies=3.0, most=2), "most"),
        (Rules(replies=3.0, deadline_s=0.5), "deadline_s"),
        (Rules(replies=3.0, hardware=1.1), "hardware"),
        (Rules(replies=4.0, risk=0.1, cohort=9), "cohort"),
    ],
)
def test_what_is_in_the_way_is_named(rules, culprit):
    who = replace(clients(6, np.random.default_rng(1)), level=np.full(6, 2))
    who = replace(who, available=np.ones(6), sensitivity=np.ones(6))
    with pytest.raises(Infeasible, match=f"without .*{culprit}"):
        solve(Instance(who, PLANS, rules))


def test_too_few_replies():
    with pytest.raises(Infeasible, match=r"6 clients with [\d.]+ expected replies cannot give 99"):
        solve(Instance(clients(6, np.random.default_rng(1)), PLANS, Rules(replies=99.0)))


def fleet(n: int, seed: int = 0) -> Clients:
    """As volunteers are: speeds and bandwidths over orders of magnitude, few trusted."""
    rng = np.random.default_rng(seed)
    return Clients(
        level=rng.choice(5, size=n, p=[0.2, 0.2, 0.35, 0.2, 0.05]),
        available=rng.beta(4, 2, n), compute_s=60.0 * np.exp(0.8 * rng.standard_normal(n)),
        transfer_s=10.0 * np.exp(0.8 * rng.standard_normal(n)), train_w=rng.uniform(5, 80, n),
        comm_w=rng.uniform(1, 5, n), g_per_kwh=rng.uniform(30, 700, n),
        sensitivity=rng.uniform(0.5, 1.5, n),
    )  # fmt: skip


def large(n: int) -> Instance:
    rules = Rules(replies=n / 10, most=n // 4, risk=0.35, hardware=0.5, cohort=20)
    return Instance(fleet(n), PLANS, rules, Prices(second=0.01 * n / 100, risk=1.0, gram=0.5))


def test_ten_thousand_clients_in_three_seconds():
    instance = large(10_000)
    began = time.process_time()
    found = solve(instance)
    spent = time.process_time() - began
    assert keeps(instance, found.plan)
    assert found.gap < 0.02
    assert spent < 3.0


def test_both_ways_agree_at_three_hundred():
    instance = large(300)
    exact, fast = solve(instance), solve(instance, exact_up_to=0)
    assert keeps(instance, fast.plan)
    assert exact.gap < 1e-6
    assert fast.bound <= exact.cost * (1 + 1e-9)
    assert exact.cost - 1e-6 <= fast.cost <= 1.02 * exact.cost


def test_it_is_deterministic():
    assert (solve(large(1100)).plan == solve(large(1100)).plan).all()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: Plan("x", 5, 0.5), "level"), (lambda: Plan("x", 0, 1.5), "exposure"),
        (lambda: Plan("x", 0, 0.5, compute=0.0), "compute"),
        (lambda: Instance(fleet(2), ()), "at least one"),
        (lambda: Instance(fleet(2), (PLANS[0], PLANS[0])), "name of its own"),
        (lambda: Instance(fleet(2), PLANS, prices=Prices(doubt=(0.1,))), "five numbers"),
    ],
)  # fmt: skip
def test_mistakes(bad, reason):
    with pytest.raises(UserError, match=reason):
        bad()


def test_clients_are_checked():
    good = fleet(3)
    for wrong in (
        {"available": np.array([0.5, 2.0, 0.5])}, {"level": np.array([0, 1, 9])},
        {"compute_s": np.array([1.0, np.nan, 1.0])}, {"train_w": np.ones(2)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must"):
            replace(good, **wrong)


def test_nobody_is_needed():
    found = solve(Instance(fleet(3), PLANS, Rules(replies=0.0)))
    assert (found.plan == NOBODY).all()
    assert found.cost == 0.0
    assert isinstance(found, Assignment)
