"""Who is dealt which rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhive import seeding
from fedhive.world.instructions import ROWS, TRANSFER
from strategies.placement import Proportional, deal, rearrange
from strategies.view import View
from tests.fedhive.world.worlds import device


class Half:
    """Node 1 is on half of the time, the others always."""

    def p_on(self, nodes, after_s):
        return np.array([0.5 if node == 1 else 1.0 for node in nodes])

    def p_stay(self, nodes, for_s):
        return self.p_on(nodes, for_s)


def view(now_s: float = 0.0, number: int = 1, rates=(100.0, 100.0, 200.0)) -> View:
    nodes = tuple(range(len(rates)))
    return View(
        round=number, now_s=now_s, online=nodes, idle=nodes, history={},
        rng=lambda name: seeding.stream(0, name, number),
        profiles={node: device(rate=rate) for node, rate in enumerate(rates)}, outlook=Half(),
    )  # fmt: skip


def sizes(settings) -> dict[int, int]:
    return {node: len(one[ROWS]) // 4 for node, one in settings.items()}


def ready(**options) -> Proportional:
    placement = Proportional(**{"min_rows": 1, **options})
    placement.prepare(703, 10)
    return placement


def test_shares_by_hand():
    # 703 rows, one for each: the other 700 by 100 : 50 : 200.
    assert sizes(ready().settings(view(), [0, 1, 2])) == {0: 201, 1: 101, 2: 401}
    assert sizes(ready(by="rate").settings(view(), [0, 1, 2])) == {0: 176, 1: 176, 2: 351}
    assert sizes(ready(by="equal").settings(view(), [0, 1, 2])) == {0: 235, 1: 234, 2: 234}


def test_rows_are_charged_until_they_have_arrived():
    placement = ready()
    first = placement.settings(view(), [0])[0]
    assert first[TRANSFER] == 201 * 10
    again = placement.settings(view(number=2), [0])[0]
    assert again == first  # the first message was lost
    assert placement.awaits(0, 2)
    assert not placement.awaits(0, 1)  # the lost one was superseded
    placement.arrived(0, 1)
    assert placement.settings(view(number=3), [0])
    placement.arrived(0, 3)
    assert not placement.awaits(0, 3)
    assert placement.settings(view(number=4), [0]) == {}


def test_little_moves_when_shares_change():
    placement = ready(every_s=100.0)
    before = {n: np.frombuffer(s[ROWS], np.int32) for n, s in
              placement.settings(view(), [0, 1, 2]).items()}  # fmt: skip
    for node in range(3):
        placement.arrived(node, 1)
    moved = placement.settings(view(200.0, 2, rates=(100.0, 100.0, 100.0)), [0, 1, 2])
    after = {node: np.frombuffer(one[ROWS], np.int32) for node, one in moved.items()}
    assert {node: len(rows) for node, rows in after.items()} == {0: 281, 1: 141, 2: 281}
    assert moved[2][TRANSFER] == 0
    assert moved[0][TRANSFER] == 80 * 10
    assert set(after[2]) < set(before[2])
    assert set(before[0]) < set(after[0])
    assert sorted(np.concatenate(list(after.values()))) == list(range(703))


def test_a_newcomer_is_dealt_in():
    placement = ready()
    placement.settings(view(), [0])
    assert sizes(placement.settings(view(number=2, rates=(1.0, 1.0, 1.0, 1.0)), [3]))[3] > 1


def test_restored():
    first = ready(every_s=100.0)
    first.settings(view(), [0, 1])
    first.arrived(0, 1)
    second = ready(every_s=100.0)
    second.restore(json.loads(json.dumps(first.state())))
    for now_s, number in ((10.0, 2), (200.0, 3)):
        assert second.settings(view(now_s, number), [0, 1, 2]) == first.settings(
            view(now_s, number), [0, 1, 2]
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "luck"}, "by must be"),
        ({"horizon_s": 0.0}, "must be above 0"),
        ({"min_rows": 0}, "must be above 0"),
        ({"every_s": 0.0}, "every_s must be above 0"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ValueError, match=message):
        Proportional(**options)


def test_too_few_rows():
    with pytest.raises(ValueError, match="5 training rows are not enough for 3 machines of 2"):
        deal(np.ones(3), 5, 2)


@given(
    st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12),
    st.lists(st.floats(0.01, 100.0), min_size=12, max_size=12),
    st.integers(24, 300),
)
def test_every_row_is_somewhere_once(first, second, rows):
    n, rng = len(first), np.random.default_rng(0)
    held = {}
    for worth in (first, second[:n]):
        wanted = deal(np.array(worth), rows, 2)
        assert sum(wanted) == rows
        assert min(wanted) >= 2
        held = rearrange(dict(enumerate(wanted)), held, rows, rng)
        assert [len(held[node]) for node in range(n)] == wanted
        assert sorted(np.concatenate(list(held.values())).tolist()) == list(range(rows))


def test_data_that_came_with_a_late_reply_is_not_sent_again(play):
    played = play(
        "rounds=4", "selection=all", "local_work=steps", "local_work.steps=1",
        "placement=proportional", "placement.by=equal", "placement.min_rows=1",
        "trigger=deadline", "trigger.seconds=12", "trigger.early=false",
        "fleet=equal", "fleet.median_up_mbps=0.0005", "fleet.down_factor=1.0",
    )  # fmt: skip
    by_round = {event["round"]: event for event in played.events}
    assert {event["status"] for event in played.events} == {"late"}
    first, later = (by_round[number]["bytes_down"] for number in sorted(by_round)[:2])
    assert first > 3 * later  # the rows, and then the model alone
