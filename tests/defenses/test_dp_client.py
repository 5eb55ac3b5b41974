"""Client-level privacy: sums by hand, what may be claimed, what is refused, whole runs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from flwr.serverapp import Grid

from defenses.dp.accountant import Spent, epsilon, gaussian_epsilon
from defenses.dp.client import ClientLevel
from defenses.dp.clipping import AdaptiveClip, clipped
from defenses.dp.noise import Seeded
from defenses.dp.sampling import Sampling, sampling_of
from defenses.protection.base import Request, Step
from fedhive.errors import UserError
from fedhive.leakage.view import Channel, Exchange, View
from fedhive.world.clock import VirtualClock
from strategies.combine import Cohort, Mean

DP = ("protection=dp_client", "combine.weighting=uniform")
POISSON = (*DP, "selection=poisson", "selection.rate=0.5")


class Simulated(Grid):
    """A grid whose clock jumps."""

    clock = VirtualClock(lambda now: now)

    def __getattr__(self, name):
        raise AttributeError(name)


Simulated.__abstractmethods__ = frozenset()


def cohort(*updates, round: int = 1) -> Cohort:
    current = np.array([1.0, 2.0], np.float32)
    models = [current + np.array(update, np.float32) for update in updates]
    n = len(models)
    return Cohort(
        list(range(n)), models, [1] * n, [1.0] * n, {}, current, n, [current] * n, round=round
    )


def asked(protection: ClientLevel, chosen: int, idle: int = 4, round: int = 1) -> None:
    def request(nodes):
        return Request(
            round, np.zeros(2, np.float32), [("w", (2,))], dict.fromkeys(range(nodes)),
            idle=range(idle), weights=dict.fromkeys(range(nodes), 1.0),
        )  # fmt: skip

    assert protection.prepare(request(0), Simulated())
    protection.settings(request(chosen))


def reveal(protection: ClientLevel, found: Cohort):
    opened = [None] * len(found.models)
    step = Step(found, found.current, opened, Mean("uniform"), {}, Simulated())
    return protection.reveal(step)


def test_the_noisy_mean_by_hand():
    protection = ClientLevel(noise_multiplier=0.5, clip=2.0, seed=3)
    asked(protection, 3)  # the third withdrew, and counts as an update of zero
    found = cohort([3.0, 4.0], [0.6, -0.8], round=5)
    noise = Seeded(3, "dp-server", 5).normal(2)
    total = np.array([3.0, 4.0]) * 2 / 5 + np.array([0.6, -0.8]) + 0.5 * 2.0 * noise
    expected = found.current + total / 3
    np.testing.assert_allclose(reveal(protection, found).model, expected, rtol=1e-6)
    assert protection.epsilon() == pytest.approx(gaussian_epsilon(2.0, 1e-5))


def test_with_coins_the_divisor_is_what_is_expected_and_nobody_is_noise():
    protection = ClientLevel(noise_multiplier=1.0, clip=1.0)
    protection.sampling = Sampling(0.5, "coins")
    asked(protection, 0, idle=8)
    found = cohort(round=2)
    noise = Seeded(0, "dp-server", 2).normal(2)
    np.testing.assert_allclose(
        reveal(protection, found).model, found.current + noise / 4, rtol=1e-6
    )
    assert protection.epsilon() == epsilon([Spent(1.0, 0.5, 1)], 1e-5)
    asked(protection, 0, idle=0)
    assert reveal(protection, found).model is None  # nobody is on, which is public
    assert protection.released == 1


def test_one_client_moves_the_sum_by_the_clipping_norm_at_most():
    """The sensitivity that everything rests on."""
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 1e6):
        updates = [scale * rng.normal(size=2) for _ in range(5)]
        models = []
        for zeroed in (None, 2):
            protection = ClientLevel(noise_multiplier=0.0, clip=0.7)
            asked(protection, 5)
            rows = [u * 0 if i == zeroed else u for i, u in enumerate(updates)]
            models.append(reveal(protection, cohort(*rows)).model)
        moved = np.linalg.norm(np.subtract(*models).astype(np.float64)) * 5
        assert moved <= 0.7 + 5e-6


def test_adaptive_clipping_by_hand():
    """Andrew et al. 2021, algorithm 1: the norm falls where too many updates are short."""
    adaptive = AdaptiveClip(quantile=0.5, rate=0.2, count_noise=0.05)
    z = adaptive.noise_multiplier(0.5, 100.0)
    assert z == pytest.approx((0.5**-2 - 10.0**-2) ** -0.5)
    # Two Gaussian releases of z and 2 sigma_b cost together what one of 0.5 does.
    together = epsilon([Spent(z, 1.0, 1), Spent(2 * 5.0, 1.0, 1)], 1e-5)
    assert together == pytest.approx(epsilon([Spent(0.5, 1.0, 1)], 1e-5))
    updates = [np.array([length, 0.0], np.float32) for length in (0.5, 0.9, 1.0, 3.0)]
    noise = Seeded(1, "x")
    drawn = float(Seeded(1, "x").normal(1)[0])
    fraction = (3 - 0.5 * 4 + 0.05 * 4 * drawn) / 4 + 0.5
    assert fraction == pytest.approx(0.75 + 0.05 * drawn)
    expected = 1.0 * math.exp(-0.2 * (fraction - 0.5))
    assert adaptive.next(1.0, updates, 4, noise) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"count_noise must be above 0\.5"):
        adaptive.noise_multiplier(1.0, 1.0)


def test_the_adaptive_norm_finds_the_quantile():
    adaptive, norm = AdaptiveClip(quantile=0.5, rate=0.2, count_noise=0.05), 20.0
    updates = [np.array([length], np.float32) for length in np.linspace(0.0, 2.0, 101)]
    for round in range(60):
        norm = adaptive.next(norm, updates, 101, Seeded(0, "count", round))
    assert norm == pytest.approx(1.0, abs=0.15)


def test_clipping():
    np.testing.assert_allclose(clipped(np.array([3.0, 4.0], np.float32), 1.0), [0.6, 0.8])
    short = np.array([0.3, 0.4], np.float32)
    assert clipped(short, 1.0) is not short
    np.testing.assert_array_equal(clipped(short, 1.0), short.astype(np.float64))


def test_a_run_with_coins(play):
    played = play(*POISSON)
    expected = [epsilon([Spent(1.0, 0.5, r)], 1e-5) for r in (1, 2, 3)]
    assert [row["epsilon"] for row in played.rounds] == pytest.approx(expected)
    assert played.summary["epsilon"] == pytest.approx(expected[-1])
    told = json.loads((played.directory / "protection.json").read_text())
    assert "by a coin of its own, with probability 0.5" in told["sampling"]
    assert told["releases"] == 3


def test_a_run_without_coins_is_not_amplified_and_says_so(play):
    played = play(*DP, "selection.k=2")
    most = max(np.bincount([e["node"] for e in played.events if e["kind"] == "train"]))
    exact = gaussian_epsilon(math.sqrt(most), 1e-5)
    assert played.summary["epsilon"] == pytest.approx(exact)
    told = json.loads((played.directory / "protection.json").read_text())
    assert told["sampling"].startswith("no amplification by sampling: selection Uniform")
    assert "no loss" not in told["why"]


def test_a_round_without_anybody_is_noised_too(play):
    played = play(*POISSON, "selection.rate=0.05", "rounds=2")
    assert played.rounds[0]["selected"] == 0
    assert played.summary["epsilon"] == epsilon([Spent(1.0, 0.05, 2)], 1e-5)
    plain = play("rounds=2", "selection=poisson", "selection.rate=0.05")
    assert plain.rounds[0]["selected"] == 0
    assert played.sha != plain.sha


def test_equal_seeds_equal_bits_and_the_promise_survives_a_checkpoint(play):
    one, two = play(*POISSON), play(*POISSON)
    assert one.sha == two.sha
    assert one.sha != play(*POISSON, "seed=1").sha
    state = one.saved().plain["strategy"]["parts"]["protection"]
    again = ClientLevel()
    again.sampling = Sampling(0.5, "coins")
    again.restore(json.loads(json.dumps(state)))
    assert again.epsilon() == one.summary["epsilon"]


def test_noise_by_clients_leaves_the_client(play):
    """The replies themselves are noised, whatever rule combines them."""
    played = play(
        DP[0], "protection.noise=client", "protection.clip=0.5", "protection.noise_multiplier=2.0",
        "selection=all", "rounds=1", "combine=robust",
    )  # fmt: skip
    assert played.statuses == ["accepted"] * 4
    assert played.summary["epsilon"] == pytest.approx(gaussian_epsilon(0.5, 1e-5))
    told = json.loads((played.directory / "protection.json").read_text())
    assert told["sampling"].startswith("no amplification by sampling: the server")


def test_noise_by_clients_costs_each_its_rounds(play):
    played = play(*DP, "protection.noise=client", "selection.k=2", "rounds=5")
    most = max(np.bincount([e["node"] for e in played.events if e["kind"] == "train"]))
    assert played.summary["epsilon"] == pytest.approx(gaussian_epsilon(math.sqrt(most), 1e-5))


def test_clients_noise_has_the_declared_law(play):
    """A learning rate of 0: the reply's update is the noise alone."""
    played = play(
        *DP, "protection.noise=client", "client.lr=0.0", "protection.noise_multiplier=2.0",
        "protection.clip=0.5", "selection=all", "rounds=1", "data.d=400",
    )  # fmt: skip
    start = play("client.lr=0.0", "rounds=1", "data.d=400").model()
    noise = played.model() - start  # mean of 4
    assert noise.std() == pytest.approx(2.0 * 0.5 / 2, rel=0.1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("protection=dp_client",), "clients with more data weigh more"),
        ((*DP[:1], "combine=robust"), "combine Robust is not a sum"),
        ((*DP, "trigger=buffer", "selection=concurrency"), "replies of earlier rounds"),
        ((*DP, "trigger=adaptive_deadline"), "learns from the clients' exact updates"),
        ((*DP, "selection=oort"), "Oort looks at clients' losses"),
        ((*DP, "protection.delta=0.5"), "one of 4 clients whole"),
    ],
)
def test_combinations_that_break_the_promise_are_refused(play, overrides, message):
    with pytest.raises(UserError, match=message):
        play(*overrides)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((), "Uniform does not toss"),
        (("selection=poisson", "schedule=threshold"), "schedule Threshold"),
        (("selection=poisson", "trigger=deadline"), "still owes an answer"),
        (("selection=poisson", "containment.max_strikes=3"), "expelled"),
    ],
)
def test_nothing_is_claimed_for_anything_but_coins(tiny, overrides, says):
    found = sampling_of(tiny(*overrides))
    assert found.rate is None
    assert says in found.why
    assert sampling_of(tiny("selection=poisson")).rate == 0.3


def test_predictable_coins_gain_nothing_on_real_machines(monkeypatch):
    protection = ClientLevel()
    protection.sampling = Sampling(0.5, "coins")
    request = Request(1, np.zeros(2, np.float32), [("w", (2,))], {}, idle=(1, 2))

    class Real(Simulated):
        clock = object()

    protection.prepare(request, Real())
    assert protection.sampling.rate is None
    assert "selection.secret=true" in protection.sampling.why


def _view(role, weights=(1.0,)) -> View:
    exchange = Exchange(1, np.zeros(3, np.float32), np.ones(3, np.float32))
    return View(
        role, tuple(range(len(weights))), weights, (exchange,), np.ones(3, bool), [("w", (3,))]
    )


def test_unequal_weights_are_refused_where_they_would_count():
    request = Request(1, np.zeros(2, np.float32), [("w", (2,))], {7: None}, weights={7: 3.0})
    with pytest.raises(UserError, match="weight 3"):
        ClientLevel("server").settings(request)
    assert ClientLevel("client").settings(request) == {}


def test_views():
    server = ClientLevel("server", 2.0, 0.5)
    assert server.view(_view("server")).channel == Channel()
    assert server.view(_view("client", (0.25,) * 4)).channel == Channel(None, 0.25)
    client = ClientLevel("client", 2.0, 0.5)
    assert client.view(_view("server")).channel == Channel(0.5, 1.0)
    assert client.view(_view("client", (0.25,) * 4)).channel == Channel(None, 0.5)
    assert client.view(_view("device")).channel == Channel()


@pytest.mark.parametrize("bad", [{"clip": 0.0}, {"delta": 0.0}, {"noise_multiplier": -1.0}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="need"):
        ClientLevel(**bad)
    with pytest.raises(ValueError, match="noise=server"):
        ClientLevel("client", adaptive=AdaptiveClip())
