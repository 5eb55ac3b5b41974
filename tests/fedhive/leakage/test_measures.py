"""The linear-Gaussian measure: against simulated estimates, closed forms and whole Jacobians."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedhive.leakage.measures import (
    UNIFORM,
    of_jacobian,
    of_view,
    rounding,
    secure_sum,
)
from fedhive.leakage.tangent import Tangent, lanczos, spectral_norm, spectrum_of
from fedhive.leakage.view import Channel, Exchange, Knowledge, View


def view_of(size: int, channel: Channel, rounds: int = 1, visible=None) -> View:
    shown = np.ones(size, bool) if visible is None else visible
    zeros = np.zeros(size, np.float32)
    exchanges = tuple(Exchange(r, zeros, zeros) for r in range(1, rounds + 1))
    return View("server", (1,), (1.0,), exchanges, shown, [("w", (size,))], channel, Knowledge())


@pytest.fixture(scope="module")
def channel():
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 12)), 0.5, 0.8


def test_no_simulated_estimate_beats_the_bounds(channel):
    """Least squares meets Cramer and Rao, the posterior mean meets Bayes."""
    jacobian, sigma, tau = channel
    measured = of_jacobian(jacobian, sigma, tau)
    rng = np.random.default_rng(1)
    x = rng.normal(0, tau, (4000, 12))
    u = x @ jacobian.T + rng.normal(0, sigma, (4000, 30))
    least = u @ np.linalg.pinv(jacobian).T
    gain = np.linalg.solve(jacobian.T @ jacobian + (sigma / tau) ** 2 * np.eye(12), jacobian.T)
    assert np.mean((least - x) ** 2) == pytest.approx(measured.cramer_rao, rel=0.02)
    assert np.mean((u @ gain.T - x) ** 2) == pytest.approx(measured.bayes_mse, rel=0.02)
    assert measured.bayes_mse < min(measured.cramer_rao, tau**2)
    assert measured.cramer_rao >= 1 / measured.mean_fisher_leakage


def test_information_is_that_of_jointly_gaussian_vectors(channel):
    jacobian, sigma, tau = channel
    seen = tau**2 * jacobian @ jacobian.T + sigma**2 * np.eye(30)
    closed = 0.5 * (np.linalg.slogdet(seen)[1] - 30 * math.log(sigma**2))
    assert of_jacobian(jacobian, sigma, tau).mutual_information == pytest.approx(closed)


def test_one_number_by_hand():
    one = of_jacobian([[3.0]], 1.5, 2.0)
    assert one.mutual_information == pytest.approx(0.5 * math.log(1 + 4 * 4))
    assert one.cramer_rao == pytest.approx(0.25)
    assert one.bayes_mse == pytest.approx(1 / (4 + 0.25))
    assert one.fisher_leakage == pytest.approx(2.0)
    assert one.psnr() == pytest.approx(10 * math.log10(4.25))


def test_what_is_not_seen_is_not_estimated():
    flat = of_jacobian([[1.0, 0.0], [2.0, 0.0]], 1.0, 0.3)
    assert flat.cramer_rao == math.inf
    nothing = of_jacobian(np.zeros((2, 4)), 1.0, UNIFORM)
    assert nothing.mutual_information == 0.0
    assert nothing.bayes_mse == pytest.approx(1 / 12)
    assert nothing.psnr() == pytest.approx(10.79, abs=0.01)


def test_others_are_noise():
    """One of N equal Gaussian updates in their sum: d / 2 log(N / (N - 1))."""
    clients, d = 5, 3
    jacobian = np.hstack([np.eye(d)] * clients)
    one = of_jacobian(jacobian, 1e-3, 1.0, about=range(d))
    assert one.mutual_information == pytest.approx(secure_sum(clients, d), rel=1e-5)
    assert secure_sum(2, 1) == pytest.approx(0.5 * math.log(2))
    assert secure_sum(100, 7) == pytest.approx(7 / 200, rel=0.01)  # falls like 1 / N
    with pytest.raises(ValueError, match="one update"):
        secure_sum(1, 3)


def test_about_some_agrees_with_the_posterior_covariance(channel):
    jacobian, sigma, tau = channel
    posterior = np.linalg.inv(jacobian.T @ jacobian / sigma**2 + np.eye(12) / tau**2)
    found = of_jacobian(jacobian, sigma, tau, about=[2, 5])
    assert found.bayes_mse == pytest.approx(np.trace(posterior[np.ix_([2, 5], [2, 5])]) / 2)


def test_a_view_of_a_linear_update_is_exact(channel):
    jacobian, _, tau = channel
    matrix = torch.tensor(jacobian, dtype=torch.float32)
    visible = np.arange(30) % 3 > 0
    law = Channel(sigma=0.3, step=0.2)
    x = torch.zeros(2, 6)
    found = of_view(view_of(30, law, visible=visible), lambda z: matrix @ z.flatten(), x, tau)
    closed = of_jacobian(jacobian[visible], math.sqrt(0.09 + 0.04 / 12), tau)
    assert found.mutual_information == pytest.approx(closed.mutual_information, rel=1e-5)
    assert found.cramer_rao == pytest.approx(closed.cramer_rao, rel=1e-4)


def test_rounds_add_up(channel):
    jacobian, sigma, tau = channel
    halves = [torch.tensor(h, dtype=torch.float32) for h in (jacobian[:15], jacobian[15:])]
    updates = [lambda z, h=h: h @ z for h in halves]
    two = of_view(view_of(15, Channel(sigma=sigma), 2), updates, torch.zeros(12), tau)
    closed = of_jacobian(jacobian, sigma, tau).bayes_mse
    assert two.bayes_mse == pytest.approx(closed, rel=1e-4)
    with pytest.raises(ValueError, match="1 updates for 2 exchanges"):
        of_view(view_of(15, Channel(sigma=1.0), 2), updates[0], torch.zeros(12), tau)


class Net:
    """A small network's gradient as a function of its inputs."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3))
        self.y = torch.tensor([0, 2])
        self.x = torch.rand(2, 6)
        self.size = sum(p.numel() for p in self.model.parameters())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(self.model(x), self.y)
        grads = torch.autograd.grad(loss, list(self.model.parameters()), create_graph=True)
        return torch.cat([g.flatten() for g in grads])

    def jacobian(self, h: float = 1e-3) -> np.ndarray:
        columns = []
        for i in range(self.x.numel()):
            step = torch.zeros(self.x.numel())
            step[i] = h
            ends = [self(self.x + sign * step.view_as(self.x)) for sign in (1, -1)]
            columns.append(((ends[0] - ends[1]) / (2 * h)).detach().numpy())
        return np.stack(columns, 1)


@pytest.fixture(scope="module")
def net() -> Net:
    return Net()


def test_the_tangent_is_the_derivative(net):
    tangent = Tangent(net, net.x)
    np.testing.assert_allclose(tangent.jacobian(), net.jacobian(), atol=2e-4)
    few = torch.zeros(net.size, dtype=torch.bool)
    few[:7] = True  # fewer rows than columns: by backward passes
    np.testing.assert_allclose(
        Tangent(net, net.x, few).jacobian(), tangent.jacobian()[:7], atol=1e-6
    )


def test_fisher_information_leakage_by_power_iteration(net):
    tangent = Tangent(net, net.x)
    top = np.linalg.norm(tangent.jacobian(), 2)
    found = spectral_norm(tangent, np.random.default_rng(0), 1e-7, 500)
    assert found == pytest.approx(top, rel=1e-4)
    measured = of_view(view_of(net.size, Channel(sigma=0.1)), net, net.x)
    assert measured.fisher_leakage == pytest.approx(top / 0.1, rel=1e-4)
    assert spectral_norm(Tangent(lambda x: 0 * x, torch.ones(3)), np.random.default_rng(0)) == 0


def test_the_sketch_agrees_with_the_whole(net, monkeypatch):
    seen = view_of(net.size, Channel(sigma=0.01))
    whole = of_view(seen, net, net.x)
    monkeypatch.setattr("fedhive.leakage.measures.DENSE", 0)
    sketch = of_view(seen, net, net.x, rng=np.random.default_rng(0), probes=60)
    assert sketch.mutual_information == pytest.approx(whole.mutual_information, rel=0.05)
    assert sketch.bayes_mse == pytest.approx(whole.bayes_mse, rel=0.1)
    assert sketch.unknowns == 12
    with pytest.raises(ValueError, match="random generator"):
        of_view(seen, net, net.x)


def test_a_large_spectrum_by_few_products():
    rng = np.random.default_rng(0)
    values = np.geomspace(1e-3, 1e3, 300)
    basis, _ = np.linalg.qr(rng.normal(size=(300, 300)))
    matrix = (basis * values) @ basis.T
    sketch = lanczos(lambda v: matrix @ v, 300, rng, probes=10, depth=40)
    exact = spectrum_of(matrix)

    def function(e):
        return np.log1p(e)

    assert sketch.trace(function) == pytest.approx(exact.trace(function), rel=0.03)
    assert abs(sketch.trace(function) - exact.trace(function)) < 5 * sketch.deviation(function)
    assert sketch.extremes()[1] == pytest.approx(1e3, rel=1e-6)
    assert exact.deviation(function) == 0.0
    ended = lanczos(lambda v: 2.0 * v, 5, rng, probes=2, depth=4)  # one step says it all
    assert ended.trace(lambda e: e) == pytest.approx(10.0)
    assert ended.extremes() == (pytest.approx(2.0), pytest.approx(2.0))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1.0))
def test_less_to_see_is_never_more_information(net, seed, sigma):
    rng = np.random.default_rng(seed)
    visible = rng.random(net.size) < 0.7
    fewer = visible & (rng.random(net.size) < 0.7)
    views = [
        view_of(net.size, Channel(sigma=sigma), visible=visible),
        view_of(net.size, Channel(sigma=sigma), visible=fewer),
        view_of(net.size, Channel(sigma=1.5 * sigma), visible=fewer),
        view_of(net.size, Channel(sigma=1.5 * sigma, step=3 * sigma), visible=fewer),
    ]
    told = [of_view(view, net, net.x) for view in views]
    for more, less in pairwise(told):
        assert less.mutual_information <= more.mutual_information + 1e-9
        assert less.bayes_mse >= more.bayes_mse - 1e-12


def test_clipping_hides_the_length_and_an_unknown_scale_too(net):
    norm = float(net(net.x).norm().detach())
    plain, clipped, scaled = (
        of_view(view_of(net.size, channel), f, net.x)
        for channel, f in (
            (Channel(sigma=0.05), net),
            (Channel(clip=0.1 * norm, sigma=0.05), net),
            (Channel(sigma=0.05, scale_known=False), lambda x: net(x) / norm),
        )
    )
    assert clipped.mutual_information < plain.mutual_information
    length = Tangent(lambda x: 0.1 * norm * net(x) / net(x).norm(), net.x).jacobian()
    closed = of_jacobian(length, 0.05, UNIFORM).mutual_information
    assert clipped.mutual_information == pytest.approx(closed, rel=1e-4)
    assert scaled.mutual_information > 0


def test_without_noise_the_rounding_of_numbers_is_noise(net):
    exact = of_view(view_of(net.size, Channel()), net, net.x)
    sigma = rounding([net(net.x).detach()])
    assert 0 < sigma < 1e-7
    assert exact.psnr() > of_view(view_of(net.size, Channel(sigma=1e-3)), net, net.x).psnr() + 20


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        of_jacobian([[1.0]], 0.0, 1.0)


PAGES = Path(__file__).parents[3] / "docs/howto"


def code_of(page: str) -> list[str]:
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(r"```(?:python|text)\n(.*?)```", text, re.S)


def test_the_page_on_measures_prints_what_it_says(capsys):
    program, printed = code_of("measures.md")
    exec(compile(program, "measures.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_the_page_on_privacy_prints_what_it_says(capsys):
    [program] = code_of("differential-privacy.md")
    exec(compile(program, "differential-privacy.md", "exec"), {})
    said = re.findall(r"# ([\d.]+)", program)
    printed = [f"{float(line):.2f}" for line in capsys.readouterr().out.split()]
    assert printed == said
