"""Two small hives in which client 0 is malicious and client 1 has a record with a secret.

The secret s is +1 or -1: one input of one record. All honest clients add Gaussian noise to their
updates. Client 0 sees consecutive global models, takes its own part out, and decides on s by the
likelihood ratio of what is left, knowing everything else: the worst case that L(rho) bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedhive.leakage import bounded
from fedhive.learning import models
from fedhive.learning.sgd import LocalJob, LocalSGD

CLIENTS, EXAMPLES, COLUMN = 10, 32, 3
HONEST_KL = 0.05
"""Noise is chosen so that the honest model leaks so many nats: the best guess is right in 56 %."""
Floats = np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Of one attack.

    Args:
        predicted: L of the ball that the pushes can reach, nats.
        measured: divergence between the two laws at the model that was really reached, nats.
        hits: right guesses of the secret.
        trials: guesses.
        loudness: norm of the malicious update over the median norm of honest ones.
    """

    predicted: float
    measured: float
    hits: int
    trials: int
    loudness: float


def guesses(
    plus: Floats, minus: Floats, sigma: float, trials: int, rng: np.random.Generator
) -> int:
    """Right guesses by the likelihood ratio when s is a fair coin, on noisy vectors."""
    hits = 0
    for _ in range(trials):
        truth = rng.integers(0, 2)
        seen = (plus if truth else minus) + sigma * rng.standard_normal(plus.shape)
        nearer = np.sum((seen - plus) ** 2) < np.sum((seen - minus) ** 2)
        hits += bool(nearer) == bool(truth)
    return hits


class Linear:
    """Linear regression; five full-batch steps of gradient descent a round, in float64.

    An update is affine in the model sent, so that L is that of a trust-region problem, exactly.
    """

    def __init__(self, seed: int, size: int = 20, steps: int = 5, lr: float = 0.05) -> None:
        self.rng = np.random.default_rng(seed)
        truth = self.rng.standard_normal(size)
        x = self.rng.standard_normal((CLIENTS, EXAMPLES, size))
        x[1, 0, COLUMN] = 1.0
        y = x @ truth + 0.5 * self.rng.standard_normal((CLIENTS, EXAMPLES))
        self.laws = [self._law(x[k], y[k], steps, lr) for k in range(CLIENTS)]
        x[1, 0, COLUMN] = -1.0  # the target stays: only the input is secret
        self.other = self._law(x[1], y[1], steps, lr)
        self.start = np.zeros(size)
        for _ in range(3):
            self.start = self.start + self._mean(self.start)
        self.apart = (self.laws[1][0] - self.other[0]) / (CLIENTS - 1)
        self.offset = (self.laws[1][1] - self.other[1]) / (CLIENTS - 1)

    @staticmethod
    def _law(x: Floats, y: Floats, steps: int, lr: float) -> tuple[Floats, Floats]:
        """(M, c) of the update M w + c."""
        size = x.shape[1]
        shrink = np.linalg.matrix_power(np.eye(size) - lr * x.T @ x / len(y), steps)
        optimum = np.linalg.lstsq(x, y, rcond=None)[0]
        return shrink - np.eye(size), (np.eye(size) - shrink) @ optimum

    def _mean(self, w: Floats) -> Floats:
        return np.mean([m @ w + c for m, c in self.laws], axis=0)

    def attack(self, rho: float, rounds: int, trials: int) -> Outcome:
        """Push for ``rounds`` rounds by ``rho`` median norms each, then look."""
        honest = [self.start]
        for _ in range(rounds):
            honest.append(honest[-1] + self._mean(honest[-1]))
        norms = [np.linalg.norm(m @ self.start + c) for m, c in self.laws]
        radius = rho * float(np.median(norms)) / CLIENTS
        jump = np.eye(len(self.start)) + np.mean([m for m, _ in self.laws], axis=0)
        powers = [np.linalg.matrix_power(jump, rounds - 1 - t) for t in range(rounds)]
        end = self.apart @ honest[-1] + self.offset
        sigma = float(np.linalg.norm(self.apart @ self.start + self.offset))
        sigma /= np.sqrt(2 * HONEST_KL)
        reach = radius * sum(float(np.linalg.norm(power, 2)) for power in powers)
        predicted = bounded.largest_affine(self.apart, end, reach, sigma).kl
        pushes = self._pushes(end, powers, radius)
        w = self.start
        for push in pushes:
            w = w + self._mean(w) + push
        rest = sum(m @ w + c for m, c in self.laws[2:])
        sides = [(m @ w + c + rest) / (CLIENTS - 1) for m, c in (self.laws[1], self.other)]
        measured = float(np.sum((sides[0] - sides[1]) ** 2)) / (2 * sigma**2)
        own = self.laws[0][0] @ self.start + self.laws[0][1] + CLIENTS * pushes[0]
        loudness = float(np.linalg.norm(own) / np.median(norms))
        hits = guesses(*sides, sigma, trials, self.rng)
        return Outcome(predicted, measured, hits, trials, loudness)

    def _pushes(self, end: Floats, powers: Sequence[Floats], radius: float) -> list[Floats]:
        """The best pushes found: power iteration on a convex objective, from three starts."""
        best: tuple[float, list[Floats]] = (-1.0, [])
        for start in (end, *self.rng.standard_normal((2, len(end)))):
            slope = self.apart.T @ start
            for _ in range(200):
                pulled = [power.T @ slope for power in powers]
                pushes = [radius * p / max(float(np.linalg.norm(p)), 1e-300) for p in pulled]
                moved = sum(power @ push for power, push in zip(powers, pushes, strict=True))
                value = self.apart @ moved + end
                slope = self.apart.T @ value
            if float(value @ value) > best[0]:
                best = (float(value @ value), pushes)
        return best[1]


class Network:
    """A classifier with one hidden layer; one full-batch step a round by fedhive's trainer."""

    def __init__(self, seed: int, size: int = 12, lr: float = 0.2) -> None:
        self.rng, self.lr = np.random.default_rng(seed), lr
        x = self.rng.standard_normal((CLIENTS, EXAMPLES, size)).astype(np.float32)
        x[1, 0, COLUMN] = 1.0
        mixing = self.rng.standard_normal((size, 3))
        noisy = x @ mixing + self.rng.standard_normal((CLIENTS, EXAMPLES, 3))
        self.y = torch.from_numpy(noisy.argmax(-1))
        self.x = torch.from_numpy(x)
        self.twin = self.x[1].clone()
        self.twin[0, COLUMN] = -1.0
        self.model = models.build(lambda s, n: models.mlp(s, n, (16,)), (size,), 3, seed)
        self.trainer = LocalSGD(self.model, lr)
        self.start = models.flatten(self.model)
        for _ in range(20):
            self.start = self.start + self._updates(self.start).mean(0)

    def _updates(self, w: torch.Tensor, minus: bool = False) -> torch.Tensor:
        everything = torch.arange(EXAMPLES)
        data = [self.twin if minus and k == 1 else self.x[k] for k in range(CLIENTS)]
        jobs = [LocalJob(x, self.y[k], everything, [EXAMPLES]) for k, x in enumerate(data)]
        return torch.stack([self.trainer.run(w, job).params - w for job in jobs])

    def _separation(self, w: torch.Tensor) -> bounded.Separation:
        y, visible = self.y[1][:1], np.ones(len(w), np.bool_)
        share = self.lr / (EXAMPLES * (CLIENTS - 1))
        plus, minus = (self.x[1][:1], y), (self.twin[:1], y)
        return bounded.gradient_separation(self.model, w.numpy(), plus, minus, visible, share)

    def attack(self, rho: float, rounds: int, trials: int) -> Outcome:
        """Push along the ascent's direction for ``rounds`` rounds, then look."""
        size = len(self.start)
        honest = self.start
        for _ in range(rounds):
            honest = honest + self._updates(honest).mean(0)
        first = self._separation(self.start)(torch.zeros(size, dtype=torch.float64))
        sigma = float(first.norm()) / np.sqrt(2 * HONEST_KL)
        norms = self._updates(self.start).norm(dim=1)
        radius = rho * float(norms.median()) / CLIENTS
        peak = bounded.ascend(
            self._separation(honest), size, rounds * radius, sigma=sigma, rng=self.rng,
            restarts=2, steps=80,
        )  # fmt: skip
        push = torch.from_numpy(peak.delta / rounds).float()
        w = self.start
        for _ in range(rounds):
            w = w + self._updates(w).mean(0) + push
        sides = [self._updates(w, minus)[1:].mean(0).double().numpy() for minus in (False, True)]
        measured = float(np.sum((sides[0] - sides[1]) ** 2)) / (2 * sigma**2)
        own = self._updates(self.start)[0] + CLIENTS * push
        loudness = float(own.norm() / norms.median())
        hits = guesses(*sides, sigma, trials, self.rng)
        return Outcome(peak.kl, measured, hits, trials, loudness)


HIVES = {"linear regression": Linear, "network": Network}
