"""DP-SGD: the gradient by hand, the noise's law, what is refused, what follows from the noise."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from defenses.dp.accountant import Spent
from defenses.dp.noise import Seeded, System
from defenses.dp.sgd import PrivateSGD, check_options, cost, cost_of
from fedhive.errors import UserError
from fedhive.learning import models
from fedhive.learning.sgd import LocalJob, LocalSGD


@dataclass
class Scripted:
    """Noise of ones and coins from a list."""

    coins: list
    source = "seeded"

    def normal(self, n):
        return np.ones(n, np.float32)

    def uniform(self, n):
        return np.array(self.coins.pop(0))


def job_of(n: int, batches: list[int], shape=(5,)) -> LocalJob:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, *shape, generator=generator)
    y = torch.randint(0, 3, (n,), generator=generator)
    return LocalJob(x, y, torch.arange(sum(batches)) % n, batches)


def example_gradients(model: nn.Module, x, y) -> list[torch.Tensor]:
    return [
        torch.cat([g.flatten() for g in torch.autograd.grad(
            F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))])
        for i in range(len(y))
    ]  # fmt: skip


@pytest.mark.parametrize("clipping", ["ghost", "materialised"])
@pytest.mark.parametrize(("name", "shape"), [("lenet", (1, 28, 28)), ("resnet8", (3, 8, 8))])
def test_gradients_are_clipped_example_by_example(name, shape, clipping):
    model = models.build(getattr(models, name), shape, 3, 0)
    job = job_of(6, [6], shape)
    trainer = PrivateSGD(model, {"lr": 0.1}, 0.7, 0.0, clipping)
    found = torch.cat([g.flatten() for g in trainer._clipped_sums(job.x, job.y)])
    grads = example_gradients(model, job.x, job.y)
    assert max(float(g.norm()) for g in grads) > 0.7
    expected = sum(g * min(1.0, 0.7 / float(g.norm())) for g in grads)
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=1e-4)


def test_one_step_by_hand():
    model = nn.Linear(5, 3)
    job = job_of(4, [2])  # L = 2 of n = 4: each comes with probability 1/2
    start = models.flatten(model)
    noise = Scripted([[0.1, 0.9, 0.49, 0.5]])  # examples 0 and 2
    result = PrivateSGD(model, {"lr": 0.1}, 0.5, 2.0).run_private(start, job, noise)
    grads = example_gradients(model, job.x, job.y)
    total = sum(grads[i] * min(1.0, 0.5 / float(grads[i].norm())) for i in (0, 2))
    expected = start - 0.1 * (total + 2.0 * 0.5) / 2
    torch.testing.assert_close(result.params, expected, atol=1e-6, rtol=1e-5)
    assert (result.samples, result.steps) == (2, 1)
    assert np.isnan(result.loss)


def test_a_batch_of_nobody_is_noise_alone():
    model = nn.Linear(5, 3)
    start, job = models.flatten(model), job_of(4, [2])
    result = PrivateSGD(model, {"lr": 0.1}, 0.5, 2.0).run_private(
        start, job, Scripted([[1.0] * 4])
    )
    torch.testing.assert_close(result.params, start - 0.1 * 2.0 * 0.5 / 2)


def test_without_noise_clipping_or_sampling_it_is_plain_training():
    model, job = nn.Linear(5, 3), job_of(6, [6, 6, 6])
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "anchor": 0.5}
    start = models.flatten(model)
    private = PrivateSGD(model, options, 1e6, 0.0).run_private(start, job, Seeded(0, "x"))
    plain = LocalSGD(model, **options).run(start, job)
    torch.testing.assert_close(private.params, plain.params)


def test_the_noise_has_the_declared_law():
    model = nn.Linear(50, 40)
    start = models.flatten(model)
    job = LocalJob(torch.zeros(8, 50), torch.zeros(8, dtype=torch.int64), torch.arange(4), [4])
    trainer = PrivateSGD(model, {"lr": 0.5}, 1e-9, 3e9)  # z C = 3, gradients of length 1e-9
    moved = (trainer.run_private(start, job, Seeded(1, "x")).params - start).numpy()
    sigma = 0.5 * 3.0 / 4
    assert moved.std() == pytest.approx(sigma, rel=0.05)
    assert abs(moved.mean()) < 4 * sigma / np.sqrt(moved.size)


def test_every_example_comes_at_the_rate_that_is_accounted():
    seen = np.concatenate([Seeded(5, "coins", i).uniform(40) < 0.25 for i in range(500)])
    assert seen.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / len(seen)))


def test_cost_of_jobs():
    assert cost(job_of(100, [32, 32, 32, 4]), 1.5) == Spent(1.5, 0.25, 4)  # as 1 / 4 batches
    assert cost(job_of(100, [32, 32, 32, 4] * 3), 1.5) == Spent(1.5, 0.25, 12)  # three passes
    assert cost(job_of(20, [20, 20]), 1.0) == Spent(1.0, 1.0, 2)  # all in every batch
    assert cost_of(10, 0, 0, 1.0) == Spent(1.0, 0.0, 0)


def test_equal_streams_equal_bits_and_the_system_never_repeats():
    model, job = nn.Linear(5, 3), job_of(8, [4, 4])
    start, trainer = models.flatten(model), PrivateSGD(model, {"lr": 0.1}, 1.0, 1.0)
    runs = [trainer.run_private(start, job, Seeded(s, "x", 1, 2)).params for s in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    system = [trainer.run_private(start, job, System()).params for _ in range(2)]
    assert not torch.equal(system[0], system[1])


def test_the_systems_numbers_are_normal():
    numbers = System().normal(40_000)
    assert numbers.dtype == np.float32
    assert abs(numbers.mean()) < 0.025
    assert numbers.std() == pytest.approx(1.0, abs=0.02)
    assert np.mean(np.abs(numbers) > 1.959964) == pytest.approx(0.05, abs=0.006)
    uniform = System().uniform(1000)
    assert 0.0 < uniform.min() < uniform.max() < 1.0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_grad_norm": 1.0}, "max_grad_norm"),
        ({"precision": "bfloat16"}, "float32"),
        ({"loss": F.cross_entropy}, "cross entropy"),
    ],
)
def test_training_that_does_not_fit_is_refused(option, message):
    with pytest.raises(UserError, match=message):
        check_options(option)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)]
)
def test_batch_norm_is_refused_whatever_it_tracks(layer):
    model = nn.Sequential(nn.Linear(5, 4), copy.deepcopy(layer), nn.Linear(4, 3))
    with pytest.raises(UserError, match=r"BatchNorm1d.*GroupNorm"):
        PrivateSGD(model, {"lr": 0.1}, 1.0, 1.0)


def test_layers_that_opacus_cannot_clip_are_refused():
    with pytest.raises(UserError, match="example by example"):
        PrivateSGD(nn.Sequential(nn.Linear(5, 4), nn.LSTM(4, 3)), {"lr": 0.1}, 1.0, 1.0)
