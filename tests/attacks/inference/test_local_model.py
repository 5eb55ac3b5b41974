from __future__ import annotations

import numpy as np
import pytest

from attacks.inference.attribute import infer, infer_linear
from attacks.inference.local_model import (
    Pursuit,
    ask,
    from_view,
    last_returned,
    queries,
    solve,
)
from attacks.inference.probe import Probe
from fedhive.leakage.score_inference import proportion
from fedhive.leakage.view import Exchange, View
from tests.attacks.inference.federation import federate, network, noise_records

D, N = 20, 120


class Client:
    """Linear regression with a binary attribute in column 3, by full-batch gradient descent."""

    def __init__(self, seed: int = 0, steps: int = 5, lr: float = 0.05) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((N, D))
        self.x[:, 3] = rng.integers(0, 2, N)
        self.truth = rng.standard_normal(D)
        self.truth[3] = 2.0
        self.y = self.x @ self.truth + 0.3 * rng.standard_normal(N)
        self.optimum = np.linalg.lstsq(self.x, self.y, rcond=None)[0]
        self.steps, self.lr = steps, lr

    def __call__(self, w: np.ndarray) -> np.ndarray:
        for _ in range(self.steps):
            w = w - self.lr * self.x.T @ (self.x @ w - self.y) / N
        return w


def error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("seed", range(5))
def test_d_plus_one_chosen_models_give_the_local_model(steps: int, seed: int) -> None:
    client = Client(seed, steps)
    sent = queries(D, np.random.default_rng(seed))
    assert sent.shape == (D + 1, D)
    found = ask(client, sent)
    assert error(found.weights, client.optimum) < 1e-10
    assert found.rank == D
    assert found.condition < 2 * np.sqrt(D)


def test_one_query_too_few_is_noticed() -> None:
    client = Client()
    found = ask(client, queries(D, np.random.default_rng(0))[:-1])
    assert found.rank == D - 1
    assert error(found.weights, client.optimum) > 1e-3


def test_over_a_float32_wire_the_error_is_that_of_rounding() -> None:
    client = Client()
    sent = queries(D, np.random.default_rng(0)).astype(np.float32)
    updates = [client(w.astype(np.float64)).astype(np.float32) - w for w in sent]
    found = solve(sent, np.stack(updates))
    assert 1e-9 < error(found.weights, client.optimum) < 1e-5


def test_ordinary_training_hardly_determines_it() -> None:
    clients = [Client(seed) for seed in range(4)]
    w, pairs = np.zeros(D), []
    for _ in range(D + 5):
        returned = [client(w) for client in clients]
        pairs.append((w, returned[0] - w))
        w = np.mean(returned, axis=0)
    found = solve(*map(np.stack, zip(*pairs, strict=True)), tolerance=1e-6)
    assert found.rank < D
    assert error(found.weights, clients[0].optimum) > 1e-2


def test_the_law_is_checked() -> None:
    rng = np.random.default_rng(0)
    sent = rng.standard_normal((30, 5))
    assert solve(sent, sent @ rng.standard_normal((5, 5)) + 1.0).residual < 1e-20
    assert solve(sent, rng.standard_normal((30, 5))).residual > 0.5


def test_the_attribute_follows_from_the_model() -> None:
    client = Client()
    found = ask(client, queries(D, np.random.default_rng(0)))
    guess, oracle = (
        infer_linear(w, client.x, client.y, 3, [0.0, 1.0]) for w in (found.weights, client.optimum)
    )
    np.testing.assert_array_equal(guess.choice, oracle.choice)
    hits = int((guess.choice == client.x[:, 3]).sum())
    assert proportion(hits, N).low > 0.95
    hidden = client.x.copy()
    hidden[:, 3] = 7.0  # what is in the column is not used
    again = infer_linear(found.weights, hidden, client.y, 3, [0.0, 1.0])
    np.testing.assert_array_equal(again.choice, guess.choice)
    blind = infer_linear(np.zeros(D), client.x, client.y, 3, [0.0, 1.0])
    assert not blind.margin.any()


def test_attributes_of_a_classifier() -> None:
    # logit of class 1 is 4 * x_0, so that a record of class 1 has x_0 = 1, else -1
    model = network(2, 2, ())
    w = np.asarray([0, 0, 4, 0, 0, 0], np.float32)
    records = noise_records(40, 0, 2, 2)
    found = infer(w, Probe(model), records, 0, [-1.0, 1.0])
    np.testing.assert_array_equal(found.choice, records.y.numpy())
    assert (found.margin > 1).all()


def test_pursuit_ends_at_the_local_optimum() -> None:
    client = Client(steps=1)
    pursuit = Pursuit(np.zeros(D), rounds=300)
    for _ in range(300):
        pursuit.answered(client(pursuit.model) - pursuit.model)
    assert error(pursuit.model, client.optimum) < 0.02
    with pytest.raises(ValueError, match="ended"):
        pursuit.answered(np.zeros(D))


def test_views() -> None:
    client, layout = Client(), [("w", (D,))]
    sent = queries(D, np.random.default_rng(0)).astype(np.float32)
    exchanges = tuple(
        Exchange(t, w, client(w.astype(np.float64)).astype(np.float32) - w)
        for t, w in enumerate(sent)
    )
    view = View("server", (0,), (1.0,), exchanges, np.ones(D, np.bool_), layout)
    assert error(from_view(view).weights, client.optimum) < 1e-5
    some = view.restrict(visible=np.arange(D) > 0)
    with pytest.raises(ValueError, match="all coordinates"):
        from_view(some)
    np.testing.assert_allclose(last_returned(view), client(sent[-1].astype(np.float64)), atol=1e-6)


def test_a_networks_last_model_serves_as_its_local_model() -> None:
    model, data = network(), noise_records(20, 0)
    [view] = federate(model, [data], rounds=2, steps=60, lr=0.3)
    probe = Probe(model)
    after = last_returned(view).astype(np.float32)
    before = view.exchanges[0].sent
    assert probe.losses(after, data).mean() < 0.5 * probe.losses(before, data).mean()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="two"):
        solve(np.zeros((1, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="same"):
        solve(np.ones((4, 3)), np.ones((4, 3)))
