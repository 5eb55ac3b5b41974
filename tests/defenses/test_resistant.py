"""Groups and weights before a rule: worked out by hand, bounded, saved, refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from defenses.histories import Histories
from defenses.identities import Identity, Reputation
from defenses.resistant import SybilResistant
from defenses.sybil import joined
from fedhive import config
from fedhive.compose import compose
from fedhive.errors import UserError
from strategies.combine import Cohort

NOBODY = Identity()


def cohort(updates, identities=(), round: int = 1, nodes=None) -> Cohort:
    rows = np.atleast_2d(np.array(updates, np.float32))
    base = np.full(rows.shape[1], 1.0, np.float32)
    return Cohort(
        nodes=nodes or list(range(len(rows))), models=list(base + rows),
        examples=[10**6] * len(rows), weights=[1.0] * len(rows), extra={}, current=base,
        total_nodes=len(rows), round=round, identities=identities,
    )  # fmt: skip


def column(*values: float):
    return [[value] for value in values]


def moved(rule: SybilResistant, given: Cohort) -> list[float]:
    return (rule.combine(given, rule.init(given.current))[0] - given.current).tolist()


def owners(*names: str | None) -> list[Identity]:
    return [Identity(owner=name) for name in names]


# ---- groups ------------------------------------------------------------------------------------


def test_identities_of_one_owner_are_one_row():
    """Rows 0, 3, and the liar's mean 9: the median is 3 whatever their number."""
    rule = SybilResistant("coordinate_median", f=0)
    for count in (1, 2, 50):
        found = moved(rule, cohort(column(0, 3, *[9] * count), owners("a", "b", *["x"] * count)))
        assert found == [3.0]
    alone = moved(rule, cohort(column(0, 3, 9, 9, 9), owners("a", "b", None, None, None)))
    assert alone == [9.0]


def test_a_zero_sum_pair_is_what_it_sums_to():
    rule = SybilResistant("mean", f=0)
    found = moved(rule, cohort(column(0, 0, 106, -94), owners("a", "b", "x", "x")))
    assert found == pytest.approx([2.0])


def test_groups_are_joined_through_any_attribute():
    both = [Identity(owner="a", device="1"), Identity(owner="b", device="1"), Identity(owner="b")]
    assert moved(SybilResistant("mean", f=0), cohort(column(3, 6, 9), both)) == [6.0]
    assert joined([["a", "b", "b", None], [1, 1, None, None]], 4) == [0, 0, 0, 1]
    assert joined([], 3) == [0, 1, 2]
    with pytest.raises(ValueError, match="2 values of an attribute for 3"):
        joined([[1, 2]], 3)


def test_networks_as_wide_as_asked_for():
    known = [Identity(address=a) for a in ("10.1.1.1", "10.1.2.1", "10.2.1.1", "11.1.1.1")]
    given = cohort(column(0, 0, 0, 4), known)
    for width, expected in (("narrow", 1.0), ("middle", 4 / 3), ("wide", 2.0)):
        rule = SybilResistant("mean", f=0, groups=("network",), network=width)
        assert moved(rule, given) == pytest.approx([expected]), width


def test_withholding_an_attribute():
    given = cohort(column(0, 8, 8, 8), [Identity(device="1"), NOBODY, NOBODY, NOBODY])
    alone = SybilResistant("mean", f=0, groups=("device",))
    together = SybilResistant("mean", f=0, groups=("device",), unknown="together")
    assert moved(alone, given) == [6.0]
    assert moved(together, given) == [4.0]


def test_near_duplicates_share_a_row():
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((4, 8))
    clones = np.repeat(rng.standard_normal((1, 8)), 6, axis=0)
    rows = np.concatenate([honest, clones])
    found = moved(SybilResistant("mean", f=0, groups=("near_duplicates",)), cohort(rows))
    np.testing.assert_allclose(found, np.concatenate([honest, clones[:1]]).mean(0), atol=1e-6)


def test_the_cap_is_a_groups_weight():
    given = cohort(column(0, 6, 6, 6), owners("a", "x", "x", "x"))
    for cap, expected in ((1.0, 3.0), (2.0, 4.0), (3.0, 4.5), (9.0, 4.5)):
        assert moved(SybilResistant("mean", f=0, cap=cap), given) == pytest.approx([expected])


# ---- weights -----------------------------------------------------------------------------------


def test_newcomers_on_probation():
    """Weights 1 and 0.1 + 0.9 * 2 / 10 = 0.28."""
    known = [Identity(first_round=1), Identity(first_round=10)]
    rule = SybilResistant("mean", f=0, probation_rounds=10, probation_least=0.1)
    found = moved(rule, cohort(column(0, 1.28), known, round=12))
    assert found == pytest.approx([0.28])


def test_the_tree_of_networks():
    """Two /8: the three of the second share what the one of the first has alone."""
    known = [Identity(address=a) for a in ("10.1.1.1", "11.1.1.1", "11.1.1.2", "11.1.1.3")]
    rule = SybilResistant("mean", f=0, groups=(), tree=True)
    assert moved(rule, cohort(column(0, 6, 6, 6), known)) == pytest.approx([3.0])


def test_reputation_is_what_earlier_rounds_were_worth():
    rule = SybilResistant("coordinate_median", f=0, groups=(), reputation=Reputation(memory=1.0))
    given = cohort(column(1, 1.1, 0.9, 50))
    for number in range(1, 9):
        rule.combine(cohort(column(1, 1.1, 0.9, 50), round=number), {})
    assert rule.reputation is not None
    assert rule.reputation.of("node 0") == pytest.approx(9 / 10)
    assert rule.reputation.of("node 3") == pytest.approx(1 / 10)
    average = SybilResistant("mean", f=0, groups=(), reputation=rule.reputation)
    weights = np.array([0.9, 0.9, 0.9, 0.1])
    expected = weights @ [1, 1.1, 0.9, 50] / weights.sum()
    assert moved(average, given) == pytest.approx([expected])


def test_reputation_survives_a_restart():
    first = SybilResistant(f=0, reputation=Reputation())
    first.combine(cohort(column(1, 1, 9)), {})
    saved = json.loads(json.dumps(first.state()))
    second = SybilResistant(f=0, reputation=Reputation())
    second.restore(saved)
    assert second.state() == first.state()
    SybilResistant(f=0).restore(saved)  # switched off meanwhile


def test_foolsgold_as_published_and_hardened():
    """IID honest clients and one attacker: the published rule listens to the attacker alone."""
    rng = np.random.default_rng(1)
    honest = 1.0 + 0.05 * rng.standard_normal((10, 400))
    rows = np.concatenate([honest, rng.standard_normal((1, 400))])
    published = SybilResistant("mean", f=0, groups=(), similarity="foolsgold")
    hardened = SybilResistant("mean", f=0, groups=(), similarity="hardened_foolsgold")
    np.testing.assert_allclose(moved(published, cohort(rows)), rows[-1], atol=1e-5)
    assert np.mean(moved(hardened, cohort(rows))) == pytest.approx(rows.mean(), abs=0.02)


def test_everybody_without_weight_leaves_the_model(caplog):
    given = cohort([[1.0, 2.0]] * 3)
    found, _ = SybilResistant("mean", f=0, similarity="foolsgold").combine(given, {})
    assert found.tolist() == given.current.tolist()
    assert "every identity has a weight of 0" in caplog.text


def test_too_few_groups_leave_the_model(caplog):
    given = cohort(column(1, 2, 3, 4), owners("a", "a", "a", "b"))
    found, _ = SybilResistant("trimmed_mean", f=1).combine(given, {})
    assert found.tolist() == [1.0]
    assert "4 identities are 2 groups" in caplog.text


def test_the_centre_is_handed_on():
    rule = SybilResistant({"centered_clipping": {"tau": 1.0}}, f=0)
    given = cohort(column(3, 5))
    model, state = rule.combine(given, rule.init(given.current))
    assert state["centre"].tolist() == [1.0]
    assert (rule.combine(given, state)[0] - given.current).tolist() == [2.0]
    assert model.tolist() == [2.0]


# ---- histories ---------------------------------------------------------------------------------


def test_histories_are_sums_that_may_forget():
    seen = []

    def rate(sums):
        seen.append(sums.flatten().tolist())
        return torch.ones(len(sums))

    histories = Histories(rate, memory=0.5, features=1)
    state: dict = {}
    state, rates = histories.learn(["a", "b"], [torch.tensor([9.0, 4.0])] * 2, 1, state)
    state, _ = histories.learn(["a"], [torch.tensor([9.0, 1.0])], 2, state)
    before = dict(state)
    histories.learn(["a", "a", "b"], [torch.tensor([9.0, 1.0])] * 3, 3, state)
    assert seen == [[4.0, 4.0], [3.0], [3.5, 3.0]]
    assert rates.tolist() == [1.0, 1.0]
    assert all(state[key] is before[key] for key in before)  # what was given is not changed


def test_new_names_do_not_fill_the_memory():
    histories = Histories(lambda sums: torch.ones(len(sums)), kept=3)
    state: dict = {}
    for round in range(1, 9):
        names = ["honest", f"churn-{round}"]
        state, _ = histories.learn(names, [torch.ones(2)] * 2, round, state)
    assert sorted(state) == [
        "history.churn-7", "history.churn-8", "history.honest",
        "seen.churn-7", "seen.churn-8", "seen.honest",
    ]  # fmt: skip


def test_a_history_that_overflowed_weighs_nothing():
    histories = Histories(lambda sums: torch.ones(len(sums)))
    huge = torch.full((2,), 3e38)
    state, _ = histories.learn(["a", "b"], [huge, torch.ones(2)], 1, {})
    with np.errstate(over="ignore"):
        _, rates = histories.learn(["a", "b"], [huge, torch.ones(2)], 2, state)
    assert rates.tolist() == [0.0, 1.0]


# ---- properties --------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 2**16), st.sampled_from(["mean", "coordinate_median"]))
def test_one_owner_gains_nothing_from_more_identities(count, seed, rule):
    rng = np.random.default_rng(seed)
    honest, lie = rng.standard_normal((5, 3)), rng.standard_normal(3) * 100
    noise = rng.standard_normal((count, 3)) * 10
    sybils = lie + noise - noise.mean(0)
    part = SybilResistant(rule, f=0)
    one = moved(part, cohort(np.vstack([honest, lie]), owners(*"abcdex")))
    many = moved(part, cohort(np.vstack([honest, sybils]), owners(*"abcde", *["x"] * count)))
    np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-3)


@given(st.integers(0, 2**16))
def test_the_order_of_replies_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    rows, names = rng.standard_normal((7, 4)), list("aabbcde")
    order = rng.permutation(7)
    part = SybilResistant("trimmed_mean", f=1, pre=["nearest_neighbor_mixing"])
    one = moved(part, cohort(rows, owners(*names)))
    other = moved(part, cohort(rows[order], owners(*[names[i] for i in order])))
    np.testing.assert_allclose(other, one, atol=1e-5)


# ---- choices, whole runs, refusals --------------------------------------------------------------


@pytest.mark.parametrize("choice", ["sybil_resistant", "foolsgold", "hardened_foolsgold"])
def test_choices_run(play, tiny, choice):
    rest = () if choice == "foolsgold" else ("identities=simulated",)
    cfg = tiny("selection.k=null", "nodes=6", f"combine={choice}", *rest)
    assert play(cfg=cfg).statuses == ["accepted"] * 18


def test_attributes_reach_the_rule(play, tiny):
    """Three of five machines say the same thing, ten times too loud; they have one account."""
    words = (
        "selection.k=null", "nodes=5", "rounds=4", "attack=sign_flip", "attack.count=3",
        "attack.place=last", "attack.behaviour.scale=10.0", "combine=sybil_resistant",
        "combine.f=0", "combine.pre=[]", "combine.rule=coordinate_median",
    )  # fmt: skip
    known = play(cfg=tiny(*words, "identities=simulated"))
    unknown = play(cfg=tiny(*words))
    assert known.summary["accuracy"] > unknown.summary["accuracy"] + 0.2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["combine.f=3", "nodes=6"], "6 clients: NNM needs n > 2 f, got n = 6 and f = 3"),
        (["combine.rule=krum", "combine.pre=[]", "combine.f=2", "nodes=6"], "n >= 2 f \\+ 3"),
        (["combine.rule=fltrust", "combine.pre=[]"], "trusted_nodes is empty"),
        (["combine.cap=0"], "cap > 0"),
        (["combine.memory=2"], "memory <= 1"),
        (["combine.groups=[colour]"], "groups"),
        (["combine.similarity=fools_gold"], "did you mean 'foolsgold'"),
        (["combine.probation_least=2"], "least <= 1"),
        (["combine.network=huge"], "network"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(words, said):
    cfg = compose(["combine=sybil_resistant", *words])
    with pytest.raises(UserError, match=said):
        config.build(cfg["combine"], "combine")


@pytest.mark.parametrize("combine", ["robust", "sybil_resistant"])
def test_the_selection_is_counted_too(combine):
    cfg = compose([f"combine={combine}", "combine.f=5", "nodes=30", "selection.k=10"])
    with pytest.raises(UserError, match="10 clients: NNM needs n > 2 f, got n = 10 and f = 5"):
        config.build(cfg["strategy"], "strategy")
    cfg = compose([f"combine={combine}", "combine.f=5", "nodes=30", "selection.k=11"])
    config.build(cfg["strategy"], "strategy")
