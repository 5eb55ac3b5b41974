"""Rebuild a client's local model, the one that fits its own data best, from its updates.

Driouich, Xu, Neglia, Giroire and Thomas, "Local model reconstruction attacks in federated learning
and their uses" (arXiv:2210.16205). For a model that is linear in its parameters under squared
loss, a client's update is affine in what it was sent,

    u(w) = M w + c,    u(w*) = 0 at its local optimum w* = -M^-1 c,

exactly so for full-batch gradient descent with any number of steps, and on average for mini-batch
steps. Enough pairs (w, u) give M and c by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedhive.leakage.view import View

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LocalModel:
    """A reconstructed local optimum, with what says how far to trust it.

    Args:
        weights: float64 [P].
        rank: of the centred models that were sent; below P the optimum is not determined, and
            ``weights`` is the solution nearest to the mean of what was sent.
        condition: of the centred models sent (largest by smallest of the singular values used):
            relative errors of the updates grow by up to about this factor, times that of M.
        residual: share of the updates that the affine law leaves unexplained, 0 to 1; near 0 with
            exactly P + 1 pairs whatever the law.
    """

    weights: Floats
    rank: int
    condition: float
    residual: float


def solve(sent: ArrayLike, updates: ArrayLike, tolerance: float = 1e-12) -> LocalModel:
    """The optimum of the affine law that fits pairs of models sent and updates best.

    Assumptions: updates are affine in what was sent, as above, and M is invertible on the span of
    what was sent. Models of ordinary training lie near a line towards the global optimum (a Krylov
    space), so that passively collected pairs hardly determine M: ``rank`` and ``condition`` tell.
    Chosen models (`queries`) determine it with P + 1 pairs, to the precision of the numbers on
    the wire: relative errors near 1e-14 where they are float64, and near 3e-7 with fedhive's
    float32 models.

    Args:
        sent: [T, P], at least two.
        updates: [T, P], model returned - model sent.
        tolerance: singular values below this share of the largest count as 0.

    Raises:
        ValueError: shapes differ, fewer than two pairs, or all models sent are the same.
    """
    w, u = np.asarray(sent, np.float64), np.asarray(updates, np.float64)
    if w.ndim != 2 or w.shape != u.shape or len(w) < 2:
        raise ValueError("at least two models sent and as many updates of the same shape")
    w_mean, u_mean = w.mean(axis=0), u.mean(axis=0)
    centred, moved = w - w_mean, u - u_mean
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    if values[0] == 0:
        raise ValueError("all models sent are the same")
    used = values > tolerance * values[0]
    rank = int(used.sum())
    # moved = centred @ M.T; on the span of the right vectors V: M V = moved.T @ U / s
    image = (moved.T @ left[:, used]) / values[used]  # M V, [P, rank]
    steps = np.linalg.lstsq(image, -u_mean, rcond=None)[0]
    explained = centred @ right[used].T @ image.T
    total = float(np.sum(moved**2))
    residual = float(np.sum((moved - explained) ** 2)) / total if total > 0 else 0.0
    condition = float(values[used][0] / values[used][-1])
    return LocalModel(w_mean + right[used].T @ steps, rank, condition, residual)


def from_view(view: View) -> LocalModel:
    """`solve` on all rounds of a view.

    Raises:
        ValueError: if coordinates are hidden: their updates are unknown, not 0.
    """
    if not view.visible.all():
        raise ValueError("local model reconstruction needs all coordinates of the update")
    sent = np.stack([each.sent for each in view.exchanges])
    return solve(sent, np.stack([each.seen for each in view.exchanges]))


def queries(
    size: int, rng: np.random.Generator, *, centre: ArrayLike | None = None, scale: float = 1.0
) -> Floats:
    """Models for a malicious server to send so that P + 1 answers determine the local optimum.

    The centre and one step of length ``scale`` from it along each of P random orthogonal
    directions: a condition number near sqrt(P), and no coordinate stands out.

    Args:
        size: P.
        rng: draws the directions.
        centre: [P]; zero by default. Near the optimum rounding hurts least.
        scale: length of the steps; large against rounding, small against the model's range.

    Returns:
        float64 [P + 1, P].
    """
    directions, _ = np.linalg.qr(rng.standard_normal((size, size)))
    start = np.zeros(size) if centre is None else np.asarray(centre, np.float64)
    return np.concatenate([start[None], start + scale * directions])


def ask(client: Callable[[Floats], ArrayLike], sent: Floats) -> LocalModel:
    """Reconstruct from the answers of a client to chosen models.

    Args:
        client: returns the model that it trained from the one it was sent, [P].
        sent: [T, P], such as `queries` gives; each is one round with this client alone.
    """
    updates = [np.asarray(client(model), np.float64) - model for model in sent]
    return solve(sent, np.stack(updates))


@dataclass
class Pursuit:
    """Drive one client to its local optimum by Adam on its own updates, for any model.

    A malicious server sends the victim only what follows from the victim's updates, so that it
    never sees the others' influence (Driouich et al., active attack; Adam of Kingma and Ba, ICLR
    2015, with the update as minus the gradient). The optimum is that of the client's training
    loss where its updates average to a descent direction; with mini-batches it ends in a ball
    around it whose radius falls with the rate, hence the cosine decay to 0.

    Args:
        model: what is sent next, float64 [P]; the first is yours to choose.
        rounds: how many answers will come.
        lr: Adam's rate at the start.
        betas: of Adam.
    """

    model: Floats
    rounds: int
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        self.model = np.array(self.model, np.float64)
        self._first = np.zeros_like(self.model)
        self._second = np.zeros_like(self.model)
        self._count = 0

    def answered(self, update: ArrayLike) -> Floats:
        """Take in the answer (returned - sent) to ``model``; the next model to send.

        Raises:
            ValueError: after ``rounds`` answers.
        """
        if self._count == self.rounds:
            raise ValueError(f"the pursuit ended after {self.rounds} answers")
        gradient = -np.asarray(update, np.float64)
        one, two = self.betas
        rate = self.lr * 0.5 * (1 + math.cos(math.pi * self._count / self.rounds))
        self._count += 1
        self._first = one * self._first + (1 - one) * gradient
        self._second = two * self._second + (1 - two) * gradient**2
        mean = self._first / (1 - one**self._count)
        spread = np.sqrt(self._second / (1 - two**self._count))
        self.model = self.model - rate * mean / (spread + 1e-12)
        return self.model


def last_returned(view: View) -> Floats:
    """The passive stand-in for models that are not linear: the last model returned, [P].

    It is near the local optimum only where local training goes far in a round.
    """
    last = view.exchanges[-1]
    return np.asarray(last.sent.astype(np.float64) + last.seen)
