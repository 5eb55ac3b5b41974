from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.inference.membership import Cosine
from attacks.inference.probe import Probe, Records
from fedhive.leakage.remainder import as_client, client_view
from fedhive.leakage.score_inference import score_membership
from fedhive.leakage.view import View, together
from tests.attacks.inference.federation import federate, network, noise_records


def hive(n: int, rate: float = 1.0) -> dict[int, View]:
    clients = [noise_records(20, k) for k in range(n)]
    return dict(enumerate(federate(network(), clients, rounds=4, steps=10, lr=0.3, rate=rate)))


@pytest.mark.parametrize(("n", "rate"), [(2, 1.0), (5, 1.0), (3, 0.5)])
def test_the_remainder_is_the_others_average(n: int, rate: float) -> None:
    views = hive(n, rate)
    mine = as_client(views, 0, dict.fromkeys(range(n), 1 / n), rate=rate)
    servers = together([views[k] for k in range(1, n)])
    assert (mine.role, mine.subjects) == ("client", servers.subjects)
    assert mine.weights == pytest.approx(servers.weights)
    assert [e.round for e in mine.exchanges] == [1, 2, 3]  # nobody sees where the last one led
    for seen, truth in zip(mine.exchanges, servers.exchanges, strict=False):
        np.testing.assert_array_equal(seen.sent, truth.sent)
        np.testing.assert_allclose(seen.seen, truth.seen, atol=2e-6)
    assert mine.knows.examples is None


def test_with_two_clients_it_is_the_servers_view_of_the_other() -> None:
    views = hive(2)
    mine = as_client(views, 0, {0: 0.5, 1: 0.5})
    for seen, truth in zip(mine.exchanges, views[1].exchanges, strict=False):
        np.testing.assert_allclose(seen.seen, truth.seen, atol=2e-6)


def test_unequal_weights_by_hand() -> None:
    w = [np.asarray([0.0, 1.0], np.float32), np.asarray([1.0, 1.0], np.float32)]
    u = np.asarray([1.0, -3.0], np.float32)
    view = client_view([(1, w[0]), (2, w[1])], {1: u}, [("w", (2,))], {7: 0.5, 8: 0.25},
                       share=0.25)  # fmt: skip
    np.testing.assert_allclose(view.exchanges[0].seen, [(1 - 0.25) / 0.75, 0.75 / 0.75])
    assert view.weights == pytest.approx((2 / 3, 1 / 3))


def test_a_rule_that_hands_on_one_update_shows_it_to_everybody() -> None:
    # as Krum does: the model moves by client 2's update alone
    views = hive(3)
    start, chosen = views[2].exchanges[0].sent, views[2].exchanges[0].seen
    view = client_view([(1, start), (2, start + chosen)], {}, views[2].layout, {2: 1.0}, share=0)
    np.testing.assert_allclose(view.exchanges[0].seen, chosen, atol=1e-7)
    assert view.subjects == (2,)


def test_rounds_missed_are_left_out() -> None:
    w = np.zeros(2, np.float32)
    models = [(1, w), (2, w), (4, w), (5, w)]
    view = client_view(models, {}, [("w", (2,))], {1: 1.0}, share=0.0)
    assert [each.round for each in view.exchanges] == [1, 4]
    with pytest.raises(ValueError, match="consecutive"):
        client_view([(1, w), (3, w)], {}, [("w", (2,))], {1: 1.0}, share=0.0)
    with pytest.raises(ValueError, match="add up"):
        client_view(models, {}, [("w", (2,))], {1: 0.9}, share=0.2)


def test_membership_in_the_hive_shows_in_the_remainder() -> None:
    views = hive(3)
    mine = as_client(views, 0, dict.fromkeys(range(3), 1 / 3))
    others = [noise_records(20, k) for k in (1, 2)]
    strangers = noise_records(60, 99)
    candidates = Records(
        torch.cat([r.x for r in (*others, strangers)]),
        torch.cat([r.y for r in (*others, strangers)]),
    )
    scores = Cosine()(mine, (), Probe(network()), candidates)
    assert score_membership(scores, np.arange(100) < 40).auc.value > 0.7
