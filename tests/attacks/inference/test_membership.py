from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr

from attacks.inference import membership
from attacks.inference.probe import Probe, Records
from fedhive.leakage.score_inference import score_membership
from fedhive.leakage.view import Exchange, View
from fedhive.learning import models
from tests.attacks.inference.federation import federate, network, noise_records

ATTACKS = [
    membership.Loss(),
    membership.Loss("all"),
    membership.LossDrop(),
    membership.Cosine(),
    membership.GradientDifference(),
    membership.CrossClient("loss"),
    membership.CrossClient("cosine"),
    membership.CrossClient("cosine", "cdf", pooled=True),
]


@pytest.fixture(scope="module")
def hive() -> tuple[list[View], Probe, Records, np.ndarray]:
    """(views, probe, candidates, who is a member of client 0); labels are noise."""
    model = network(hidden=(64,))
    clients = [noise_records(30, k) for k in range(4)]
    views = federate(model, clients, rounds=5, steps=20, lr=0.3)
    strangers = noise_records(60, 99)
    candidates = Records(
        torch.cat([clients[0].x, strangers.x]), torch.cat([clients[0].y, strangers.y])
    )
    return views, Probe(model), candidates, np.arange(90) < 30


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_members_are_found_where_there_is_only_memory(attack: object, hive: object) -> None:
    views, probe, candidates, member = hive  # type: ignore[misc]
    scores = attack(views[0], views[1:], probe, candidates)  # type: ignore[operator]
    assert score_membership(scores, member).auc.value > 0.75
    again = attack(views[0], views[1:], probe, candidates)  # type: ignore[operator]
    np.testing.assert_array_equal(scores, again)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_members_of_one_client_are_not_found_in_another(attack: object, hive: object) -> None:
    views, probe, candidates, member = hive  # type: ignore[misc]
    first = [view.restrict(rounds=[1]) for view in views]  # later models know of all clients
    scores = attack(first[1], first[2:], probe, candidates)  # type: ignore[operator]
    assert 0.3 < score_membership(scores, member).auc.value < 0.7


def test_one_record_one_step_has_cosine_one() -> None:
    model = network()
    alone = noise_records(1, 0)
    [view] = federate(model, [alone], rounds=2, steps=1)
    candidates = Records(
        torch.cat([alone.x, noise_records(5, 1).x]), torch.cat([alone.y, noise_records(5, 1).y])
    )
    scores = membership.Cosine()(view, (), Probe(model), candidates)
    assert scores[0] == pytest.approx(1.0, abs=1e-5)
    assert scores[1:].max() < 0.9
    # and ||u||^2 - ||u - g||^2 = ||g||^2, its maximum over g, as u = g exactly
    difference = membership.GradientDifference()(view, (), Probe(model), candidates)
    norms = Probe(model).gradient_norms(view.exchanges[0].sent, alone, view.visible)
    first = membership.GradientDifference()(view.restrict(rounds=[1]), (), Probe(model), alone)
    assert first[0] == pytest.approx(norms[0] ** 2, rel=1e-3)
    assert difference[0] > 0


def test_orthogonal_gradients_give_one_over_root_n() -> None:
    # softmax regression without a class in common and with orthogonal inputs, at zero weights
    n = 4
    records = Records(10 * torch.eye(12)[:n], torch.tensor([0, 1, 2, 0]))
    model = network(hidden=())
    [probed] = federate(model, [records], rounds=1, steps=1, batch=n)
    weights_only = np.arange(39) < 36
    zero = np.zeros(39, np.float32)
    probe = Probe(model)
    gradient = np.zeros(39)
    for i in range(n):
        one = records.at(np.asarray([i]))
        for j in range(39):
            gradient[j] += probe.slopes(zero, np.eye(39, dtype=np.float32)[j], one)[0] / n
    seen = (-0.1 * gradient * weights_only).astype(np.float32)
    view = View("server", (0,), (1.0,), (Exchange(1, zero, seen),), weights_only, probed.layout)
    scores = membership.Cosine()(view, (), probe, records)
    np.testing.assert_allclose(scores, 0.5, atol=1e-4)


def test_cross_client_by_hand() -> None:
    attack = membership.CrossClient()
    reference = np.asarray([[1.0, 0.0], [3.0, 2.0], [2.0, 1.0]])
    own = np.asarray([4.0, 1.0])
    np.testing.assert_allclose(attack._score(own, reference), [2.0, 0.0])
    logged = replace(attack, score="cdf")._score(own, reference)
    np.testing.assert_allclose(logged, log_ndtr([2.0, 0.0]))
    same = np.asarray([[1.0, 5.0], [1.0, 7.0]])
    assert np.isfinite(attack._score(own, same)).all()  # a statistic that never varies


def test_rounds_without_a_crowd_are_left_out(hive: object) -> None:
    views, probe, candidates, _ = hive  # type: ignore[misc]
    attack = membership.CrossClient()
    few = [views[1].restrict(rounds=[2, 3]), views[2].restrict(rounds=[3, 4])]
    scores = attack(views[0], few, probe, candidates)
    only = attack(views[0].restrict(rounds=[3]), views[1:3], probe, candidates)
    np.testing.assert_array_equal(scores, only)
    with pytest.raises(ValueError, match="two others"):
        attack(views[0], views[1:2], probe, candidates)


def test_hidden_coordinates_are_neither_used_nor_missed(hive: object) -> None:
    views, probe, candidates, member = hive  # type: ignore[misc]
    visible = np.zeros(views[0].size, np.bool_)
    visible[-64 * 3 :] = True  # part of the last layer
    narrow = views[0].restrict(visible=visible)
    scores = membership.Cosine()(narrow, (), probe, candidates)
    assert score_membership(scores, member).auc.value > 0.6
    assert np.abs(scores).max() <= 1 + 1e-5
    blind = views[0].restrict(visible=np.zeros_like(visible))
    np.testing.assert_array_equal(membership.Cosine()(blind, (), probe, candidates), 0.0)
    np.testing.assert_array_equal(membership.LossDrop()(blind, (), probe, candidates), 0.0)


def test_records_must_fit_and_views_not_be_empty(hive: object) -> None:
    views, probe, candidates, _ = hive  # type: ignore[misc]
    with pytest.raises(ValueError, match="labels"):
        Records(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no round"):
        membership.Loss()(replace(views[0], exchanges=()), (), probe, candidates)
    assert len(models.flatten(probe.model)) == views[0].size
