"""Where the seconds, joules and grams went: by hand, and conserved for any schedule."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhive.flower import payload_bytes
from fedhive.world.carbon import StaticByZone
from fedhive.world.carbon_series import Hourly
from fedhive.world.grid import World
from fedhive.world.server import Server
from fedhive.world.task import STATUSES, Plan
from tests.fedhive.world.worlds import FakeEngine, Written, device, fixed, instruction, world

DOWN_BYTES = payload_bytes(instruction(0).content)
DOWN_S = DOWN_BYTES / 1000.0


def one_task(grid: World, verdict: str, at_s: float) -> dict:
    [message_id] = grid.push_messages([instruction(0, round=3)])
    grid.clock.sleep_until(at_s)
    grid.pull_messages([message_id])
    grid.settle(message_id, verdict, "so")
    [event] = grid.finish()
    return event


# ---- by hand ----------------------------------------------------------------------------------


def test_an_accepted_task():
    grid = world(1, devices=[device(net_j_per_byte=0.01)])
    event = one_task(grid, "accepted", 50.0)
    joules = 10.0 * 5.0 + 2.0 * (DOWN_S + 3.0) + 0.01 * (DOWN_BYTES + 3000)
    assert event == {
        "round": 3, "node": 0, "kind": "train", "sent_s": 0.0, "begin_s": 0.0,
        "start_s": DOWN_S, "done_s": DOWN_S + 5.0, "end_s": DOWN_S + 8.0, "status": "accepted",
        "reason": "so", "steps_asked": 10, "steps_done": 10, "samples": 500, "bytes_up": 3000,
        "bytes_down": DOWN_BYTES, "energy_j": pytest.approx(joules),
        "carbon_g": pytest.approx(joules / 3.6e6 * 360.0),
    }  # fmt: skip
    [account] = grid.ledger.accounts(50.0)
    assert account == {
        "node": 0, "on_s": 50.0, "useful_s": pytest.approx(5.0), "lost_s": 0.0,
        "communicating_s": pytest.approx(DOWN_S + 3.0),
        "useful_j": event["energy_j"], "wasted_j": 0.0, "useful_g": event["carbon_g"],
        "wasted_g": 0.0, "waiting_s": pytest.approx(42.0 - DOWN_S), "waiting_j": 0.0,
        "waiting_g": 0.0,
    }  # fmt: skip


def test_cut_off_in_training():
    event = one_task(world(1, on={0: [(0.0, DOWN_S + 2.0)]}), "accepted", 50.0)
    assert event["status"] == "withdrawn"  # the world knows better than the strategy
    assert event["end_s"] == DOWN_S + 2.0
    assert (event["samples"], event["steps_done"], event["steps_asked"]) == (200, 4, 10)
    assert (event["bytes_down"], event["bytes_up"]) == (DOWN_BYTES, 0)
    assert event["energy_j"] == pytest.approx(2.0 * DOWN_S + 10.0 * 2.0)


def test_cut_off_in_the_upload_has_sent_a_part():
    event = one_task(world(1, on={0: [(0.0, DOWN_S + 6.0)]}), "late", 50.0)
    assert event["bytes_up"] == pytest.approx(1000, abs=1)
    assert event["samples"] == 500


def test_off_when_sent_costs_nothing():
    event = one_task(world(1, on={0: [(1.0, 2.0)]}), "late", 50.0)
    assert (event["energy_j"], event["bytes_down"], event["samples"]) == (0.0, 0, 0)
    assert event["status"] == "withdrawn"
    assert event["end_s"] == 0.0


def test_the_end_of_the_run_cuts_what_is_under_way():
    grid = world(1)
    grid.push_messages([instruction(0)])
    grid.clock.sleep_until(DOWN_S + 1.0)
    [event] = grid.finish()
    assert (event["status"], event["samples"], event["end_s"]) == ("unneeded", 100, DOWN_S + 1.0)
    [account] = grid.ledger.accounts(grid.clock.now)
    assert account["lost_s"] == pytest.approx(1.0)
    assert account["waiting_s"] == pytest.approx(0.0)


def test_a_task_still_queueing_at_the_end():
    grid = world(1)
    grid.push_messages([instruction(0), instruction(0)])
    grid.clock.sleep_until(1.0)
    first, second = grid.finish()
    assert second["energy_j"] == 0.0
    assert second["end_s"] >= second["sent_s"]
    assert first["energy_j"] > 0.0


def test_waiting_by_hand():
    """One hour at 100 g/kWh, then one at 400: it waits in both, but for 8 s and the download."""
    signal = Hourly([[100.0], [400.0]], ["DE-LU"])
    grid = World([device(wait_w=5.0)], Written(), signal, FakeEngine(), {}, planner=fixed())
    grid.clock.sleep_until(3596.0 - DOWN_S)
    [message_id] = grid.push_messages([instruction(0)])
    grid.settle(message_id, "accepted")
    grid.clock.sleep_until(7200.0)
    grid.finish()
    [account] = grid.ledger.accounts(7200.0)
    assert account["waiting_j"] == pytest.approx(5.0 * (7192.0 - DOWN_S))
    # 4 s of computing lie in the first hour, 1 s and the upload in the second.
    clean, dirty = 3600.0 - DOWN_S - 4.0, 3600.0 - 4.0
    assert account["waiting_g"] == pytest.approx(5.0 / 3.6e6 * (100 * clean + 400 * dirty))


def test_a_machine_that_is_off_does_not_wait():
    grid = world(1, devices=[device(wait_w=5.0)], on={0: [(10.0, 30.0)]})
    grid.clock.sleep_until(100.0)
    [account] = grid.ledger.accounts(100.0)
    assert account["waiting_j"] == pytest.approx(5.0 * 20.0)
    assert account["waiting_g"] == pytest.approx(5.0 * 20.0 / 3.6e6 * 360.0)


def test_the_server_by_hand():
    server = Server(active_w=100.0, bytes_per_s=1000.0, dedicated_w=10.0, pue=1.5)
    machines = [device(), device(zone="BR-SP")]
    signal = StaticByZone({"DE-LU": 400.0, "BR-SP": 200.0})
    grid = World(machines, Written(), signal, FakeEngine(), {}, planner=fixed(), server=server)
    [message_id] = grid.push_messages([instruction(0)])
    grid.settle(message_id, "accepted")
    grid.clock.sleep_until(1000.0)
    [event] = grid.finish()
    joules, emitted = grid.ledger.serving(1000.0)
    assert joules == pytest.approx(1.5 * (100.0 * (DOWN_BYTES + 3000) / 1000.0 + 10.0 * 1000.0))
    assert emitted == pytest.approx(joules / 3.6e6 * 300.0)  # the machines' zones' mean
    assert event["energy_j"] == pytest.approx(10.0 * 5.0 + 2.0 * (DOWN_S + 3.0))  # not in it


def test_a_server_in_a_zone_of_its_own_and_none_at_all():
    signal = StaticByZone({"DE-LU": 400.0, "BR-SP": 200.0})
    server = Server(dedicated_w=1000.0, pue=1.0, zone="BR-SP")
    grid = World([device()], Written(), signal, FakeEngine(), {}, server=server)
    assert grid.ledger.serving(3600.0) == (3.6e6, pytest.approx(200.0))
    assert world(1).ledger.serving(3600.0) == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pue": 0.9}, {"active_w": -1.0}, {"dedicated_w": math.inf}, {"bytes_per_s": 0.0},
        {"pue": math.nan},
    ],
)  # fmt: skip
def test_a_server_that_cannot_be(wrong: dict):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Server(**wrong)


def test_accounts_survive_a_checkpoint():
    def play(until_s: float, grid: World) -> World:
        for node in range(2):
            [message_id] = grid.push_messages([instruction(node)])
            grid.settle(message_id, ("accepted", "late")[node])
        grid.clock.sleep_until(until_s)
        grid.collect_events()
        return grid

    def fresh() -> World:
        machines = [device(name=f"m{i}", wait_w=1.0) for i in range(2)]
        signal = StaticByZone({"DE-LU": 360.0})
        return World(
            machines, Written(), signal, FakeEngine(), {}, planner=fixed(), server=Server()
        )

    whole, half = play(200.0, play(100.0, fresh())), play(100.0, fresh())
    resumed = fresh()
    resumed.restore(json.loads(json.dumps(half.state()[0])), half.state()[1])
    play(200.0, resumed)
    assert resumed.ledger.accounts(200.0) == whole.ledger.accounts(200.0)
    assert resumed.ledger.serving(200.0) == whole.ledger.serving(200.0)


@pytest.mark.parametrize("verdict", [v for v in STATUSES if v != "accepted"])
def test_everything_dropped_is_all_wasted(verdict: str):
    grid = world(2)
    ids = grid.push_messages([instruction(0), instruction(1)])
    for message_id in ids:
        grid.settle(message_id, verdict)
    grid.clock.sleep_until(60.0)
    events = grid.collect_events()
    assert [event["status"] for event in events] == [verdict] * 2
    for account in grid.ledger.accounts(60.0):
        assert account["useful_s"] == account["useful_j"] == account["useful_g"] == 0.0
        assert account["lost_s"] == pytest.approx(5.0)
    wasted = sum(account["wasted_j"] for account in grid.ledger.accounts(60.0))
    assert wasted == pytest.approx(sum(event["energy_j"] for event in events), rel=1e-12)
    assert wasted == pytest.approx(2 * (10.0 * 5.0 + 2.0 * (DOWN_S + 3.0)))


def test_evaluation_is_work_but_trains_on_nothing():
    grid = world(1, engine=FakeEngine())
    [message_id] = grid.push_messages([instruction(0, kind="evaluate")])
    grid.settle(message_id, "accepted")
    grid.clock.sleep_until(60.0)
    [event] = grid.collect_events()
    assert (event["kind"], event["samples"]) == ("evaluate", 0)
    assert event["energy_j"] > 0.0


def test_zones_differ():
    machines = [device(), device(zone="BR-SP")]
    grid = World(
        machines, Written(), StaticByZone({"DE-LU": 400.0, "BR-SP": 100.0}), FakeEngine(), {},
        planner=fixed(),
    )  # fmt: skip
    for message_id in grid.push_messages([instruction(0), instruction(1)]):
        grid.settle(message_id, "accepted")
    grid.clock.sleep_until(60.0)
    first, second = grid.collect_events()
    assert first["carbon_g"] == pytest.approx(4.0 * second["carbon_g"])
    assert first["energy_j"] == second["energy_j"]


@pytest.mark.parametrize("leaves", [0.5, DOWN_S + 0.5, DOWN_S + 5.0])
def test_phases_without_length(leaves: float):
    """A client that failed sends no bytes; without latency its upload takes no time at all."""
    for plan in (Plan(500.0, 1, 0), Plan(0.0, 0, 3000), Plan(0.0, 0, 0)):
        grid = world(1, planner=lambda m, c, plan=plan: plan, on={0: [(0.0, leaves)]})
        grid.push_messages([instruction(0)])
        grid.clock.sleep_until(leaves)
        [event] = grid.finish()
        assert math.isfinite(event["energy_j"])


# ---- for any schedule -------------------------------------------------------------------------

NODES = 3


@st.composite
def schedules(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Up to four on-intervals, none of them empty, none touching."""
    steps = draw(st.lists(st.floats(0.25, 20.0), min_size=0, max_size=8).filter(_even))
    t, spans = draw(st.sampled_from([0.0, 3.0])), []
    for on, off in zip(steps[::2], steps[1::2], strict=True):
        spans.append((t, t + on))
        t += on + off
    return spans


def _even(values: list[float]) -> bool:
    return len(values) % 2 == 0


actions = st.lists(
    st.tuples(
        st.integers(0, NODES - 1),  # machine
        st.floats(0.0, 12.0),  # seconds until then
        st.sampled_from([None, *STATUSES]),
        st.floats(0.0, 900.0),  # samples
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(spans=st.lists(schedules(), min_size=NODES, max_size=NODES), script=actions)
def test_seconds_are_conserved(spans: list, script: list):
    plans = iter([Plan(samples, 5, 700) for _, _, _, samples in script])
    grid = world(NODES, on=dict(enumerate(spans)), planner=lambda m, c: next(plans))
    events = []
    for node, pause, verdict, _ in script:
        [message_id] = grid.push_messages([instruction(node)])
        grid.clock.sleep_until(grid.clock.now + pause)
        if verdict is not None:
            grid.settle(message_id, verdict)
        events += grid.collect_events()
    end = grid.clock.now + 3.0
    grid.clock.sleep_until(end)
    events += grid.finish()
    assert len(events) == len(script)
    for account in grid.ledger.accounts(end):
        node = int(account["node"])
        parts = ("useful_s", "lost_s", "communicating_s", "waiting_s")
        assert all(account[part] >= -1e-9 for part in parts)
        assert sum(account[part] for part in parts) == pytest.approx(account["on_s"], abs=1e-6)
        own = sorted((e["begin_s"], e["end_s"]) for e in events if e["node"] == node)
        work = [(a, b) for a, b in own if b > a]
        for (_, first_ends), (second_begins, _) in itertools.pairwise(work):
            assert second_begins >= first_ends - 1e-9
        for a, b in work:
            assert any(on <= a and b <= off for on, off in spans[node])
        busy = sum(b - a for a, b in work)
        assert account["waiting_s"] == pytest.approx(account["on_s"] - busy, abs=1e-6)
        booked = account["useful_j"] + account["wasted_j"]
        own_j = [e["energy_j"] for e in events if e["node"] == node]
        assert math.fsum(own_j) == pytest.approx(booked, rel=1e-9, abs=0.0)
        joules = (
            10.0 * (account["useful_s"] + account["lost_s"]) + 2.0 * account["communicating_s"]
        )
        assert sum(e["energy_j"] for e in events if e["node"] == node) == pytest.approx(joules)
