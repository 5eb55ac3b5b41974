"""Small federated runs in memory, for attacks on their views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from attacks.inference.probe import Records
from fedhive import seeding
from fedhive.leakage.view import Exchange, Knowledge, View
from fedhive.learning import models
from fedhive.learning.sgd import LocalJob, LocalSGD
from fedhive.learning.workbench import shuffled


def noise_records(n: int, seed: int, size: int = 12, classes: int = 3) -> Records:
    """Gaussian inputs with random labels: only memory helps."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((n, size)).astype(np.float32))
    return Records(x, torch.from_numpy(rng.integers(0, classes, n)))


def network(size: int = 12, classes: int = 3, hidden: Sequence[int] = (16,)) -> nn.Module:
    return models.build(lambda shape, n: models.mlp(shape, n, hidden), (size,), classes, 0)


def federate(
    model: nn.Module,
    clients: Sequence[Records],
    *,
    rounds: int = 3,
    steps: int = 4,
    batch: int = 8,
    lr: float = 0.1,
    seed: int = 0,
    rate: float = 1.0,
) -> list[View]:
    """FedAvg with equal weights; the server's view of each client.

    ``rate`` is the share of the mean update that the server applies.
    """
    trainer = LocalSGD(model, lr)
    layout = [(entry.name, entry.shape) for entry in models.layout(model)]
    w = models.flatten(model)
    seen: list[list[Exchange]] = [[] for _ in clients]
    for number in range(1, rounds + 1):
        updates = []
        for k, data in enumerate(clients):
            b = min(batch, len(data))
            order = shuffled(len(data), b * steps, seeding.stream(seed, "order", number, k))
            result = trainer.run(w, LocalJob(data.x, data.y, order, [b] * steps))
            updates.append(result.params - w)
            seen[k].append(Exchange(number, w.numpy().copy(), updates[-1].numpy()))
        w = w + rate * torch.stack(updates).mean(0)
    everything = np.ones(len(w), np.bool_)
    return [
        View("server", (k,), (1.0,), tuple(exchanges), everything, layout,
             knows=Knowledge(examples=len(data), lr=lr, steps=steps, batch_size=batch))
        for k, (exchanges, data) in enumerate(zip(seen, clients, strict=True))
    ]  # fmt: skip
