"""Which clients a rule picks, how groups are drawn, and what comes back of hidden coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from defenses import aggregation
from defenses.protection import paths
from defenses.protection.base import Step
from defenses.robust import Robust
from strategies.combine import Cohort, Mean


def rows(n: int = 9, d: int = 6, liars: int = 0) -> torch.Tensor:
    drawn = torch.from_numpy(np.random.default_rng(n).normal(size=(n, d)).astype(np.float32))
    drawn[:liars] += 50.0
    return drawn


@pytest.mark.parametrize("rule", ["krum", "multi_krum", "minimum_diameter_averaging"])
def test_what_a_picking_rule_averages_is_what_it_gives(rule):
    updates = rows(liars=2)
    robust = Robust(rule=rule, f=2)
    picked = paths.chosen(robust, updates, 1)
    assert picked is not None
    assert not {0, 1} & set(picked)
    wanted = getattr(aggregation, rule)(updates, f=2)
    assert torch.allclose(updates[picked].mean(dim=0), wanted, atol=1e-6)


@pytest.mark.parametrize(
    "rule", ["coordinate_median", "trimmed_mean", "geometric_median", "meamed"]
)
def test_rules_that_pick_nobody(rule):
    assert paths.chosen(Robust(rule=rule, f=2), rows(), 1) is None


class Fake:
    """Opens means of known rows and remembers of which groups."""

    def __init__(self, hidden: np.ndarray) -> None:
        self.rows, self.asked = hidden, []

    def means(self, groups):
        self.asked += [list(group) for group in groups]
        return [self.rows[list(group)].mean(axis=0) for group in groups]


def step(clear: torch.Tensor, combine) -> Step:
    models = [row.numpy() for row in clear]
    n = len(models)
    cohort = Cohort(
        list(range(n)), models, [1] * n, [1.0] * n, {}, np.zeros(clear.shape[1], np.float32), n
    )
    return Step(cohort, models[0], [None] * n, combine, {}, None)


def test_sum_opens_one_sum_over_everybody():
    hidden = rows(5, 3).numpy().astype(np.float64)
    sums = Fake(hidden)
    found = paths.Sum().hidden(step(rows(5), Mean()), sums)
    assert sums.asked == [[0, 1, 2, 3, 4]]
    assert np.allclose(found, hidden.mean(axis=0))


def test_select_then_sum_opens_the_picked_ones_only_and_never_sees_their_hidden_part():
    hidden = np.zeros((9, 3))
    hidden[8] = 100.0  # poison where the rule does not look: it passes, if its sender is picked
    sums = Fake(hidden)
    combine = Robust(rule="multi_krum", f=2)
    found = paths.SelectThenSum().hidden(step(rows(9, liars=2), combine), sums)
    [picked] = sums.asked
    assert not {0, 1} & set(picked)
    assert found[0] == pytest.approx(100.0 / len(picked) if 8 in picked else 0.0)


def test_groups_are_disjoint_cover_everybody_and_follow_the_round():
    path = paths.Bucketed(size=3)
    groups = path.groups(11, 1)
    assert sorted(i for group in groups for i in group) == list(range(11))
    assert [len(group) for group in groups] == [4, 4, 3]
    assert groups == path.groups(11, 1)
    assert groups != path.groups(11, 2)


def test_a_median_over_groups_withstands_a_minority_of_spoilt_ones():
    hidden = np.ones((10, 4))
    hidden[3] = -1000.0
    sums = Fake(hidden)
    found = paths.Bucketed(size=2).hidden(step(rows(10), Mean()), sums)
    assert found.tolist() == [1.0] * 4
    assert sorted(len(group) for group in sums.asked) == [2] * 5


def test_another_rule_over_groups():
    path = paths.Bucketed(size=2, rule={"trimmed_mean": {}}, f=1)
    hidden = np.ones((10, 4))
    hidden[3] = -1000.0
    assert path.hidden(step(rows(10), Mean()), Fake(hidden)).tolist() == [1.0] * 4


def test_groups_of_one_would_lay_clients_bare():
    with pytest.raises(ValueError, match="at least 2"):
        paths.Bucketed(size=1)
