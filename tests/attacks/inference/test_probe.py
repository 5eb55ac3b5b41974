from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from attacks.inference.probe import Probe, Records
from fedhive.learning import models
from tests.attacks.inference.federation import network, noise_records


def test_softmax_regression_by_its_formula() -> None:
    records = noise_records(5, 1)
    model = network(hidden=())
    probe = Probe(model, chunk=2)
    w = models.flatten(model).numpy()
    logits = records.x.numpy() @ w[:36].reshape(3, 12).T + w[36:]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = p[np.arange(5), records.y.numpy()]
    np.testing.assert_allclose(probe.losses(w, records), -np.log(own), rtol=1e-5)
    np.testing.assert_allclose(
        probe.confidences(w, records), np.log(own / (1 - own)), rtol=1e-4, atol=1e-6
    )
    residual = p - np.eye(3)[records.y.numpy()]
    x = np.concatenate([records.x.numpy(), np.ones((5, 1), np.float32)], 1)
    gradients = np.concatenate(
        [np.einsum("ic,id->icd", residual, x[:, :12]).reshape(5, 36), residual], 1
    )
    direction = np.random.default_rng(0).standard_normal(39).astype(np.float32)
    slopes = probe.slopes(w, direction, records)
    np.testing.assert_allclose(slopes, gradients @ direction, rtol=1e-4, atol=1e-5)
    visible = np.arange(39) % 3 > 0
    norms = probe.gradient_norms(w, records, visible)
    np.testing.assert_allclose(norms, np.linalg.norm(gradients[:, visible], axis=1), rtol=1e-4)


def test_a_network_by_automatic_differentiation() -> None:
    model = models.build(models.convnet, (1, 8, 8), 3, 0)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((4, 1, 8, 8)).astype(np.float32))
    records = Records(x, torch.tensor([0, 2, 1, 2]))
    probe, w = Probe(model), models.flatten(model).numpy()
    u = rng.standard_normal(len(w)).astype(np.float32)
    slopes = probe.slopes(w, u, records)
    norms = probe.gradient_norms(w, records, np.ones(len(w), np.bool_))
    for i in range(4):
        loss = F.cross_entropy(model(x[i : i + 1]), records.y[i : i + 1])
        g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(loss, model.parameters())])
        assert math.isclose(slopes[i], float(g @ torch.from_numpy(u)), rel_tol=1e-3, abs_tol=1e-3)
        assert math.isclose(norms[i], float(g.norm()), rel_tol=1e-4)


def test_certainty_does_not_overflow() -> None:
    model = network(hidden=())
    w = np.zeros(39, np.float32)
    w[36] = 200.0  # class 0 for sure
    records = Records(torch.zeros(2, 12), torch.tensor([0, 1]))
    np.testing.assert_allclose(
        Probe(model).confidences(w, records), [200 - math.log(2), -200.0], rtol=1e-6
    )


def test_the_model_is_left_alone() -> None:
    model = network()
    before = models.flatten(model)
    Probe(model).slopes(np.ones(len(before), np.float32), before.numpy(), noise_records(3, 0))
    assert torch.equal(models.flatten(model), before)
