"""One node of each group: more identities are not asked more often."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.identities import Identity
from defenses.selection import OnePerGroup
from fedhive import seeding
from fedhive.errors import UserError
from strategies.view import View


def view(owners: dict[int, str | None], round: int = 1, seed: int = 0) -> View:
    return View(
        round=round, now_s=0.0, online=tuple(owners), idle=tuple(owners), history={},
        rng=lambda name: seeding.stream(seed, name, round),
        identity=lambda node: Identity(owner=owners[node]),
    )  # fmt: skip


SYBILS = {**{i: f"honest-{i}" for i in range(4)}, **dict.fromkeys(range(4, 40), "adversary")}


def test_each_owner_is_asked_once():
    chosen = OnePerGroup(k=None).select(view(SYBILS))
    assert [c.node for c in chosen][:4] == [0, 1, 2, 3]
    assert len(chosen) == 5
    assert chosen[-1].node in range(4, 40)
    assert chosen[0].probability == 1.0
    assert chosen[-1].probability == pytest.approx(1 / 36)


def test_owners_are_drawn_uniformly():
    seen: Counter = Counter()
    for round in range(1, 401):
        for choice in OnePerGroup(k=2).select(view(SYBILS, round)):
            assert choice.probability == pytest.approx(0.4 if choice.node < 4 else 0.4 / 36)
            seen[min(choice.node, 4)] += 1
    assert all(count == pytest.approx(160, abs=35) for count in seen.values())
    assert len(seen) == 5


def test_nobody_tells():
    nobody = dict.fromkeys(range(6))
    assert len(OnePerGroup(k=4).select(view(nobody))) == 4
    assert len(OnePerGroup(k=4, unknown="together").select(view(nobody))) == 1
    assert OnePerGroup().select(view({})) == []


@given(
    st.dictionaries(st.integers(0, 50), st.sampled_from([None, "a", "b", "c"])),
    st.integers(1, 9), st.integers(0, 99),
)  # fmt: skip
def test_no_owner_twice_and_the_same_every_time(owners, k, seed):
    chosen = OnePerGroup(k=k).select(view(owners, seed=seed))
    named = [owners[c.node] for c in chosen if owners[c.node] is not None]
    assert len(named) == len(set(named))
    alone = sum(owner is None for owner in owners.values())
    assert len(chosen) == min(k, alone + len({o for o in owners.values() if o is not None}))
    assert [c.node for c in chosen] == sorted(c.node for c in chosen)
    assert chosen == OnePerGroup(k=k).select(view(owners, seed=seed))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="k must be at least 1"):
        OnePerGroup(k=0)
    with pytest.raises(UserError, match=r"selection\.groups: 'colour' is not one of"):
        OnePerGroup(groups=("colour",))


def test_in_a_run(play, tiny):
    words = ("nodes=12", "attack=sign_flip", "attack.count=8", "attack.place=last",
             "identities=simulated", "rounds=6")  # fmt: skip
    fair = play(cfg=tiny(*words, "selection=one_per_group", "selection.k=null"))
    for number in range(1, 7):
        asked = [event["node"] for event in fair.events if event["round"] == number]
        assert asked[:4] == [0, 1, 2, 3]
        assert len(asked) == 5
    assert len({event["node"] for event in fair.events}) > 6  # its identities take turns
