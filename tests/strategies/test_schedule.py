"""Schedules that let machines work in some hours: by hand, in hives, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from fedhive import seeding
from fedhive.errors import UserError
from fedhive.flower import set_message_id
from fedhive.world.carbon_forecast import HOUR_S, CarbonForesight, CarbonOutlook, Perfect
from fedhive.world.carbon_series import Hourly
from fedhive.world.clock import WallClock
from fedhive.world.devices import Device
from fedhive.world.grid import World
from fedhive.world.task import Plan
from strategies import Hive
from strategies.local_work import Epochs
from strategies.schedule import (
    Agenda,
    AlphaFair,
    Now,
    Threshold,
    agenda,
    expected_joules,
    oort_utilities,
    task_joules,
)
from strategies.selection import Uniform
from strategies.trigger import All, Deadline
from strategies.view import NodeHistory, Unforeseen, View
from tests.fedhive.world.worlds import FakeEngine, Written, device, received, reply_to
from tests.strategies.test_hive import by_number, model, play

ZONES = ("A", "B")


def machine(zone: str = "A", **changes) -> Device:
    """1,000 samples/s, 3,600 W: an hour of training is 1 kWh per 1 kW, so grams are easy."""
    return device(**{"zone": zone, "rate": 1000.0, "train_w": 1000.0, "comm_w": 0.0, **changes})


def outlook(table, slot: int = 0, zones=ZONES, of: dict[int, str] | None = None) -> CarbonOutlook:
    """What a perfect forecaster says at the beginning of ``slot``; node 0 in A, 1 in B."""
    signal = Hourly(np.asarray(table, float).T, zones)
    past = CarbonForesight(signal, HOUR_S * slot)
    return CarbonOutlook(Perfect(), past, of or dict(enumerate(zones)))


def view(
    carbon: CarbonOutlook | None, *, idle=None, history=None, profiles=None, round: int = 1,
    now_s: float = 0.0, **more,
) -> View:  # fmt: skip
    profiles = profiles or {0: machine("A"), 1: machine("B")}
    nodes = tuple(sorted(profiles))
    return View(
        round=round, now_s=now_s, online=nodes, idle=nodes if idle is None else tuple(idle),
        history=history or {}, rng=lambda name: seeding.stream(3, name, round),
        profiles=profiles, carbon=carbon, outlook=Unforeseen(nodes), **more,
    )  # fmt: skip


# ---- what schedules share ---------------------------------------------------------------------


def test_an_agenda_by_hand():
    carbon = outlook([[1.0] * 4, [1.0] * 4])
    assert agenda(np.array([[1, 0], [0, 0]]), [0, 1], carbon) == Agenda(frozenset({0}), 3600.0)
    waits = agenda(np.array([[0, 0, 1], [0, 0, 0]]), [0, 1], carbon)
    assert waits == Agenda(frozenset(), 2 * 3600.0)
    never = agenda(np.zeros((2, 3), int), [0, 1], carbon)
    assert never == Agenda(frozenset(), 3 * 3600.0)
    over = agenda(np.zeros((2, 0), int), [0, 1], carbon)
    assert over == Agenda(frozenset(), 3600.0)


def test_energy_is_what_the_ledger_charges():
    """The model takes 3,000 bytes each way here; the ledger charges what really went."""
    phone = device(net_j_per_byte=0.01, latency_s=0.5)
    told = task_joules(phone, 3000, 700.0)
    assert told == pytest.approx(10.0 * 7.0 + 2.0 * 2 * (0.5 + 3.0) + 0.01 * 6000)
    grid = World(
        [phone], Written(), Hourly([[100.0]], ["DE-LU"]), FakeEngine(by_number), {},
        planner=lambda m, c: Plan(700.0, 3, 3000),
    )  # fmt: skip
    Hive(Uniform(k=None)).train_round(1, model(), ConfigRecord(), grid)
    [event] = grid.collect_events()
    down, up = event["bytes_down"], event["bytes_up"]
    less_s = (3000 - down) / 1000.0  # the upload took as long as planned
    assert event["energy_j"] == pytest.approx(told - 2.0 * less_s - 0.01 * (6000 - down - up))


def test_expected_joules_follow_the_work():
    seen = view(outlook([[1.0], [1.0]]), history={0: NodeHistory(examples=500)})
    assert expected_joules(seen, Epochs(2.0), 10, [0]).tolist() == [
        pytest.approx(1000.0 * 2.0 * 500 / 1000.0)
    ]


def test_utilities_of_oort():
    history = {0: NodeHistory(examples=10, loss=9.0, loss_rms=2.0), 1: NodeHistory(30, 1.0)}
    profiles = {i: machine() for i in range(3)}
    seen = view(None, history=history, profiles=profiles)
    assert oort_utilities(seen, [0, 1, 2]).tolist() == [20.0, 30.0, 30.0]
    assert oort_utilities(seen, [0, 1, 2], "size").tolist() == [20.0, 30.0, 20.0]
    assert oort_utilities(view(None), [0, 1]).tolist() == [1.0, 1.0]


# ---- threshold --------------------------------------------------------------------------------


def test_threshold_by_hand():
    carbon = outlook([[10.0, 20.0, 5.0, 30.0], [7.0, 6.0, 6.0, 40.0]])
    half = Threshold(quantile=0.5, horizon_h=4)
    assert half.plan(view(carbon)) == Agenda(frozenset({0}), 3600.0)
    limit = Threshold(limit_g_per_kwh=7.0, quantile=None, horizon_h=4)
    assert limit.plan(view(carbon)) == Agenda(frozenset({1}), 3600.0)
    late = Threshold(limit_g_per_kwh=5.0, quantile=None, horizon_h=4)
    assert late.plan(view(carbon)) == Agenda(frozenset(), 7200.0)


def hive_in(table, schedule, rounds: int, *, on=None, seconds: float = 60.0, **parts):
    """Two machines in zones A and B whose tasks take so long; (events by round, the grid)."""
    machines = [
        device(zone=zone, rate=100.0 / seconds, down_bps=1e15, up_bps=1e15) for zone in ZONES
    ]
    grid = World(
        machines, Written(on or {}), Hourly(np.asarray(table, float).T, ZONES),
        FakeEngine(by_number), {}, planner=lambda m, c: Plan(100.0, 4, 10),
    )  # fmt: skip
    hive = Hive(
        parts.pop("selection", Uniform(k=None)), schedule=schedule, carbon_forecast=Perfect(),
        **parts,
    )  # fmt: skip
    _, events = play(hive, grid, rounds)
    return events, grid


def test_the_hive_waits_for_the_hour():
    """B may work in hours 2 and 3, A in hour 4: rounds of 25 minutes, the third crosses over."""
    table = [[9, 9, 9, 9, 1, 9], [9, 9, 1, 1, 9, 9]]
    low = Threshold(limit_g_per_kwh=5.0, quantile=None, horizon_h=6)
    events, _ = hive_in(table, low, 6, seconds=1500.0)
    told = [[(e["node"], round(e["sent_s"] / 60.0, 6)) for e in found] for found in events]
    assert told == [[(1, 120.0)], [(1, 145.0)], [(1, 170.0)], [(1, 195.0)], [(1, 220.0)],
                    [(0, 245.0)]]  # fmt: skip


def test_a_machine_that_comes_later_in_its_hour_is_asked():
    table = [[1, 9, 9], [9, 9, 9]]
    low = Threshold(limit_g_per_kwh=5.0, quantile=None, horizon_h=3)
    events, _ = hive_in(table, low, 1, on={0: [(1000.0, 3000.0)]})
    [[event]] = events
    assert event["node"] == 0
    assert 1000.0 <= event["sent_s"] <= 1060.0


def test_nobody_for_a_day_ends_the_round():
    events, grid = hive_in(
        [[9] * 200, [9] * 200], Threshold(limit_g_per_kwh=5.0, quantile=None), 2
    )
    assert events == [[], []]
    assert grid.clock.now == pytest.approx(2 * 86_400.0, abs=200.0)


def test_late_replies_are_not_slept_through():
    """A's reply comes while nobody may work: with `keep` it is used as it arrives."""
    table = [[1, 9, 9, 9], [9, 9, 9, 1]]
    low = Threshold(limit_g_per_kwh=5.0, quantile=None, horizon_h=4)
    events, grid = hive_in(
        table, low, 3, seconds=4000.0, trigger=Deadline(seconds=1800.0, keep=True)
    )
    statuses = [(e["node"], e["status"]) for found in events for e in found]
    assert statuses == [(0, "accepted")]
    assert grid.clock.now >= 4000.0


# ---- alpha-fair -------------------------------------------------------------------------------


def test_alpha_fair_plans_once_and_keeps_to_it():
    table = [[5.0, 1.0, 3.0, 9.0], [2.0, 8.0, 1.0, 9.0]]
    part = AlphaFair(hours=3, slack_h=0, fine_tune_h=0, alpha=0.5, budget_share=None, budget_g=4.0)
    seen = view(outlook(table))
    first = part.plan(seen)
    # 1 kW for an hour: grams are intensities. 1 (A, hour 1) + 1 (B, 2) + 2 (B, 0) fit in 4.
    assert part.slots == {0: "010", 1: "101"}
    assert first == Agenda(frozenset({1}), 3600.0)
    dirty = outlook([[99.0] * 4, [99.0] * 4], slot=1)
    assert part.plan(view(dirty, now_s=3600.0)).nodes == frozenset({0})
    over = part.plan(view(outlook(table, slot=3), now_s=3 * 3600.0))
    assert over.nodes == frozenset()
    again = dataclasses.replace(part)
    again.restore(json.loads(json.dumps(part.state())))
    assert (again.slots, again.first) == (part.slots, part.first)


def test_alpha_fair_budget_share_counts_the_hours_before_the_deadline():
    table = [[4.0, 4.0, 1.0], [4.0, 4.0, 2.0]]
    part = AlphaFair(hours=2, slack_h=1, fine_tune_h=0, alpha=1.0, budget_share=0.19)
    part.plan(view(outlook(table)))  # 0.19 * 16 g = 3.04 g
    assert part.slots == {0: "001", 1: "001"}


def test_alpha_fair_without_a_plan_is_refused():
    part = AlphaFair(hours=2, slack_h=0, fine_tune_h=1, budget_share=None, budget_g=0.5)
    with pytest.raises(UserError, match="fine-tuning"):
        part.plan(view(outlook([[4.0] * 3, [4.0] * 3])))


# ---- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Threshold(limit_g_per_kwh=3.0, quantile=0.5), "either"),
        (lambda: Threshold(quantile=None), "either"),
        (lambda: Threshold(quantile=1.5), "quantile"),
        (lambda: Threshold(horizon_h=0), "horizon_h"),
        (lambda: AlphaFair(budget_g=3.0), "either"),
        (lambda: AlphaFair(alpha=0.0), "alpha"),
        (lambda: AlphaFair(hours=3, fine_tune_h=4), "fine_tune_h"),
        (lambda: Hive(schedule=Threshold()), "carbon_forecast"),
    ],
)
def test_impossible_settings(make, says: str):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_grid_that_tells_no_intensity():
    with pytest.raises(UserError, match=r"schedule: Threshold needs .* schedule=now"):
        Threshold().plan(view(None))


def test_now_changes_nothing():
    assert Now().plan(view(None)) == Agenda()
    plain, _ = hive_in([[9], [9]], None, 3, trigger=All(), selection=Uniform(k=1))
    with_now, _ = hive_in([[9], [9]], Now(), 3, trigger=All(), selection=Uniform(k=1))
    assert plain == with_now


# ---- on a real clock --------------------------------------------------------------------------


class Ticks:
    """Stands in for the module `time`: sleeping takes as long as it says, and is noted."""

    def __init__(self) -> None:
        self.t, self.slept = 1000.0, []

    def monotonic(self) -> float:
        return self.t

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.t += seconds


class Live:
    """A grid of real machines that tells their zones and power; they answer at once."""

    def __init__(self, signal: Hourly) -> None:
        self.clock, self.carbon = WallClock(poll_s=1.0), signal
        self.profiles = {1: machine("A"), 2: machine("B")}
        self._replies: dict[str, Message] = {}
        self.sent: list[tuple[int, float]] = []

    def get_node_ids(self) -> list[int]:
        return sorted(self.profiles)

    def push_messages(self, messages: list[Message]) -> list[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.sent.append((node, self.clock.now))
            ids.append(f"m{len(self.sent)}")
            set_message_id(message, ids[-1])
            self._replies[ids[-1]] = reply_to(message, received(message) + 1.0, 1)
        return ids

    def pull_messages(self, ids: list[str]) -> list[Message]:
        return [self._replies.pop(i) for i in ids if i in self._replies]


def test_the_same_schedule_really_sleeps(monkeypatch):
    """Nobody may work for two hours: on a wall clock the server sleeps for two hours."""
    ticks = Ticks()
    monkeypatch.setattr("fedhive.world.clock.time", ticks)
    grid = Live(Hourly(np.array([[9, 9, 9, 9], [9, 9, 1, 9]], float).T, ZONES))
    low = Threshold(limit_g_per_kwh=5.0, quantile=None, horizon_h=4)
    hive = Hive(Uniform(k=None), schedule=low, carbon_forecast=Perfect())
    hive.train_round(1, model(), ConfigRecord(), grid)
    assert grid.sent == [(2, pytest.approx(7200.0))]
    assert sum(ticks.slept) == pytest.approx(7200.0)
