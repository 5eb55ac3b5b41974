from __future__ import annotations

import functools
import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhive.errors import UserError
from fedhive.world.carbon_generator import generated
from strategies import scheduling
from strategies.scheduling import alpha_fair, alpha_fair_bound, alpha_fair_value, slack_saving


@functools.cache
def zones(seed: int):
    return generated(seed)


def real(machines: int, slots: int, seed: int = 0) -> np.ndarray:
    """Grams of 300 W for an hour in calibrated zones, each from another hour on."""
    signal, rng = zones(seed), np.random.default_rng(seed)
    rows = [
        0.3 * signal.slots(signal.zones[i % 16], int(rng.integers(0, 8000)), slots)
        for i in range(machines)
    ]
    return np.array(rows)


def brute_force(g: np.ndarray, budget: float, alpha: float, slack: int, tune: int) -> float | None:
    """All 2^(c t) plans, by machine: every set of slots, not only the cleanest ones."""
    machines, slots = g.shape
    best = None
    for end in range(slots - slack, slots + 1):
        free = end - tune
        sets = np.array(list(itertools.product((0, 1), repeat=free))).reshape(-1, free)
        full = np.zeros((len(sets), slots))
        full[:, :free], full[:, free:end] = sets, 1.0
        cost, worth = full @ g.T, (full @ (g.max() - g).T) ** alpha  # [sets, machines]
        spent, value = np.zeros(1), np.zeros(1)
        for i in range(machines):
            spent = (spent[:, None] + cost[:, i]).ravel()
            value = (value[:, None] + worth[:, i]).ravel()
            kept = spent <= budget + 1e-9
            spent, value = spent[kept], value[kept]
            if machines > 2:  # of equally dear combinations only the best counts
                order = np.lexsort((-value, spent))
                top = np.maximum.accumulate(value[order])
                keep = order[np.r_[True, top[1:] > top[:-1]][: len(order)]]
                spent, value = spent[keep], value[keep]
        if len(value) and (best is None or value.max() > best):
            best = float(value.max())
    return best


def check(g: np.ndarray, plan: np.ndarray, budget: float, slack: int, tune: int) -> None:
    slots = g.shape[1]
    assert plan.shape == g.shape
    assert set(np.unique(plan)) <= {0, 1}
    assert (g * plan).sum() <= budget
    if tune:
        ends = [
            e for e in range(slots - slack, slots + 1)
            if plan[:, e - tune : e].all() and not plan[:, e:].any()
        ]  # fmt: skip
        assert ends


def test_by_hand():
    # alpha = 1 counts grams: 10 - g for g of budget. Rates: (10-1)/1, (10-2)/2, (10-4)/4, 5/5.
    g = np.array([[1.0, 10.0, 4.0], [5.0, 2.0, 10.0]])
    plan = alpha_fair(g, budget_g=7.0, alpha=1.0, slack=0, fine_tune=0)
    assert plan.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert alpha_fair_value(plan, g, 1.0) == 9 + 8 + 6
    # A fairer alpha, and gram for gram: sqrt(9) of 1, sqrt(8) of 2.
    plan = alpha_fair(g, budget_g=3.5, alpha=0.5, slack=0, fine_tune=0)
    assert plan.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_fine_tuning_seeks_its_place_within_the_slack():
    g = np.array([[5.0, 9.0, 1.0, 8.0]] * 2)
    plan = alpha_fair(g, budget_g=2.0, alpha=0.1, slack=2, fine_tune=1)
    assert plan.tolist() == [[0, 0, 1, 0]] * 2
    assert alpha_fair(g, budget_g=99.0, alpha=0.1, slack=0, fine_tune=4).all()
    with pytest.raises(UserError, match="at least 18 g, over the budget of 15 g") as caught:
        alpha_fair(g[:, :2], budget_g=15.0, alpha=0.1, slack=0, fine_tune=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="over the budget"):
        alpha_fair_bound(g[:, :2], budget_g=15.0, alpha=0.1, slack=0, fine_tune=1)


def test_edges():
    same = np.full((2, 3), 7.0)
    assert not alpha_fair(same, budget_g=99.0, alpha=0.1, slack=0, fine_tune=0).any()
    clean = np.array([[0.0, 5.0]])
    assert alpha_fair(clean, budget_g=0.0, alpha=0.1, slack=1, fine_tune=0).tolist() == [[1, 0]]
    good = {"budget_g": 1.0, "alpha": 0.1, "slack": 0, "fine_tune": 0}
    wrong = [{"budget_g": -1.0}, {"alpha": 0.0}, {"alpha": 1.5}, {"slack": 3}, {"slack": -1},
             {"fine_tune": 4}, {"slack": 1, "fine_tune": 3}]  # fmt: skip
    for change in wrong:
        with pytest.raises(ValueError, match=r"alpha|slack"):
            alpha_fair(same, **{**good, **change})
    for bad in ([1.0], [[]], [[np.nan]], [[-1.0]]):
        with pytest.raises(ValueError, match="carbon_g"):
            alpha_fair(bad, **good)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.1, 0.5, 1.0]),
    # Nearer to the whole, a saving that is all rounding, to the power 0.1, decides.
    st.floats(0.0, 0.999),
    st.integers(0, 3),
    st.integers(0, 2),
)
def test_equals_brute_force_on_4_by_6(seed, alpha, share, slack, tune):
    g = np.random.default_rng(seed).uniform(10.0, 250.0, (4, 6))
    budget = share * g.sum()
    best = brute_force(g, budget, alpha, slack, tune)
    options = {"budget_g": budget, "alpha": alpha, "slack": slack, "fine_tune": tune}
    if best is None:
        with pytest.raises(UserError):
            alpha_fair(g, **options)
        return
    plan = alpha_fair(g, **options)
    check(g, plan, budget, slack, tune)
    assert alpha_fair_value(plan, g, alpha) == pytest.approx(best, rel=1e-9)
    assert alpha_fair_bound(g, **options) >= best * (1.0 - 1e-9)


def test_greed_alone_is_close_on_4_by_6(monkeypatch):
    """What holds for problems too large for all combinations, measured where both can be had."""
    monkeypatch.setattr(scheduling, "EXACT_UP_TO", 0)
    gaps = []
    for seed in range(200):
        g = np.random.default_rng(seed).uniform(10.0, 250.0, (4, 6))
        budget = 0.3 * g.sum()
        plan = alpha_fair(g, budget_g=budget, alpha=0.1, slack=0, fine_tune=0)
        best = brute_force(g, budget, 0.1, 0, 0)
        assert best is not None
        gaps.append(1.0 - alpha_fair_value(plan, g, 0.1) / best)
    assert np.min(gaps) > -1e-9
    assert np.mean(gaps) < 5e-4
    assert np.max(gaps) < 1e-2


@settings(deadline=None, max_examples=1000)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 7),
    st.integers(1, 12),
    st.floats(0.0, 1.1),
    st.sampled_from([0.05, 0.1, 0.7, 1.0]),
    st.booleans(),
    st.data(),
)
def test_constraints_hold(seed, machines, slots, share, alpha, coarse, data):
    rng = np.random.default_rng(seed)
    g = rng.gamma(2.0, 100.0, (machines, slots))
    if coarse:
        g = np.floor(g / 100.0)
    slack = data.draw(st.integers(0, slots - 1))
    tune = data.draw(st.integers(0, min(3, slots - slack)))
    budget = share * float(g.sum())
    options = {"budget_g": budget, "alpha": alpha, "slack": slack, "fine_tune": tune}
    try:
        plan = alpha_fair(g, **options)
    except UserError:
        ends = range(slots - slack, slots + 1)
        assert min(g[:, e - tune : e].sum() for e in ends) > budget * (1.0 - 1e-9)
        return
    check(g, plan, budget, slack, tune)
    value, bound = alpha_fair_value(plan, g, alpha), alpha_fair_bound(g, **options)
    assert value <= bound * (1.0 + 1e-9)


@pytest.mark.parametrize(
    ("slack", "tune", "share"),
    [(0, 0, 0.2), (0, 3, 0.03), (236, 0, 0.03), (236, 0, 0.6), (236, 3, 0.03)],
)
def test_54_by_500_is_quick_and_near_the_bound(slack, tune, share):
    g = real(54, 500)
    options = {"budget_g": share * g.sum(), "alpha": 0.1, "slack": slack, "fine_tune": tune}
    begin = time.process_time()
    plan = alpha_fair(g, **options)
    assert time.process_time() - begin < 0.3
    check(g, plan, options["budget_g"], slack, tune)
    assert alpha_fair_value(plan, g, 0.1) >= 0.998 * alpha_fair_bound(g, **options)


def test_a_year_of_many_machines():
    g = np.random.default_rng(0).uniform(10.0, 250.0, (123, 876))
    plan = alpha_fair(g, budget_g=1e5, alpha=0.1, slack=100, fine_tune=0)
    check(g, plan, 1e5, 100, 0)


def test_leaving_ends_out_loses_nothing():
    for seed in range(5):
        g = real(7, 80, seed)
        options = {"budget_g": 0.1 * g.sum(), "alpha": 0.1, "slack": 40, "fine_tune": 3}
        value = alpha_fair_value(alpha_fair(g, **options), g, 0.1)
        problem = scheduling._Problem(g, *options.values())
        every = [problem.solve(end) for end in problem.ends]
        assert value == pytest.approx(max(s.value for s in every if s), rel=1e-12)
        for at in every:
            assert at is not None
            bounds = problem.bounds_near(at)
            assert all(bounds[s.end] >= s.value * (1 - 1e-12) for s in every if s)


def test_more_slack_never_counts_less():
    g = real(7, 120)
    values = [
        alpha_fair_value(
            np.pad(
                alpha_fair(g[:, : 60 + s], budget_g=9000.0, alpha=0.1, slack=s, fine_tune=0),
                ((0, 0), (0, 60 - s)),
            ),
            g,
            0.1,
        )
        for s in range(0, 61, 10)
    ]
    assert all(b >= a * (1 - 1e-3) for a, b in itertools.pairwise(values))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 8), st.integers(0, 8))
def test_saving_is_0_without_slack_and_never_falls(seed, machines, hours, slack):
    g = np.random.default_rng(seed).uniform(0.0, 300.0, (machines, hours + slack))
    savings = [slack_saving(g, hours=hours, slack=s) for s in range(slack + 1)]
    assert (savings[0] == 0.0).all()
    for less, more in itertools.pairwise(savings):
        assert (more >= less - 1e-12).all()
    assert savings[-1].max() <= 1.0
    with pytest.raises(ValueError, match="do not fit"):
        slack_saving(g, hours=hours, slack=slack + 1)
    assert slack_saving(np.zeros((2, 3)), hours=1, slack=2).tolist() == [0.0, 0.0]
