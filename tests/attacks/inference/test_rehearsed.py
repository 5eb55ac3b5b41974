from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from attacks.inference.lira import Lira, one_sided
from attacks.inference.probe import Probe, Records
from attacks.inference.properties import PropertyInference, dual_ridge
from attacks.inference.rehearsal import Rehearsal
from attacks.inference.series import ProbabilitySeries, Shadow, series
from fedhive.leakage.score_inference import score_membership
from fedhive.leakage.view import Channel, Knowledge, View
from tests.attacks.inference.federation import federate, network, noise_records


def joined(*parts: Records) -> Records:
    return Records(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))


@pytest.fixture(scope="module")
def hive() -> tuple[list[View], list[Records], Probe]:
    model = network(hidden=(64,))
    clients = [noise_records(30, k) for k in range(4)]
    return federate(model, clients, rounds=4, steps=20, lr=0.3), clients, Probe(model)


# ---- rehearsal ---------------------------------------------------------------------------------


def test_a_full_batch_step_is_rehearsed_exactly() -> None:
    model, data = network(), noise_records(10, 0)
    [view] = federate(model, [data], rounds=1, steps=1, batch=10)
    update = Rehearsal(model, view).update(view.exchanges[0], data, np.random.default_rng(0))
    np.testing.assert_allclose(update, view.exchanges[0].seen, atol=1e-7)
    visible = np.arange(view.size) % 2 == 0
    half = view.restrict(visible=visible)
    hidden = Rehearsal(model, half).update(half.exchanges[0], data, np.random.default_rng(0))
    np.testing.assert_array_equal(hidden, update * visible)
    clipped = view.restrict(channel=Channel(clip=0.01))
    short = Rehearsal(model, clipped).update(view.exchanges[0], data, np.random.default_rng(0))
    np.testing.assert_allclose(short, clipped.exchanges[0].seen, atol=1e-7)


def test_what_is_not_known_cannot_be_rehearsed(hive: object) -> None:
    views, clients, probe = hive  # type: ignore[misc]
    with pytest.raises(ValueError, match="rate"):
        Rehearsal(probe.model, views[0].restrict(knows=Knowledge(examples=30)))
    with pytest.raises(ValueError, match="at hand"):
        Lira(noise_records(5, 7))(views[0], (), probe, clients[0])
    with pytest.raises(ValueError, match="two shadows"):
        Lira(noise_records(50, 7), shadows=1)(views[0], (), probe, clients[0])


# ---- LiRA --------------------------------------------------------------------------------------


def test_lira_by_hand() -> None:
    out = np.asarray([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    observed = np.asarray([6.0, 2.0])
    np.testing.assert_allclose(one_sided(observed, out, False), [2.0, 0.0])
    pooled = np.sqrt((4.0 + 3.0) / 2)
    np.testing.assert_allclose(one_sided(observed, out, True), [4 / pooled, 0.0])


def test_lira_finds_members_and_its_p_values_are_right_for_others(hive: object) -> None:
    views, clients, probe = hive  # type: ignore[misc]
    attack = Lira(noise_records(400, 50), shadows=24, rounds="last", pooled=False)
    strangers = noise_records(120, 77)
    member = np.arange(150) < 30
    scores = attack(views[0], (), probe, joined(clients[0], strangers))
    assert score_membership(scores, member).auc.value > 0.8
    # Others' scores are those of one more shadow: near N(0, 1), if correlated among each other
    assert abs(scores[30:].mean()) < 0.5
    assert 0.7 < scores[30:].std() < 1.4
    np.testing.assert_array_equal(
        scores[:30], attack(views[0], (), probe, clients[0])
    )  # a record's score does not depend on who else is asked about


def test_scores_of_gaussian_log_odds_are_standard() -> None:
    rng = np.random.default_rng(0)
    observed, out = rng.normal(3, 2, 2000), rng.normal(3, 2, (200, 2000))
    assert kstest(one_sided(observed, out, False), "norm").pvalue > 0.01


# ---- the time series ---------------------------------------------------------------------------


def test_a_colluders_own_data_teach_the_attack(hive: object) -> None:
    views, clients, probe = hive  # type: ignore[misc]
    shadows = [
        Shadow(views[k], joined(clients[k], noise_records(60, 20 + k)), np.arange(90) < 30)
        for k in (1, 2)
    ]
    attack = ProbabilitySeries(shadows)
    candidates, member = joined(clients[0], noise_records(60, 99)), np.arange(90) < 30
    scores = attack(views[0], (), probe, candidates)
    assert score_membership(scores, member).auc.value > 0.85
    np.testing.assert_array_equal(scores, attack(views[0], (), probe, candidates))
    other = attack(views[3], (), probe, candidates)
    assert score_membership(other, member).auc.value < 0.7


def test_the_series_are_log_odds_returned_then_sent(hive: object) -> None:
    views, clients, probe = hive  # type: ignore[misc]
    found = series(views[0], [2, 3], probe, clients[0])
    assert found.shape == (30, 4)
    second = views[0].exchanges[1]
    np.testing.assert_array_equal(
        found[:, 0], probe.confidences(second.sent + second.seen, clients[0])
    )
    np.testing.assert_array_equal(found[:, 2], probe.confidences(second.sent, clients[0]))


def test_series_need_shadows_and_rounds_in_common(hive: object) -> None:
    views, clients, probe = hive  # type: ignore[misc]
    shadow = Shadow(views[1], clients[1], np.ones(30, np.bool_))
    with pytest.raises(ValueError, match="members and others"):
        ProbabilitySeries([shadow])(views[0], (), probe, clients[0])
    with pytest.raises(ValueError, match="shadows"):
        ProbabilitySeries([])(views[0], (), probe, clients[0])
    late = replace(shadow, view=views[1].restrict(rounds=[4]))
    with pytest.raises(ValueError, match="round"):
        ProbabilitySeries([late])(views[0].restrict(rounds=[1]), (), probe, clients[0])


# ---- properties --------------------------------------------------------------------------------


def test_dual_ridge_is_ridge_and_leaves_out_exactly() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 5)), rng.standard_normal(12)
    fit = dual_ridge(x, y, 0.3)
    centred = x - x.mean(0)
    penalty = 0.3 * np.sum(centred**2) / 12
    slope = np.linalg.solve(centred.T @ centred + penalty * np.eye(5), centred.T @ (y - y.mean()))
    np.testing.assert_allclose(fit.slope, slope)
    np.testing.assert_allclose(fit(x[:2]), (x[:2] - x.mean(0)) @ slope + y.mean())
    for i in range(12):
        rest = np.arange(12) != i
        inner = x[rest] - x[rest].mean(0)
        without = np.linalg.solve(
            inner.T @ inner + penalty * np.eye(5), inner.T @ (y[rest] - y[rest].mean())
        )
        value = (x[i] - x[rest].mean(0)) @ without + y[rest].mean()
        assert fit.left_out[i] == pytest.approx(value)


def shifted(present: bool, rng: np.random.Generator) -> Records:
    """Labels depend on the first coordinates; the property shifts the last one, unasked for."""
    x = rng.standard_normal((24, 12)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)
    x[:, 11] += 2.0 * present
    return Records(torch.from_numpy(x), torch.from_numpy(y))


def test_a_property_that_the_task_does_not_ask_for_is_found() -> None:
    model = network(hidden=())
    truth = np.arange(8) % 2 == 0
    subjects = [shifted(bool(t), np.random.default_rng(100 + k)) for k, t in enumerate(truth)]
    views = federate(model, subjects, rounds=3, steps=6)
    attack = PropertyInference(
        lambda rng: shifted(True, rng), lambda rng: shifted(False, rng), repeats=20
    )
    verdicts = [attack(view, model) for view in views]
    scores = np.asarray([verdict.score for verdict in verdicts])
    assert score_membership(scores, truth).auc.value > 0.9
    assert min(verdict.rehearsed for verdict in verdicts) > 0.6


def test_no_property_no_verdict() -> None:
    model = network(hidden=(16,))
    [view] = federate(model, [shifted(False, np.random.default_rng(0))], rounds=2, steps=6)
    attack = PropertyInference(
        lambda rng: shifted(False, rng), lambda rng: shifted(False, rng), repeats=20
    )
    assert 0.2 < attack(view, model).rehearsed < 0.8
    with pytest.raises(ValueError, match="no round"):
        attack(replace(view, exchanges=()), model)
