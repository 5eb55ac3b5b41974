"""The composed strategy in a world: whom it waits for, what it drops, what it pays for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message

from fedhive.flower import from_flat, payload_bytes
from fedhive.world.grid import World
from fedhive.world.task import Plan
from strategies import Hive
from strategies.combine import Mean
from strategies.selection import Uniform
from strategies.server_opt import FedAdam, Nesterov
from strategies.trigger import All, Deadline, FirstK
from tests.fedhive.world.worlds import FakeEngine, device, number, received, reply_to, world

EVERYBODY = Uniform(k=None)


def model(*values: float) -> ArrayRecord:
    flat = np.array(values or [0.0, 0.0], np.float32)
    return from_flat(flat, [("w", (flat.size,))], shared=True)


def values(record: ArrayRecord) -> list[float]:
    return [float(value) for value in record["w"].numpy()]


def machines(*seconds: float, engine: FakeEngine | None = None, **settings) -> World:
    """Machines whose task takes so many seconds; transfers take none to speak of."""
    quick = [device(rate=100.0 / s, down_bps=1e15, up_bps=1e15) for s in seconds]
    engine = engine or FakeEngine(by_number)
    return world(devices=quick, engine=engine, planner=lambda m, c: Plan(100.0, 4, 10), **settings)


def by_number(message: Message, context: Context) -> Message:
    """Machine i moves the model by i + 1, from i + 1 examples, with a loss of i."""
    step = number(context) + 1
    return reply_to(message, received(message) + step, step, **{"train-loss": float(step - 1)})


def play(hive: Hive, grid: World, rounds: int) -> tuple[list[float], list[list[dict]]]:
    record, events = model(), []
    for server_round in range(1, rounds + 1):
        record = hive.train_round(server_round, record, ConfigRecord(), grid)
        events.append(grid.collect_events())
    return values(record), events


def told(events: list[dict]) -> list[tuple[int, str]]:
    return [(event["node"], event["status"]) for event in events]


# ---- closing a round --------------------------------------------------------------------------


def test_a_round_waits_for_everybody():
    grid = machines(1.0, 2.0, 3.0)
    result, [events] = play(Hive(selection=EVERYBODY), grid, 1)
    assert result == pytest.approx([(1 + 4 + 9) / 6] * 2)
    assert grid.clock.now == pytest.approx(3.0)
    assert told(events) == [(0, "accepted"), (1, "accepted"), (2, "accepted")]


def test_first_k_leaves_stragglers_uncomputed():
    engine = FakeEngine(by_number)
    grid = machines(1.0, 9.0, 2.0, engine=engine)
    hive = Hive(selection=EVERYBODY, trigger=FirstK(k=2))
    result, [events] = play(hive, grid, 1)
    assert grid.clock.now == pytest.approx(2.0)
    assert sorted(engine.asked) == [0, 2]
    assert result == pytest.approx([(1 + 9) / 4] * 2)
    assert told(events) == [(0, "accepted"), (2, "accepted")]
    [straggler] = grid.finish()
    assert told([straggler]) == [(1, "unneeded")]
    assert straggler["energy_j"] == pytest.approx(10.0 * 2.0, rel=1e-3)


def test_the_deadline_marks_late():
    engine = FakeEngine(by_number)
    grid = machines(1.0, 9.0, 2.0, engine=engine)
    _, [events] = play(Hive(selection=EVERYBODY, trigger=Deadline(seconds=5.0)), grid, 1)
    assert grid.clock.now == 5.0
    assert sorted(engine.asked) == [0, 2]
    assert told(events) == [(0, "accepted"), (2, "accepted")]
    assert [(e["status"], e["reason"]) for e in grid.finish()] == [
        ("late", "the round had closed")
    ]


def test_busy_machines_are_asked_again_only_once_they_have_answered():
    """A task of 12 s, rounds of 5 s: asked in rounds 1, 4, 7, while the quick one always is."""
    grid = machines(1.0, 12.0)
    hive = Hive(selection=EVERYBODY, trigger=Deadline(seconds=5.0))
    asked = []
    record = model()
    for server_round in range(1, 9):
        before = {node: past.selected for node, past in hive.history.items()}
        record = hive.train_round(server_round, record, ConfigRecord(), grid)
        after = {node: past.selected for node, past in hive.history.items()}
        asked.append([n - 1000 for n in after if after[n] > before.get(n, 0)])
        grid.collect_events()
        if asked[-1] == [0]:
            grid.clock.sleep_until(5.0 * server_round)
    assert [1 in nodes for nodes in asked] == [True, False, False, True, False, False, True, False]
    assert all(0 in nodes for nodes in asked)


def test_time_is_not_spent_waiting_for_those_who_left():
    grid = machines(1.0, 50.0, on={1: [(0.0, 4.0)]}, detection_s=7.0)
    _, [events] = play(Hive(selection=EVERYBODY), grid, 1)
    assert grid.clock.now == pytest.approx(11.0)
    assert told(events) == [(0, "accepted"), (1, "withdrawn")]


def test_a_timeout_ends_a_round_nobody_answers():
    grid = machines(100.0)
    result, [events] = play(Hive(trigger=All(timeout_s=10.0)), grid, 1)
    assert result == [0.0, 0.0]
    assert grid.clock.now == 10.0
    assert events == []


def test_nobody_there_passes_the_time():
    grid = machines(1.0, on={0: [(100.0, math.inf)]})
    hive = Hive(idle_s=30.0)
    result, events = play(hive, grid, 5)
    assert [len(e) for e in events] == [0, 0, 0, 0, 1]
    assert result == [1.0, 1.0]
    assert grid.clock.now == pytest.approx(121.0)


# ---- what replies may be ----------------------------------------------------------------------


def test_a_bad_reply_is_refused_and_the_round_goes_on():
    def answer(message: Message, context: Context) -> Message:
        if number(context) == 1:
            return reply_to(message, [math.nan, 0.0])
        if number(context) == 2:
            raise RuntimeError("no luck")
        return by_number(message, context)

    grid = machines(1.0, 1.0, 1.0, engine=FakeEngine(answer))
    result, [events] = play(Hive(selection=EVERYBODY), grid, 1)
    assert result == [1.0, 1.0]
    assert [(e["status"], e["reason"]) for e in events] == [
        ("accepted", ""),
        ("rejected", "record 'arrays' holds NaN or infinity"),
        ("error", "RuntimeError: no luck"),
    ]


def test_nothing_usable_leaves_the_model_alone():
    engine = FakeEngine(lambda m, c: reply_to(m, [math.inf, 0.0]))
    start = model(3.0, 4.0)
    hive = Hive(server_opt=Nesterov())
    assert hive.train_round(1, start, ConfigRecord(), machines(1.0, engine=engine)) is start


def test_an_overflowing_step_leaves_the_model_alone():
    engine = FakeEngine(lambda m, c: reply_to(m, [3e38, 0.0]))
    hive = Hive(server_opt=Nesterov(lr=0.9, momentum=0.9))
    grid, record = machines(1.0, engine=engine), model()
    with np.errstate(over="ignore", invalid="ignore"):
        for server_round in range(1, 5):
            record = hive.train_round(server_round, record, ConfigRecord(), grid)
            assert np.isfinite(values(record)).all()


def test_history_is_what_was_reported():
    hive = Hive(selection=EVERYBODY, trigger=FirstK(k=1))
    play(hive, machines(1.0, 9.0), 2)
    first, second = hive.history[1000], hive.history[1001]
    assert (first.examples, first.loss, first.selected, first.completed) == (1, 0.0, 2, 2)
    assert first.last_round == 2
    assert (second.examples, second.selected, second.completed) == (None, 1, 0)


# ---- as a Flower strategy ---------------------------------------------------------------------


def test_flower_starts_it():
    grid = machines(1.0, 1.0)
    seen = []

    def evaluate(server_round: int, arrays: ArrayRecord):
        seen.append((server_round, values(arrays)[0]))

    result = Hive(selection=EVERYBODY).start(grid, model(), 2, evaluate_fn=evaluate)
    assert values(result.arrays)[0] == pytest.approx(10 / 3)
    assert seen == [(1, pytest.approx(5 / 3)), (2, pytest.approx(10 / 3))]


def test_aggregating_before_configuring_is_refused():
    with pytest.raises(RuntimeError, match="before configure_train"):
        Hive().aggregate_train(1, [])


def test_instructions():
    grid = machines(1.0, 1.0)
    hive = Hive(selection=EVERYBODY)
    messages = hive.configure_train(4, model(), ConfigRecord({"note": "x"}), grid)
    assert [m.metadata.dst_node_id for m in messages] == [1000, 1001]
    assert dict(messages[0].content["config"]) == {
        "note": "x", "local-epochs": 1.0, "server-round": 4,
    }  # fmt: skip
    assert payload_bytes(messages[0].content) > 8
    assert hive.configure_evaluate(1, model(), ConfigRecord(), grid) == []
    assert hive.aggregate_evaluate(1, []) is None


def test_idle_time_must_be_positive():
    with pytest.raises(ValueError, match="idle_s must be above 0"):
        Hive(idle_s=0.0)


# ---- state ------------------------------------------------------------------------------------


def test_restored_with_an_optimiser_and_stragglers():
    def parts() -> Hive:
        return Hive(
            selection=Uniform(k=2), trigger=Deadline(seconds=5.0), server_opt=FedAdam(), seed=3
        )

    def advance(hive: Hive, grid: World, record: ArrayRecord, rounds: range) -> ArrayRecord:
        for server_round in rounds:
            record = hive.train_round(server_round, record, ConfigRecord(), grid)
            grid.collect_events()
        return record

    seconds = (1.0, 2.0, 12.0, 7.0)
    expected = advance(parts(), machines(*seconds), model(), range(1, 9))
    for cut in range(1, 8):
        hive, grid = parts(), machines(*seconds)
        record = advance(hive, grid, model(), range(1, cut + 1))
        plain, vectors = hive.state()
        again, later = parts(), machines(*seconds)
        again.restore(plain, vectors)
        later.restore(*grid.state())
        assert values(advance(again, later, record, range(cut + 1, 9))) == values(expected)


def test_parts_default_to_fedavg():
    hive = Hive()
    assert (hive.selection, hive.trigger, hive.combine) == (Uniform(), All(), Mean())


def test_a_duration_is_that_of_the_reply_and_not_of_the_round():
    hive = Hive(selection=EVERYBODY)
    play(hive, machines(1.0, 5.0, 30.0), rounds=1)
    took = [hive.history[node].duration_s for node in sorted(hive.history)]
    assert took == pytest.approx([1.0, 5.0, 30.0], abs=0.3)
