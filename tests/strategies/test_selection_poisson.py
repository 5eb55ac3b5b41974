"""A coin for each node: as often as promised, whoever else is there."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fedhive import seeding
from strategies.selection_poisson import Poisson
from strategies.view import View


def view(idle, round: int = 1, seed: int = 0) -> View:
    return View(
        round=round, now_s=0.0, online=tuple(idle), idle=tuple(idle), history={},
        rng=lambda name: seeding.stream(seed, name, round),
    )  # fmt: skip


def nodes(selection, seen: View) -> list[int]:
    return [choice.node for choice in selection.select(seen)]


@pytest.mark.parametrize("secret", [False, True])
def test_each_node_as_often_as_the_rate_says(secret):
    rounds, idle = 400, range(20)
    draws = [nodes(Poisson(0.3, secret), view(idle, r)) for r in range(rounds)]
    count = Counter(node for draw in draws for node in draw)
    deviation = np.sqrt(rounds * 0.3 * 0.7)
    assert all(abs(count[node] - rounds * 0.3) < 4.5 * deviation for node in idle)
    # The number that is drawn has a binomial law, which a fixed number has not.
    sizes = np.array([len(draw) for draw in draws])
    assert sizes.var() == pytest.approx(20 * 0.3 * 0.7, rel=0.35)


def test_coins_of_two_nodes_are_independent():
    both = np.array([[node in nodes(Poisson(0.5), view([3, 4], r)) for node in (3, 4)]
                     for r in range(600)])  # fmt: skip
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.17


def test_a_coin_does_not_depend_on_who_else_is_there():
    for r in range(20):
        alone = [n for n in range(10) if nodes(Poisson(0.4), view([n], r))]
        assert nodes(Poisson(0.4), view(range(10), r)) == alone


def test_rounds_and_seeds_differ_and_repeat():
    draws = {(r, s): tuple(nodes(Poisson(0.5), view(range(40), r, s))) for r in (1, 2) for s in (1, 2)}  # noqa: E501  # fmt: skip
    assert len(set(draws.values())) == 4
    assert draws[1, 2] == tuple(nodes(Poisson(0.5), view(range(40), 1, 2)))


def test_everybody_and_nobody():
    assert nodes(Poisson(1.0), view([5, 3])) == [5, 3]
    assert nodes(Poisson(0.5), view([])) == []
    assert nodes(Poisson(0.5, secret=True), view([])) == []
    assert {c.probability for c in Poisson(0.9).select(view(range(9)))} == {0.9}


@pytest.mark.parametrize("rate", [0.0, 1.1, float("nan")])
def test_rates_that_are_no_probability_are_refused(rate):
    with pytest.raises(ValueError, match="rate must be between"):
        Poisson(rate)
