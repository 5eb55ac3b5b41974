"""Outsiders share what was set aside, and the others do not notice how many there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacks.outsiders import Outsiders
from fedhive import seeding
from fedhive.compose import compose
from fedhive.errors import UserError
from fedhive.learning.partition import IID, ByGroup, GammaSimilarity

LABELS = np.repeat(np.arange(4), 30)


def deal(partition: Outsiders, nodes: int, groups=None, labels=LABELS):
    return partition(labels, groups, nodes, seeding.stream(0, "partition"))


def test_the_honest_hold_the_same_however_many_there_are():
    alone = deal(Outsiders(GammaSimilarity(0.5), 0, rows=12), 5)
    for count in (1, 3, 12):
        parts = deal(Outsiders(GammaSimilarity(0.5), count, rows=12), 5 + count)
        assert len(parts) == 5 + count
        for one, other in zip(alone, parts, strict=False):
            np.testing.assert_array_equal(one, other)
        shared = np.concatenate(parts[5:])
        assert len(shared) == 12
        assert not np.isin(shared, np.concatenate(alone)).any()


def test_one_class_only():
    parts = deal(Outsiders(IID(), 2, rows=10, label=3), 4)
    assert set(LABELS[np.concatenate(parts[2:])]) == {3}
    assert [len(part) for part in parts[2:]] == [5, 5]


def test_groups_go_along():
    groups = np.arange(120) // 40
    parts = deal(Outsiders(ByGroup(), 1, rows=6), 4, groups)
    assert [set(groups[part]) for part in parts[:3]] == [{0}, {1}, {2}]


@given(count=st.integers(0, 8), rows=st.integers(1, 20), inner=st.integers(1, 6))
def test_rows_are_used_once_and_in_order(count, rows, inner):
    if rows < max(1, count):
        with pytest.raises(UserError):
            Outsiders(IID(), count, rows)
        return
    parts = deal(Outsiders(IID(), count, rows), inner + count)
    everything = np.concatenate(parts)
    assert len(np.unique(everything)) == len(everything) == 120 - (0 if count else rows)
    assert all((np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize(
    ("options", "nodes"),
    [({"count": 4}, 4), ({"rows": 31, "label": 1}, 3), ({"rows": 121}, 3), ({"label": 9}, 3)],
)
def test_what_cannot_be_is_refused(options, nodes):
    with pytest.raises(UserError, match="cannot be set aside"):
        deal(Outsiders(IID(), **options), nodes)


@pytest.mark.parametrize("liars", [0, 3])
def test_the_reference_preset(play, liars: int):
    attack = ("attack=sign_flip_together", f"attack.count={liars}", "attack.place=last")
    words = ("experiment=r1", f"nodes={10 + liars}", "rounds=2", "eval_every=2", "progress=false")
    played = play(cfg=compose([*words, *(attack if liars else ())]))
    sizes = [sum(row) for row in played.run.split()["counts"]]
    assert sizes == [397] * 10 + [10] * liars
    assert played.statuses == ["accepted"] * 2 * (10 + liars)
    assert played.run.config()["combine"]["f"] == liars
