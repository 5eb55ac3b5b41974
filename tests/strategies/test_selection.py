"""Whom to ask: never twice, never a busy machine, as often as promised, the same every time."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import conf
from fedhive import config, seeding
from strategies.selection import Concurrency, OverSelection, Uniform, Weighted, draw
from strategies.view import NodeHistory, View


def view(idle, examples=None, round: int = 1, seed: int = 0, busy: int = 0) -> View:
    history = {node: NodeHistory(examples=n) for node, n in (examples or {}).items()}
    return View(
        round=round, now_s=0.0, online=(*idle, *range(9000, 9000 + busy)), idle=tuple(idle),
        history=history, rng=lambda name: seeding.stream(seed, name, round),
    )  # fmt: skip


def nodes(selection, seen: View) -> list[int]:
    return [choice.node for choice in selection.select(seen)]


@pytest.mark.parametrize("selection", [Uniform(k=5), Weighted(k=5), Uniform(k=None)])
def test_fewer_idle_than_wanted(selection):
    assert nodes(selection, view([3, 1, 2])) == [3, 1, 2]
    assert nodes(selection, view([])) == []


@given(st.integers(1, 12), st.sets(st.integers(1000, 1050), min_size=1), st.integers(0, 2**40))
def test_no_repeats_and_only_idle(k: int, idle: set, seed: int):
    sizes = {node: node - 999 for node in idle}
    for selection in (Uniform(k=k), Weighted(k=k), OverSelection(k, 1.0, 0.0), Concurrency(k)):
        chosen = nodes(selection, view(sorted(idle), sizes, seed=seed))
        assert len(chosen) == len(set(chosen)) == min(k, len(idle))
        assert set(chosen) <= idle
        assert chosen == sorted(chosen)
        assert chosen == nodes(selection, view(sorted(idle), sizes, seed=seed))


def test_rounds_and_seeds_differ():
    idle = range(100)
    draws = {tuple(nodes(Uniform(k=5), view(idle, round=r, seed=s))) for r in (1, 2) for s in (0, 1)}  # noqa: E501  # fmt: skip
    assert len(draws) == 4


def test_uniform_asks_everybody_equally_often():
    count = Counter(n for r in range(3000) for n in nodes(Uniform(k=3), view(range(10), round=r)))
    # Binomial(3000, 0.3): standard deviation 25.
    assert all(abs(count[node] - 900) < 110 for node in range(10))


def test_weighted_asks_in_proportion():
    sizes = {0: 10, 1: 20, 2: 70}
    count = Counter(n for r in range(3000) for n in nodes(Weighted(k=1), view(range(3), sizes, r)))
    assert [count[i] / 3000 for i in range(3)] == pytest.approx([0.1, 0.2, 0.7], abs=0.035)


def test_weighted_takes_the_unknown_for_average():
    sizes = {0: 10, 1: 50}  # machine 2 never reported: counts as 30 of 90
    count = Counter(n for r in range(3000) for n in nodes(Weighted(k=1), view(range(3), sizes, r)))
    assert [count[i] / 3000 for i in range(3)] == pytest.approx([1 / 9, 5 / 9, 1 / 3], abs=0.035)


def test_weighted_is_uniform_where_all_have_equally_many():
    sizes = dict.fromkeys(range(20), 7)
    for r in range(5):
        seen = view(range(20), sizes, r)
        assert nodes(Weighted(k=6), seen) == nodes(Uniform(k=6), seen)


def test_weights_are_one_and_probabilities_known():
    for selection in (Uniform(k=2), Uniform(k=None), Weighted(k=2)):
        assert {choice.weight for choice in selection.select(view(range(5)))} == {1.0}
    assert {c.probability for c in Uniform(k=2).select(view(range(5)))} == {0.4}
    assert {c.probability for c in Uniform(k=9).select(view(range(5)))} == {1.0}
    assert {c.probability for c in Weighted(k=2).select(view(range(5)))} == {None}


@pytest.mark.parametrize(("k", "factor", "asked"), [(10, 1.3, 13), (8, 1.3, 11), (10, 1.1, 11)])
def test_over_selection_asks_more_than_it_needs(k: int, factor: float, asked: int):
    assert len(nodes(OverSelection(k, factor), view(range(50)))) == asked


def test_over_selection_waits_for_its_quorum():
    selection = OverSelection(k=10, quorum=0.8)
    assert nodes(selection, view(range(7))) == []
    assert len(nodes(selection, view(range(8)))) == 8


def test_concurrency_fills_free_places():
    selection = Concurrency(limit=5)
    assert len(nodes(selection, view(range(20), busy=3))) == 2
    assert nodes(selection, view(range(20), busy=5)) == []
    assert nodes(selection, view(range(20), busy=9)) == []


def test_drawing_with_fewer_weights_than_places():
    assert draw(np.random.default_rng(0), np.array([0.0, 3.0, 0.0]), 2)[-1] in (1, 2)
    assert len(draw(np.random.default_rng(0), np.zeros(5), 3)) == 3


@pytest.mark.parametrize("make", [Uniform, Weighted, OverSelection])
@pytest.mark.parametrize("k", [0, -3])
def test_k_must_be_positive(make, k: int):
    with pytest.raises(ValueError, match="k must be at least 1"):
        make(k=k)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: OverSelection(factor=0.9), "factor must be between 1 and"),
        (lambda: OverSelection(factor=float("nan")), "factor must be between"),
        (lambda: OverSelection(quorum=1.1), "quorum must be between 0 and 1"),
        (lambda: Concurrency(limit=0), "limit must be at least 1"),
    ],
)
def test_impossible_settings(make, says: str):
    with pytest.raises(ValueError, match=says):
        make()


PLACES = {
    "${client.batch_size}": "32",
    "${client.lr}": "0.05",
    "${local_work}": "{_target_: strategies.local_work.Epochs}",
}
OWN = {
    "all": {"k": None}, "cpow_d": {"loss": "batch"}, "rpow_d": {"loss": "reported"},
    "one_per_group": {"groups": ["owner", "device"]},
}  # fmt: skip


@pytest.mark.parametrize("group", ["selection", "local_work", "trigger"])
def test_every_yaml_says_what_it_is_and_gives_the_defaults(group: str):
    for path in sorted((Path(conf.__file__).parent / group).glob("*.yaml")):
        text = path.read_text()
        assert text.startswith("# "), path.name
        for place, value in PLACES.items():
            text = text.replace(place, value)
        node = yaml.safe_load(text)
        needed = {key: node[key] for key in ("_target_", "work", "fit") if key in node}
        changed = OWN.get(path.stem, {}) if group == "selection" else {}
        default = dataclasses.replace(config.build(needed), **changed)
        assert config.build(node) == default, path.name
        # Every option of the class is in the yaml, to be seen and overridden.
        options = {field.name for field in dataclasses.fields(default) if field.init}
        assert options == set(node) - {"_target_"}, path.name
