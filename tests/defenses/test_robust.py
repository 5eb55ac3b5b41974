"""Pipelines as a part of a strategy: named stages, small cohorts, memory, refusals in advance."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from defenses import aggregation, preaggregation
from defenses.robust import Robust, aggregate
from defenses.rows import Rows
from fedhive import config, seeding
from fedhive.compose import compose
from fedhive.errors import UserError
from strategies.combine import Cohort


def cohort(updates: np.ndarray, current: float = 1.0, nodes=None, round_number: int = 1) -> Cohort:
    base = np.full(updates.shape[1], current, np.float32)
    return Cohort(
        nodes=nodes or list(range(1000, 1000 + len(updates))),
        models=list((base + updates).astype(np.float32)),
        examples=[1] * len(updates),
        weights=[1.0] * len(updates),
        extra={},
        current=base,
        total_nodes=len(updates),
        round=round_number,
    )


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def test_updates_are_aggregated_not_models():
    found, state = Robust("trimmed_mean", f=1).combine(cohort(column(0, 1, 3, 90)), {})
    assert (found.tolist(), state) == ([3.0], {})
    assert found.dtype == np.float32


def test_a_pipeline_is_its_functions():
    updates = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    rule = Robust(
        {"multi_krum": {"m": 3}}, f=2, pre=["adaptive_clip", {"clip": {"norm": 1.5}},
                                            "nearest_neighbor_mixing"],
    )  # fmt: skip
    before = cohort(updates, current=0.0)
    plain = torch.from_numpy(np.array(before.models))
    plain = preaggregation.adaptive_clip(plain, f=2)
    plain = preaggregation.clip(plain, norm=1.5)
    plain = preaggregation.nearest_neighbor_mixing(plain, f=2)
    expected = aggregation.multi_krum(plain, f=2, m=3)
    np.testing.assert_allclose(rule.combine(before, {})[0], expected, atol=1e-6)
    assert [model.tolist() for model in before.models] == updates.tolist()


def test_functions_of_ones_own():
    half = functools.partial(lambda rows, *, f, share: rows.mixed(share * torch.eye(3).double()),
                             share=1.0)  # fmt: skip
    found = aggregate(torch.tensor([[1.0], [2.0], [6.0]]), f=0, rule=aggregation.mean, pre=[half])
    assert found.tolist() == [3.0]
    rule = Robust(functools.partial(aggregation.krum, neighbours="byzfl"), f=1)
    assert rule.combine(cohort(column(0, 1, 2, 4, 9), 0.0), {})[0].tolist() == [2.0]


def test_f_may_be_a_share():
    assert [Robust(f=0.2).faulty(n) for n in (4, 5, 9, 10, 14)] == [0, 1, 1, 2, 2]
    assert [Robust(f=2).faulty(n) for n in (4, 10)] == [2, 2]
    assert [Robust(f=2.0).faulty(n) for n in (4, 10)] == [2, 2]
    assert Robust(f=0.29).faulty(100) == 29
    for wrong in (-1, 0.5, 1.5):
        with pytest.raises(UserError, match=r"combine\.f"):
            Robust(f=wrong)


def test_with_too_few_replies_the_model_stays(caplog):
    found, _ = Robust("krum", f=1).combine(cohort(column(1, 2, 3, 4), current=7.0), {})
    assert found.tolist() == [7.0]
    assert "Krum needs n >= 2 f + 3, got n = 4 and f = 1" in caplog.text


def test_other_mistakes_are_not_hidden():
    def broken(rows, *, f):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Robust(broken).combine(cohort(column(1, 2)), {})


def test_impossible_numbers_are_refused_in_advance():
    with pytest.raises(
        UserError, match=r"6 clients: Krum needs n >= 2 f \+ 3, got n = 6 and f = 2"
    ):
        Robust("krum", f=2, nodes=6)
    Robust("krum", f=2, nodes=7)
    rule = Robust("trimmed_mean", f=2, pre=[{"bucketing": {"s": 2}}], nodes=10)
    rule.check(9)
    with pytest.raises(UserError, match=r"ceil\(n / s\) > 2 f"):
        rule.check(8)
    with pytest.raises(UserError, match="subsets"):
        Robust("smea", f=19, nodes=40)
    Robust("minimum_diameter_averaging", f=49, nodes=100)


def test_names_and_options_are_checked():
    for make, message in (
        (lambda: Robust("crum"), r"combine\.rule: .*no 'crum'.*did you mean 'krum'"),
        (lambda: Robust(pre=["clap"]), r"combine\.pre\[0\]: .*did you mean 'clip'"),
        (lambda: Robust({"krum": {"neighbors": "paper"}}), "did you mean 'neighbours'"),
        (lambda: Robust({"krum": {}, "mean": {}}), "one name with its options"),
        (lambda: Robust({"krum": {"neighbours": "few"}}, nodes=9), "neighbours"),
        (lambda: Robust("SearchLimitError"), "has no 'SearchLimitError'"),
        (lambda: Robust("fltrust"), "trusted_nodes is empty"),
    ):
        with pytest.raises(UserError, match=message):
            make()


def test_the_centre_is_the_previous_aggregate():
    """tau 1 from 0: the mean of 1, 1, 1; from 1: 1 + mean(1, 1, 1)."""
    rule = Robust({"centered_clipping": {"tau": 1.0}})
    state = rule.init(np.zeros(1, np.float32))
    assert {key: value.tolist() for key, value in state.items()} == {"centre": [0.0]}
    first, state = rule.combine(cohort(column(3, 4, 5), 0.0), state)
    second, state = rule.combine(cohort(column(3, 4, 5), 0.0), state)
    assert (first.tolist(), second.tolist(), state["centre"].tolist()) == ([1.0], [2.0], [2.0])


def test_trusted_nodes_are_the_reference():
    rule = Robust("fltrust", trusted_nodes=[1001, 1002], nodes=4)
    replies = cohort(column(-9, 1, 3, 4), 0.0)
    assert rule.combine(replies, {})[0].tolist() == [2.0]
    absent = cohort(column(1, 2), 5.0, nodes=[7, 8])
    assert rule.combine(absent, {})[0].tolist() == [5.0]


def test_random_stages_differ_by_round_and_repeat():
    rule = Robust({"flame": {"noise": 1.0}}, seed=3)
    updates = np.ones((5, 4), np.float32)
    draws = [rule.combine(cohort(updates, round_number=r), {})[0].tolist() for r in (1, 2, 1)]
    assert draws[0] == draws[2] != draws[1]
    fixed = Robust({"flame": {"noise": 1.0, "seed": 5}})
    draws = [fixed.combine(cohort(updates, round_number=r), {})[0].tolist() for r in (1, 2)]
    assert draws[0] == draws[1]
    noise = seeding.stream(5, "flame").standard_normal(4, dtype=np.float32)
    np.testing.assert_allclose(draws[0], 2.0 + 2.0 * noise, rtol=1e-6)


def test_nan_in_an_update_is_one_of_the_f():
    updates = column(1, 2, 3, float("nan"))
    assert Robust("trimmed_mean", f=1).combine(cohort(updates, 0.0), {})[0].tolist() == [2.0]


def test_the_configuration_builds():
    cfg = compose(["combine=robust", "combine.f=2", "combine.rule={multi_krum: {m: 3}}",
                   "combine.pre=[{clip: {norm: 2.0}}, nearest_neighbor_mixing]"])  # fmt: skip
    rule = config.build(cfg["combine"], "combine")
    assert isinstance(rule, Robust)
    assert rule.nodes == cfg["nodes"]
    cfg = compose(["combine=robust", "combine.f=2", "combine.rule=krum", "nodes=6"])
    with pytest.raises(UserError, match="Krum needs"):
        config.build(cfg["combine"], "combine")


def test_the_part_is_a_function_too():
    updates = torch.from_numpy(np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32))
    before = updates.clone()
    part = Robust("trimmed_mean", f=2, pre=["nearest_neighbor_mixing"])
    mixed = preaggregation.nearest_neighbor_mixing(updates, f=2)
    torch.testing.assert_close(part(updates), aggregation.trimmed_mean(mixed, f=2))
    torch.testing.assert_close(part(updates, f=0), updates.mean(0))
    torch.testing.assert_close(part(list(updates)), part(updates))
    torch.testing.assert_close(part(Rows.of(updates)), part(updates))
    assert torch.equal(updates, before)
    with pytest.raises(ValueError, match="n > 2 f, got n = 9 and f = 5"):
        part(updates, f=5)


def test_its_centre_and_trust_may_be_given():
    rows = torch.tensor([[4.0], [6.0]])
    clipping = Robust({"centered_clipping": {"tau": 1.0}}, f=0)
    assert clipping(rows).tolist() == [1.0]
    assert clipping(rows, centre=torch.tensor([10.0])).tolist() == [9.0]


@pytest.mark.parametrize("share", [0.5, 0.6, 0.999])
def test_half_the_clients_is_too_many(share):
    with pytest.raises(UserError, match=r"share below 0\.5"):
        Robust(f=share)
