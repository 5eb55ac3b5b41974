"""Maps of sensitivity against their definitions, computed the slow way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from defenses.encryption import agreement, sensitivity
from fedhive.learning import models


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )


def sample(n: int = 5, seed: int = 0, model: nn.Module | None = None) -> sensitivity.Sample:
    model = model or net(seed)
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 6, 6, generator=draw)
    y = torch.randint(0, 3, (n,), generator=draw)
    params = models.flatten(model)
    return sensitivity.Sample(
        model, params, x, y, np.random.default_rng(seed), lambda steps: params - 0.01 * steps
    )


def per_sample_gradients(s: sensitivity.Sample) -> np.ndarray:
    """[n, P], by plain backward passes."""
    rows = []
    for x, y in zip(s.x, s.y, strict=True):
        s.model.zero_grad()
        F.cross_entropy(s.model(x[None]), y[None]).backward()
        rows.append(torch.cat([p.grad.reshape(-1) for p in s.model.parameters()]))
    return torch.stack(rows).numpy()


def input_jacobian_rows(s: sensitivity.Sample) -> np.ndarray:
    """Row norms of d(summed gradient)/d(all inputs), one backward pass for each parameter."""
    x = s.x.clone().requires_grad_(True)
    loss = F.cross_entropy(s.model(x), s.y, reduction="sum")
    grads = torch.autograd.grad(loss, list(s.model.parameters()), create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [torch.autograd.grad(g, x, retain_graph=True, allow_unused=True)[0] for g in flat]
    return np.array([0.0 if row is None else float(row.norm()) for row in rows])


def test_magnitude_and_fisher():
    s = sample()
    rows = per_sample_gradients(s)
    assert np.allclose(sensitivity.magnitude(s), np.abs(rows.mean(axis=0)), atol=1e-7)
    assert np.allclose(sensitivity.fisher(s), np.square(rows).mean(axis=0), atol=1e-7)


@pytest.mark.parametrize("n", [1, 4])
def test_label_jacobian_is_fedml_hes_definition_by_p_backward_passes(n):
    s = sample(n)
    label = F.one_hot(s.y, 3).to(torch.float32).requires_grad_(True)
    logits = s.model(s.x)
    loss = -(label * F.log_softmax(logits, dim=1)).sum(dim=1).mean()
    grads = torch.autograd.grad(loss, list(s.model.parameters()), create_graph=True)
    wanted = []
    for entry in torch.cat([g.reshape(-1) for g in grads]):
        column = torch.autograd.grad(entry, label, retain_graph=True)[0]
        wanted.append(float(column[torch.arange(n), s.y].abs().mean()))
    found = sensitivity.label_jacobian(s)
    assert len(wanted) == found.size == 47
    assert np.abs(found - wanted).max() < 1e-5 * max(1.0, max(wanted))


def test_label_jacobian_takes_one_product_for_a_chunk_of_samples(monkeypatch):
    calls = []
    real = sensitivity.jvp
    monkeypatch.setattr(sensitivity, "jvp", lambda *a: calls.append(1) or real(*a))
    sensitivity.label_jacobian(sample(16))
    assert len(calls) == 1


def test_chunks_of_samples_change_nothing(monkeypatch):
    whole = sensitivity.label_jacobian(sample(7))
    monkeypatch.setattr(sensitivity, "CHUNK_BYTES", 4 * 47 * 3)
    assert np.allclose(sensitivity.label_jacobian(sample(7)), whole, atol=1e-7)


def test_hutchinsons_probes_estimate_the_rows_of_the_input_jacobian():
    s = sample(3)
    wanted = input_jacobian_rows(s) / np.sqrt(3)
    found = sensitivity.input_jacobian(s, probes=2000)
    assert np.abs(found - wanted).max() < 0.1 * wanted.max()
    assert np.corrcoef(found, wanted)[0, 1] > 0.995


def test_leverages_lie_in_the_unit_interval_and_sum_to_the_rank():
    found = sensitivity.leverage(sample(3), probes=6)
    assert found.min() >= 0.0
    assert found.max() <= 1.0 + 1e-6
    assert found.sum() == pytest.approx(6.0, abs=1e-3)


def test_leverage_of_enough_probes_is_that_of_the_jacobian():
    s = sample(1)
    x = s.x.clone().requires_grad_(True)
    loss = F.cross_entropy(s.model(x), s.y, reduction="sum")
    grads = torch.autograd.grad(loss, list(s.model.parameters()), create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [
        torch.autograd.grad(g, x, retain_graph=True)[0].reshape(-1)
        if g.requires_grad
        else torch.zeros(36)
        for g in flat
    ]
    jacobian = torch.stack(rows).to(torch.float64)
    left, sizes, _ = torch.linalg.svd(jacobian, full_matrices=False)
    wanted = left[:, sizes > sensitivity.RANK_CUTOFF * sizes[0]].square().sum(dim=1).numpy()
    found = sensitivity.leverage(s, probes=100)
    assert np.abs(found - wanted).max() < 0.02


def test_maskcrypt_is_gradient_times_exposed_minus_own():
    s = sample()
    gradient = per_sample_gradients(s).mean(axis=0)
    wanted = gradient * 0.05  # `trained` above moves every parameter by -0.01 a step, five steps
    found = sensitivity.maskcrypt(s, steps=5)
    assert np.allclose(found, wanted - wanted.min(), atol=1e-6)


def test_votes_are_scaled_to_one():
    scores = np.array([0.0, 3.0, 1.0], np.float32)
    assert agreement.scaled(scores, "values").tolist() == pytest.approx([0.0, 1.0, 1 / 3])
    assert agreement.scaled(scores, "ranks").tolist() == pytest.approx([1 / 3, 1.0, 2 / 3])
    assert not agreement.scaled(np.zeros(3, np.float32), "values").any()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -1.0])
def test_votes_that_are_none(odd):
    with pytest.raises(ValueError, match="finite and not negative"):
        agreement.scaled(np.array([1.0, odd], np.float32), "values")


def test_a_sum_of_votes_gives_the_top_share():
    mask = agreement.Sensitive(score=sensitivity.magnitude, share=0.5)
    layout = [("a.weight", (2, 1, 1, 2))]
    assert mask.agreed(np.array([3, 9, 1, 4]), layout).tolist() == [False, True, False, True]
    assert mask.plausible(np.array([True, True, False, False]), layout)
    assert not mask.plausible(np.array([True, False, False, False]), layout)
