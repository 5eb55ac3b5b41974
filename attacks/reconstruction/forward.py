"""What a client would have sent for a candidate: the models that attacks compare with a view.

All give the pseudo-gradient, (model received - model returned) / (rate x steps), so that one
target fits them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attacks.reconstruction.scene import Scene
from fedhive.leakage.view import Vector, View


class Forward(Protocol):
    """Candidate inputs to pseudo-gradient."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Float32 [P], differentiable in ``x`` (and ``y``).

        Args:
            x: inputs [n, ...].
            y: classes int64 [n] or probabilities [n, classes].
        """
        ...


class SingleStep:
    """One gradient of the mean loss over all examples.

    Also good, if scaled, for several steps so short that the gradient hardly changes.

    Args:
        scene: the public side.
        sent: the model that the client received, float32 [P].
    """

    def __init__(self, scene: Scene, sent: Vector) -> None:
        self.scene, self.params = scene, scene.param(sent)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient, [P]."""
        loss = self.scene.loss(self.params, x, y)
        grads = torch.autograd.grad(loss, self.params, create_graph=True)
        return torch.cat([grad.reshape(-1) for grad in grads])


class Unrolled:
    """Local SGD played step by step (Dimitrov et al., Data Leakage in Federated Averaging, 2022).

    Which example is in which step is unknown; here consecutive slices, beginning anew when the
    examples are used up. For one batch that is exact, and for several it is one of the orders.

    Args:
        scene: the public side.
        sent: the model that the client received, float32 [P].
        lr: of the client.
        steps: its local steps.
        batch_size: examples a step; None for all.
    """

    def __init__(
        self, scene: Scene, sent: Vector, lr: float, steps: int, batch_size: int | None = None
    ) -> None:
        self.scene, self.params = scene, scene.param(sent)
        self.lr, self.steps, self.batch_size = lr, steps, batch_size

    def batches(self, n: int) -> list[slice]:
        """Which examples each step takes."""
        size = min(self.batch_size or n, n)
        one_pass = [slice(i, min(i + size, n)) for i in range(0, n, size)]
        return [one_pass[k % len(one_pass)] for k in range(self.steps)]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(received - returned) / (rate x steps), [P]."""
        params: Sequence[Tensor] = self.params
        total: Tensor | None = None
        for part in self.batches(len(x)):
            loss = self.scene.loss(list(params), x[part], y[part])
            grads = torch.autograd.grad(loss, params, create_graph=True)
            params = [p - self.lr * g for p, g in zip(params, grads, strict=True)]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            total = flat if total is None else total + flat
        assert total is not None
        return total / self.steps


@dataclass(frozen=True, eq=False)
class Aggregate:
    """The weighted sum of several clients' pseudo-gradients, as secure aggregation shows it.

    Args:
        parts: each client's own forward model.
        counts: how many of the candidate's examples belong to each, in order.
        weights: of the sum.
    """

    parts: tuple[Forward, ...]
    counts: tuple[int, ...]
    weights: tuple[float, ...]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum, [P]."""
        total: Tensor | None = None
        begin = 0
        for part, count, weight in zip(self.parts, self.counts, self.weights, strict=True):
            one = weight * part(x[begin : begin + count], y[begin : begin + count])
            total, begin = one if total is None else total + one, begin + count
        assert total is not None
        return total


def forward_of(view: View, scene: Scene, n: int) -> Forward:
    """The forward model that fits a view's last exchange and what is known of local training.

    With several steps of a known rate they are unrolled; else one step, and the objective must
    not depend on the scale. A sum over subjects is attacked as the sum of such, with ``n``
    examples dealt evenly.
    """
    sent, knows = view.exchanges[-1].sent, view.knows

    def single() -> Forward:
        if knows.steps is not None and knows.steps > 1 and knows.lr is not None:
            return Unrolled(scene, sent, knows.lr, knows.steps, knows.batch_size)
        return SingleStep(scene, sent)

    count = len(view.subjects)
    if count == 1:
        return single()
    base, extra = divmod(n, count)
    counts = tuple(base + (i < extra) for i in range(count))
    return Aggregate(tuple(single() for _ in range(count)), counts, view.weights)
