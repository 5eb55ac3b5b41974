"""LowCarb, CAFE and FedZero as parts of a hive: by hand, and their memory."""

from __future__ import annotations

import json

import numpy as np
import pytest

from strategies import Hive
from strategies.local_work import Epochs
from strategies.schedule_fedzero import FedZero
from strategies.schedule_published import SKETCH, Cafe, LowCarb
from strategies.scheduling_rules import cafe
from strategies.selection import Uniform
from strategies.trigger_adaptive import Buffer
from strategies.view import NodeHistory
from tests.strategies.test_schedule import ZONES, hive_in, machine, outlook, view

FLAT = [[4.0] * 30, [4.0] * 30]


# ---- LowCarb ----------------------------------------------------------------------------------


def test_lowcarb_takes_those_that_gain_least_from_waiting():
    table = [[9.0, 5.0, 9.0], [9.0, 8.0, 9.0]]
    assert LowCarb(k=1, horizon_h=2).plan(view(outlook(table))).nodes == frozenset({1})
    asked_often = {1: NodeHistory(selected=4), 0: NodeHistory(selected=1)}
    # A was asked less than half as often as B: it must not wait, and B is barred.
    seen = view(outlook(table), history=asked_often)
    assert LowCarb(k=1, horizon_h=2).plan(seen).nodes == frozenset({0})
    assert LowCarb(k=2, horizon_h=2).plan(view(outlook(table), idle=[0])).nodes == frozenset({0})


def test_lowcarb_never_makes_training_wait():
    events, _ = hive_in([[9.0, 1.0] * 20] * 2, LowCarb(k=1, horizon_h=4), 3)
    assert [len(found) for found in events] == [1, 1, 1]
    assert events[0][0]["sent_s"] == 0.0


# ---- CAFE -------------------------------------------------------------------------------------


def part(**changes) -> Cafe:
    return Cafe(**{"work": Epochs(1.0), "batch_size": 1000, "rounds": 10, **changes})


def test_cafe_pays_its_queue():
    """Each task: one batch of 1,000 samples at 1 kW for 1 s, in g at 3,600 g/kWh: 1 g."""
    carbon = outlook([[3600.0 / 3.6] * 3, [3600.0 / 3.6] * 3])
    grams = 1000.0 / 3.6e6 * 1000.0
    rule = part(budget_g=10.0 * grams, value=1.0)
    seen = view(carbon, now_s=0.0)
    first = rule.plan(seen)
    # Unknown machines are 1 apart from each other: both are worth taking with an empty queue.
    assert first.nodes == frozenset({0, 1})
    assert rule.queue_g == pytest.approx(2.0 * grams - grams)
    # Queue 1: the first is worth 2 (it stands for both, but for itself at distance 0) at a price
    # of 1, the second 1 more at a price of 1.
    assert rule.plan(seen).nodes == frozenset({0, 1})
    assert rule.queue_g == pytest.approx(2.0 * grams)
    nobody = part(budget_g=10.0 * grams, value=0.0)
    nobody.queue_g = grams
    assert nobody.plan(seen).nodes == frozenset()
    assert nobody.queue_g == 0.0
    assert nobody.plan(view(carbon, idle=[])).wake_s == 300.0


def test_cafe_is_the_pure_rule_on_sketched_distances():
    rule = part(budget_g=1.0)
    profiles = {i: machine() for i in range(4)}
    seen = view(
        outlook([[5.0] * 3] * 2, of=dict.fromkeys(range(4), "A")), profiles=profiles,
        history={i: NodeHistory(examples=100, steps=2) for i in range(4)},
    )  # fmt: skip
    updates = {0: [0.0, 0.0], 1: [2.0, 0.0], 2: [0.0, 2.0]}
    rule.learn(seen, {node: np.array(u, np.float32) for node, u in updates.items()})
    assert rule.sketches[1] == [1.0, 0.0]  # over its steps
    mean = (1.0 + 1.0 + 2.0**0.5) / 3.0
    far = 2.0**0.5 / mean
    wanted = np.array([[0, 1, 1], [1, 0, 2**0.5], [1, 2**0.5, 0]]) / mean
    distances = rule.distances([0, 1, 2, 3], [0, 1, 2, 3])
    assert distances[:3, :3] == pytest.approx(wanted)
    assert distances[3].tolist() == [pytest.approx(far)] * 3 + [0.0]
    rule.queue_g = 0.05
    each = 1.0 / 10
    joules = 1000.0 * 100 / 1000.0
    grams = np.full(4, joules / 3.6e6 * 5.0)
    mask = cafe(distances, grams / each, queue_g=0.05 / each, value=1.0)
    assert rule.plan(seen).nodes == frozenset(np.flatnonzero(mask).tolist())


def test_sketches_keep_distances():
    rng = np.random.default_rng(0)
    rule = part()
    points = rng.standard_normal((6, 20_000)).astype(np.float32)
    kept = np.array([rule._sketch(point) for point in points])
    assert kept.shape == (6, SKETCH)
    true = ((points[:, None] - points) ** 2).sum(2)
    seen = ((kept[:, None] - kept) ** 2).sum(2)
    off = ~np.eye(6, dtype=bool)
    assert np.abs(seen[off] / true[off] - 1.0).max() < 0.4
    assert np.abs(seen[off].mean() / true[off].mean() - 1.0) < 0.1


def test_cafe_remembers():
    rule = part()
    rule.queue_g = 3.5
    rule.learn(view(None), {1: np.array([1.0, 2.0], np.float32)})
    other = part()
    other.restore(json.loads(json.dumps(rule.state())))
    assert (other.queue_g, other.sketches) == (rule.queue_g, rule.sketches)


# ---- FedZero ----------------------------------------------------------------------------------

CLEAN = [5.0, 1.0, 5.0, 5.0]
"""A zone with excess power in every fourth hour."""


def zero(**changes) -> FedZero:
    settings = {
        "batch_size": 1000, "k": 1, "step_s": 1800.0, "longest_s": 3600.0, "clean": 0.2,
        "excess": 0.5, "min_epochs": 100.0, "max_epochs": 900.0,
    }  # fmt: skip
    return FedZero(**{**settings, **changes})


def test_fedzero_by_hand():
    """1 kW machines of 1 batch/s with 0.5 kW of excess each: 900 batches in a step of 1,800 s."""
    table = [CLEAN * 10, [5.0] * 4 * 10]
    signal_from = 8  # so that there is a past
    dirty = view(outlook(table, slot=signal_from), now_s=3600.0 * signal_from)
    waits = zero().plan(dirty)
    # A's next clean hour begins within the second step's reach only after an hour: nothing now;
    # B is always the same, so every hour is its cleanest.
    assert waits.nodes == frozenset({1})
    steps = {node: work["local-steps"] for node, work in waits.settings.items()}
    assert steps == {1: 900}
    only_a = view(outlook(table, slot=signal_from), now_s=3600.0 * signal_from, idle=[0])
    assert zero().plan(only_a) == zero().plan(only_a)
    assert zero().plan(only_a).nodes == frozenset()
    assert zero().plan(only_a).wake_s == 3600.0 * signal_from + 300.0
    clean = view(outlook(table, slot=9), now_s=3600.0 * 9, idle=[0])
    assert zero().plan(clean).settings == {0: {"local-steps": 900}}


def test_fedzero_wants_k_machines():
    table = [[4.0] * 40] * 2
    seen = view(outlook(table, slot=8), now_s=3600.0 * 8)
    assert zero(k=2).plan(seen).nodes == frozenset({0, 1})
    assert zero(k=3).plan(seen).nodes == frozenset()


def took_part(*rounds: int, now_h: float = 8.0, no: int = 1, clean=FLAT):
    """A view of machines of two zones in turn that took part so often, at a clean hour."""
    nodes = range(len(rounds))
    carbon = outlook(clean, slot=int(now_h), of={i: ZONES[i % 2] for i in nodes})
    return view(
        carbon, now_s=3600.0 * now_h, round=no, profiles={i: machine(ZONES[i % 2]) for i in nodes},
        history={i: NodeHistory(examples=10, loss=1.0, completed=n) for i, n in enumerate(rounds)},
    )  # fmt: skip


UPDATE = np.zeros(2, np.float32)


def test_fedzero_excludes_and_releases():
    rule = zero(factor=1.0, alpha=0.5)
    rule.learn(took_part(1, 1), {0: UPDATE})
    seen = took_part(1, 1, no=2)
    draws = seen.rng("schedule.0").random(2)
    chosen = rule.plan(seen).nodes
    assert rule.excluded == ({0} if draws[0] >= 0.5 else set())  # 0.5 / (1 - 0)
    assert chosen is not None
    assert not chosen & rule.excluded
    other = zero()
    other.restore(json.loads(json.dumps(rule.state())))
    assert other.state() == rule.state()
    rule.fair, rule.excluded = 1.0, {0}  # no more than a fair share: surely released
    rule.plan(seen)
    assert rule.excluded == set()
    kept = zero(alpha=0.0)
    kept.learn(seen, {0: UPDATE})
    assert kept.plan(seen).nodes
    assert not kept.excluded


def test_fedzero_releases_until_there_are_enough():
    """Two machines of three are wanted, and all three sit out: it draws again at every look."""
    rule = zero(k=2, alpha=0.2)
    seen = took_part(4, 4, 4, no=5)
    rule.excluded = {0, 1, 2}
    rule.learn(seen, {0: UPDATE, 1: UPDATE, 2: UPDATE})
    looks = 1
    while not (found := rule.plan(seen)).nodes:
        assert found.wake_s == seen.now_s + 300.0
        looks += 1
        assert looks < 5000  # released with probability 1 in 20 each
    assert looks > 1
    rule.learn(seen, {})  # a round in which nobody took part changes nothing
    assert rule.last == {0, 1, 2}


def test_fedzero_wants_excess_energy_now():
    """A's clean hour begins within the round, but tasks begin at once."""
    table = [CLEAN * 10, [5.0] * 4 * 10]
    seen = took_part(1, 1, now_h=8.5, clean=table)
    rule = zero(k=1)
    assert rule.plan(seen).nodes == frozenset({1})
    assert rule.active == {1}
    assert zero(k=2).plan(seen).nodes == frozenset()


def test_fedzeros_fair_share_moves_in_the_second_half_of_the_day():
    rule = zero()
    rule.excluded = {0}
    rule.plan(took_part(2, 4))
    assert rule.active == {0, 1}  # those that sit out count among the active
    assert rule.fair_share(took_part(2, 4, now_h=12.0)) == 0.0
    assert rule.fair_share(took_part(2, 4, now_h=18.0)) == pytest.approx(1.5)
    assert rule.fair_share(took_part(2, 4, now_h=24.0)) == pytest.approx(3.0)
    rule.plan(took_part(2, 6, now_h=24.0))
    assert (rule.fair, rule.cycle_s) == (4.0, 86_400.0)
    assert rule.fair_share(took_part(2, 8, now_h=30.0)) == 4.0


def test_fedzero_sets_the_steps_of_a_hive():
    events, _ = hive_in([[4.0] * 40] * 2, zero(batch_size=10, k=2, min_epochs=1.0), 2)
    assert [len(found) for found in events] == [2, 2]


# ---- together with other parts ----------------------------------------------------------------


@pytest.mark.parametrize("make", [LowCarb, FedZero, part])
def test_schedules_that_choose_want_selection_all(make):
    from fedhive.world.carbon_forecast import SeasonalNaive

    forecast = SeasonalNaive()
    with pytest.raises(ValueError, match=r"picks the machines itself.*add selection=all"):
        Hive(Uniform(k=10), schedule=make(), carbon_forecast=forecast)
    with pytest.raises(ValueError, match="trigger Buffer asks more"):
        Hive(Uniform(None), trigger=Buffer(k=2), schedule=make(), carbon_forecast=forecast)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LowCarb(k=0), "k must"),
        (lambda: part(budget_g=0.0), "budget_g"),
        (lambda: part(value=-1.0), "value"),
        (lambda: part(rounds=0), "rounds"),
        (lambda: FedZero(min_epochs=3.0, max_epochs=2.0), "max_epochs"),
        (lambda: FedZero(clean=1.2), "clean"),
        (lambda: FedZero(step_s=300.0, longest_s=60.0), "longest_s"),
        (lambda: FedZero(k=0), "k must"),
    ],
)
def test_impossible_settings(make, says: str):
    with pytest.raises(ValueError, match=says):
        make()
