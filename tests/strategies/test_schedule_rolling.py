"""Our schedule: against brute force, by hand, its promises on random instances, its memory."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.local_work import Epochs
from strategies.schedule_rolling import Prospect, Rolling, affordable, best, crews, price_of
from strategies.view import NodeHistory
from tests.strategies.test_schedule import machine, outlook, view


@st.composite
def prospects(draw: st.DrawFn, most: int = 5) -> Prospect:
    n, t = draw(st.integers(1, most)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    there = np.where(rng.random((n, t)) < 0.8, rng.random((n, t)) + 0.01, 0.0)
    return Prospect(
        there * rng.random((n, 1)), there * (0.05 + rng.random((n, t))), there,
        rng.choice([600.0, 1200.0, 1800.0, 3600.0], n),
    )  # fmt: skip


def value_of(
    prospect: Prospect, crew: tuple[int, ...], t: int, power: float, price: float
) -> float:
    chosen = list(crew)
    progress = prospect.worth[chosen, t].sum() ** power
    net = price * progress - prospect.grams[chosen, t].sum()
    return float(net * 3600.0 / prospect.seconds[chosen].max())


@settings(max_examples=80, deadline=None)
@given(prospects(), st.floats(0.05, 20.0))
def test_crews_with_linear_progress_are_the_best_of_all(prospect: Prospect, price: float):
    """Without diminishing returns, no set at all beats the prefixes that are looked at."""
    made = crews(prospect, power=1.0, least=0)
    n, slots = prospect.worth.shape
    found = best(made, np.zeros(slots), price)
    for t in range(slots):
        able = [i for i in range(n) if prospect.worth[i, t] > 0.0]
        sets = itertools.chain.from_iterable(
            itertools.combinations(able, k) for k in range(1, len(able) + 1)
        )
        truth = max((value_of(prospect, s, t, 1.0, price) for s in sets), default=-math.inf)
        assert max(found.value[t], 0.0) == pytest.approx(max(truth, 0.0), rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(prospects(), st.floats(0.05, 20.0), st.floats(0.2, 0.9))
def test_crews_are_near_the_best_with_diminishing_returns(
    prospect: Prospect, price: float, power: float
):
    """The bound of the docstring: less one machine's task, a prefix is as good as any set."""
    made = crews(prospect, power=power, least=0)
    n, slots = prospect.worth.shape
    found = best(made, np.zeros(slots), price)
    for t in range(slots):
        able = [i for i in range(n) if prospect.worth[i, t] > 0.0]
        sets = itertools.chain.from_iterable(
            itertools.combinations(able, k) for k in range(1, len(able) + 1)
        )
        truth = max((value_of(prospect, s, t, power, price) for s in sets), default=0.0)
        one = max(
            (float(prospect.grams[i, t]) * 3600.0 / prospect.seconds.min() for i in able),
            default=0.0,
        )
        assert max(found.value[t], 0.0) >= max(truth, 0.0) - one - 1e-9


def test_a_crew_by_hand():
    """The slow machine is worth more, but a round with it takes three times as long."""
    prospect = Prospect(
        worth=np.array([[0.5], [0.5], [0.6]]), grams=np.array([[1.0], [3.0], [1.0]]),
        there=np.ones((3, 1)), seconds=np.array([1200.0, 1200.0, 3600.0]),
    )  # fmt: skip
    made = crews(prospect, power=1.0, least=1)
    assert made.rounds.tolist() == [3.0, 1.0]
    assert made.order[0, 0, :2].tolist() == [0, 1]
    assert made.order[1, 0].tolist() == [2, 0, 1]
    found = best(made, np.zeros(1), 4.0)  # 0 alone: 3 (4 * 0.5 - 1) = 3 an hour
    assert found.value[0] == pytest.approx(3.0)
    assert found.progress[0] == pytest.approx(1.5)
    assert found.grams[0] == pytest.approx(3.0)
    pair = best(crews(prospect, power=1.0, least=2), np.zeros(1), 4.0)
    assert pair.value[0] == pytest.approx(max(3 * (4 * 1.0 - 4.0), 4 * 1.1 - 2.0))
    late = best(made, np.array([1.0]), 4.0)  # a delay that costs 1 g a round
    assert late.value[0] == pytest.approx(1.4)  # now the slow one with 0: 4 * 1.1 - 2 - 1
    assert best(made, np.array([9.0]), 4.0).progress[0] == 0.0


def test_a_plan_counts_on_so_many_rounds_an_hour():
    prospect = Prospect(
        np.array([[0.5], [0.5]]), np.array([[1.0], [1.0]]), np.ones((2, 1)),
        np.array([600.0, 3600.0]),
    )  # fmt: skip
    made = crews(prospect, power=1.0, least=1, hourly=2.0)
    assert made.rounds.tolist() == [2.0, 1.0]
    # A crew of two is wanted: the quick machine alone is none, however short its rounds are.
    pair = crews(prospect, power=1.0, least=2, hourly=2.0)
    assert np.isinf(pair.grams[0]).all()
    assert best(pair, np.zeros(1), 9.0).progress[0] == pytest.approx(1.0)


def test_the_least_crew_is_all_there_are():
    prospect = Prospect(
        np.array([[0.1], [0.1]]), np.array([[1.0], [2.0]]), np.ones((2, 1)), np.full(2, 600.0)
    )
    made = crews(prospect, power=0.5, least=5)
    assert np.isfinite(made.grams).sum() == 1
    assert made.grams[0, 0, 1] == 3.0


@settings(max_examples=60, deadline=None)
@given(prospects(), st.floats(0.1, 5.0), st.floats(0.0, 0.1), st.floats(0.1, 30.0))
def test_the_price_does_the_work_within_the_budget(
    prospect: Prospect, work: float, delay: float, budget: float
):
    made = crews(prospect, power=0.5, least=1)
    delay_g = delay * np.arange(prospect.worth.shape[1], dtype=float)
    free = price_of(made, delay_g, work, math.inf, 1.0)
    tight = price_of(made, delay_g, work, budget, 1.0)
    assert tight <= free * (1.0 + 1e-6)
    found = best(made, delay_g, tight)
    kept = affordable(found, budget)
    assert not kept[found.grams <= 0.0].any()
    if kept.any():  # all but the last are paid for in full
        assert found.grams[kept].sum() - found.grams[kept].max() < budget
    if found.grams.sum() <= budget:
        assert kept.sum() == (found.value > 0.0).sum()
    most = best(made, delay_g, 1e12).progress.sum()
    if most >= work * (1.0 + 1e-6):
        assert best(made, delay_g, free).progress.sum() >= work * (1.0 - 1e-9)
        assert best(made, delay_g, 0.99 * free).progress.sum() <= work * (1.0 + 1e-6)


# ---- as a part --------------------------------------------------------------------------------


def part(**changes) -> Rolling:
    settings = {
        "work": Epochs(1.0), "batch_size": 100, "rounds": 2.0, "deadline_h": 6.0, "k": 2,
        "least": 1, "power": 1.0, "delay_price": 0.0,
    }  # fmt: skip
    return Rolling(**{**settings, **changes})


def hour_long(table, slot: int = 0, **more):
    """Two machines whose task takes an hour and 1 kWh; machine 0 in zone A, 1 in B."""
    profiles = {
        i: machine(zone, rate=100.0 / 3600.0, down_bps=1e15, up_bps=1e15)
        for i, zone in enumerate("AB")
    }
    history = {i: NodeHistory(examples=100, loss=1.0) for i in (0, 1)}
    carbon = outlook(table, slot=slot)
    return view(carbon, history=history, profiles=profiles, now_s=3600.0 * slot, **more)


def test_waits_for_the_cheapest_hours_by_hand():
    """2 rounds of 2 machines in 6 hours: 4 machine hours, the cheapest 4 are A's 1, 2 and B's."""
    table = [[9, 1, 2, 9, 9, 9] * 3, [9, 9, 3, 3, 9, 9] * 3]
    rule = part()
    asked = []
    for slot in range(4):
        asked.append(rule.plan(hour_long(table, slot)))
        rule.learn(hour_long(table), {node: np.zeros(1) for node in asked[-1].nodes})
    assert asked[0].nodes == frozenset()
    assert asked[0].wake_s == 3600.0
    assert asked[1].nodes == frozenset({0})
    assert asked[2].nodes == frozenset({0, 1})
    assert asked[3].nodes == frozenset({1})
    assert rule.spent_g == pytest.approx(1 + 2 + 3 + 3, abs=1e-3)


def test_delay_has_a_price():
    table = [[10, 9, 8, 7, 6, 5] * 3] * 2
    assert part(delay_price=0.0).plan(hour_long(table)).nodes == frozenset()
    assert part(delay_price=0.5).plan(hour_long(table)).nodes == frozenset({0, 1})


def test_a_deadline_that_cannot_be_met_asks_everybody():
    table = [[500] * 12, [1] * 12]
    assert part(rounds=1.0).plan(hour_long(table)).nodes == frozenset({1})
    assert part(rounds=100.0).plan(hour_long(table)).nodes == frozenset({0, 1})
    late = part(rounds=4.0).plan(hour_long(table, slot=9))
    assert late.nodes == frozenset({0, 1})


def test_what_is_outstanding_by_hand():
    """30 rounds in 60 hours: half a round an hour."""
    rule = part(rounds=30.0, deadline_h=60.0)
    assert rule.outstanding(0.0) == (60, 30.0)
    assert rule.outstanding(20 * 3600.0) == (40, 30.0)  # behind: all of it by the deadline
    rule.done = 25.0
    assert rule.outstanding(20 * 3600.0) == (40, 20.0)  # ahead: it goes on at its pace
    assert rule.outstanding(50 * 3600.0) == (24, 12.0)  # never for less than a day
    rule.done = 20.0
    assert rule.outstanding(50.5 * 3600.0) == (10, 10.0)
    assert rule.outstanding(70 * 3600.0) == (24, 12.0)  # after the deadline no hurry
    rule.done = 0.0
    assert rule.outstanding(70 * 3600.0) == (24, 30.0)  # but what is left within a day
    long = part(rounds=400.0, deadline_h=400.0)
    assert long.outstanding(0.0) == (168, 168.0)
    assert long.outstanding(200 * 3600.0) == (168, pytest.approx(400.0 * 168 / 200))


def test_the_budget_ends_it():
    table = [[500] * 12, [100] * 12]
    rule = part(rounds=100.0, budget_g=250.0)
    assert rule.plan(hour_long(table)).nodes == frozenset({1})
    assert rule.spent_g == pytest.approx(100.0)
    assert rule.plan(hour_long(table, 1)).nodes == frozenset({1})
    assert rule.plan(hour_long(table, 2)).nodes == frozenset()  # a third would break it
    rule.spent_g = 250.0
    spent = rule.plan(hour_long(table))
    assert (spent.nodes, spent.wake_s) == (frozenset(), 3600.0)


def test_useful_machines_are_worth_more():
    table = [[100] * 12, [130] * 12]
    history = {0: NodeHistory(100, 1.0), 1: NodeHistory(100, 3.0)}
    seen = hour_long(table)
    seen = type(seen)(**{**vars(seen), "history": history})
    assert part(rounds=1.0).plan(seen).nodes == frozenset({1})


def test_machines_that_took_part_less_are_worth_more():
    table = [[100] * 12, [130] * 12]
    history = {0: NodeHistory(100, 1.0, completed=3), 1: NodeHistory(100, 1.0, completed=1)}
    seen = hour_long(table)
    seen = type(seen)(**{**vars(seen), "history": history})
    assert part(rounds=1.0, fairness=0.0).plan(seen).nodes == frozenset({0})
    assert part(rounds=1.0, fairness=1.0).plan(seen).nodes == frozenset({1})
    rule = part(fairness=1.0)
    rule.plan(seen)  # mean of 4 and 2 is 3: factors 3/4 and 3/2, over their mean
    assert rule.utility == pytest.approx({0: 0.75 / 1.125, 1: 1.5 / 1.125})


def test_nobody_there():
    seen = hour_long([[5] * 12] * 2, idle=[])
    waits = part().plan(seen)
    assert (waits.nodes, waits.wake_s) == (frozenset(), 300.0)


def test_progress_is_counted_and_remembered():
    rule = part(power=0.5)
    rule.utility = {0: 1.5, 1: 0.5}
    rule.spent_g = 7.0
    rule.learn(hour_long([[5] * 12] * 2), {0: np.zeros(1), 1: np.zeros(1)})
    assert rule.done == 1.0  # both of two average machines: one full round
    rule.learn(hour_long([[5] * 12] * 2), {1: np.zeros(1)})
    assert rule.done == pytest.approx(1.0 + 0.25**0.5)
    other = part(power=0.5)
    other.restore(json.loads(json.dumps(rule.state())))
    assert other.state() == rule.state()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"k": 0}, "k must"), ({"least": 0}, "least"), ({"power": 0.0}, "power"),
        ({"deadline_h": 0.0}, "deadline_h"), ({"delay_price": -1.0}, "delay_price"),
        ({"budget_g": -1.0}, "budget_g"), ({"rounds": 0.0}, "rounds"),
        ({"fairness": -1.0}, "fairness"),
        ({"hourly": 0.0}, "hourly"),
    ],
)  # fmt: skip
def test_impossible_settings(wrong: dict, says: str):
    with pytest.raises(ValueError, match=says):
        part(**wrong)
