from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm

from fedhive.leakage.score_inference import (
    auc,
    over_subjects,
    proportion,
    score_membership,
    tpr_at,
)


def test_auc_counts_pairs_and_halves_ties() -> None:
    inside, outside = np.asarray([3.0, 1.0, 2.0]), np.asarray([2.0, 0.0])
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(inside, outside)]
    assert auc(inside, outside).value == pytest.approx(sum(pairs) / 6)
    assert auc(-inside, -outside).value == pytest.approx(1 - sum(pairs) / 6)


def test_delongs_variance_by_hand() -> None:
    # m = n = 2: components of members (1, .5), of others (.5, 1); variances 1/8 each
    found = auc(np.asarray([3.0, 1.0]), np.asarray([2.0, 0.0]))
    assert found.value == 0.75
    width = 1.959964 * math.sqrt(0.125 / 2 + 0.125 / 2) / (0.75 * 0.25)
    middle = math.log(0.75 / 0.25)
    assert found.low == pytest.approx(1 / (1 + math.exp(-(middle - width))))
    assert found.high == pytest.approx(1 / (1 + math.exp(-(middle + width))))


def test_a_perfect_attack_keeps_an_interval() -> None:
    found = auc(np.arange(10.0) + 100, np.arange(10.0))
    assert found.value == found.high == 1.0
    assert 0.6 < found.low < 0.95
    wider = auc(np.arange(5.0) + 100, np.arange(5.0))
    assert wider.low < found.low
    backwards = auc(np.arange(10.0), np.arange(10.0) + 100)
    assert (backwards.value, backwards.low) == (0.0, 0.0)
    assert backwards.high == pytest.approx(1 - found.low)


@pytest.mark.parametrize("shift", [0.0, 0.8, 2.0])
def test_intervals_cover_the_truth(shift: float) -> None:
    area = norm.cdf(shift / math.sqrt(2))
    rate = norm.sf(norm.isf(0.1) - shift)
    covered = np.zeros(2)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        inside, outside = rng.normal(shift, 1, 60), rng.normal(0, 1, 80)
        found, at = auc(inside, outside), tpr_at(inside, outside, 0.1)
        covered += [found.low <= area <= found.high, at.low <= rate <= at.high]
    assert covered[0] >= 0.92 * 300
    assert covered[1] >= 0.95 * 300


def test_tpr_at_counts_false_positives() -> None:
    outside = np.arange(200.0)
    inside = np.asarray([197.5, 198.5, 250.0, 3.0])
    # two of 200 may be above: the threshold lies above 197
    assert tpr_at(inside, outside, 0.01).value == 0.75
    assert tpr_at(inside, outside, 0.005).value == 0.5
    assert math.isnan(tpr_at(inside, outside, 0.001).value)


def test_ties_are_no_true_positives_for_free() -> None:
    found = tpr_at(np.ones(100), np.ones(1000), 0.01)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == 1.0  # the quantile may lie at the tie itself


def test_few_others_bound_nothing_from_below() -> None:
    inside = np.full(100, 10.0)
    assert tpr_at(inside, np.zeros(100), 0.001).low == 0.0
    assert tpr_at(inside, np.random.default_rng(0).normal(size=3000), 0.01).low > 0.9


def test_membership_together() -> None:
    rng = np.random.default_rng(0)
    member = np.repeat([True, False], [300, 2000])
    scores = rng.normal(size=2300) + 1.5 * member
    found = score_membership(scores, member)
    assert set(found.tpr) == {0.01, 0.001}
    assert (found.members, found.others) == (300, 2000)
    assert found.auc.low < norm.cdf(1.5 / math.sqrt(2)) < found.auc.high
    order = rng.permutation(2300)
    again = score_membership(np.exp(scores)[order], member[order])
    assert again.auc.value == pytest.approx(found.auc.value)  # only ranks count
    assert again.tpr == found.tpr


def test_proportion() -> None:
    found = proportion(8, 10)
    assert found.value == 0.8
    assert (found.low, found.high) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert proportion(10, 10).high == 1.0
    assert proportion(0, 10).low == 0.0


def test_means_over_subjects() -> None:
    found = over_subjects([0.6, 0.8])
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == (0.0, 1.0)  # 12.7 standard errors of 0.1
    assert math.isnan(over_subjects([0.6]).low)


def test_what_is_refused() -> None:
    for scores, member in (([1.0, np.nan], [True, False]), ([1.0, 2.0], [True, True]),
                           ([1.0], [True, False])):  # fmt: skip
        with pytest.raises(ValueError, match=r"member|NaN|vector"):
            score_membership(scores, member)
    with pytest.raises(ValueError, match="trials"):
        proportion(3, 2)
