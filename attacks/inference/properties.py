"""Do the subject's data have a property that the task does not ask for?

Melis, Song, De Cristofaro and Shmatikov, "Exploiting unintended feature leakage in collaborative
learning" (S&P 2019), the passive attack: rehearse updates with and without the property from data
of one's own, learn to tell them apart, and ask of the observed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attacks.inference.probe import Floats, Records
from attacks.inference.rehearsal import Rehearsal
from fedhive import seeding
from fedhive.leakage.view import Exchange, View

Draw = Callable[[np.random.Generator], Records]
"""Data of an imagined subject, with or without the property."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the adversary believes, and how far it can tell by itself.

    Args:
        score: above 0 for "has the property"; mean over rounds.
        rehearsed: share of rehearsed updates that are told apart when left out of the learning,
            mean over rounds: near 0.5 the score says nothing. Known without any truth.
    """

    score: float
    rehearsed: float


@dataclass(frozen=True)
class PropertyInference:
    """Passive property inference by a ridge classifier on rehearsed updates, round by round.

    Departs from the paper in the classifier: ridge regression of +1 and -1 on whole updates of
    unit length (a linear form of P numbers, solved in the space of the few rehearsed updates)
    instead of a random forest on pooled features.

    Assumptions: the adversary's data with and without the property have the law of the subject's,
    so that nothing else separates them; rate, steps and batch size are known.

    Args:
        present: draws data with the property.
        absent: draws data without it.
        repeats: rehearsed updates a side and round.
        ridge: added to the kernel's diagonal, as a share of its mean.
        seed: of the rehearsals.
    """

    present: Draw
    absent: Draw
    repeats: int = 20
    ridge: float = 0.1
    seed: int = 0

    def __call__(self, view: View, model: nn.Module) -> Verdict:
        """The verdict on the view's subject.

        Raises:
            ValueError: if the view does not know how local training goes, or holds no round.
        """
        if not view.exchanges:
            raise ValueError("the view holds no round")
        rehearsal = Rehearsal(model, view)
        found = [self._round(each, rehearsal) for each in view.exchanges]
        scores, shares = zip(*found, strict=True)
        return Verdict(float(np.mean(scores)), float(np.mean(shares)))

    def _round(self, each: Exchange, rehearsal: Rehearsal) -> tuple[float, float]:
        rows, labels = [], []
        for number in range(self.repeats):
            for label, draw in ((1.0, self.present), (-1.0, self.absent)):
                rng = seeding.stream(self.seed, "property", each.round, number, int(label > 0))
                rows.append(rehearsal.update(each, draw(rng), rng))
                labels.append(label)
        known, truth = _unit(np.stack(rows)), np.asarray(labels)
        fit = dual_ridge(known, truth, self.ridge)
        score = fit(_unit(each.seen[None]))[0]
        return float(score), float(np.mean(np.sign(fit.left_out) == truth))


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted ridge regression; call it on rows [m, P] for values [m].

    Args:
        centre: mean row, [P].
        slope: [P].
        offset: mean label.
        left_out: value of each row by the fit without it, [n].
    """

    centre: Floats
    slope: Floats
    offset: float
    left_out: Floats

    def __call__(self, rows: Floats) -> Floats:
        """Values of rows, [m]."""
        return np.asarray((rows - self.centre) @ self.slope + self.offset)


def dual_ridge(rows: Floats, labels: Floats, ridge: float) -> Ridge:
    """Ridge regression with an intercept, by n x n instead of P x P equations.

    Values without each row follow from the hat matrix H: y_i - (y_i - f_i) / (1 - H_ii), exact
    for a fixed penalty (Allen 1974).

    Args:
        rows: [n, P].
        labels: [n].
        ridge: penalty as a share of the mean squared length of the centred rows, above 0.
    """
    n, centre, offset = len(rows), rows.mean(axis=0), float(labels.mean())
    centred = rows - centre
    kernel = centred @ centred.T
    penalty = ridge * max(float(np.trace(kernel)) / n, 1e-300)
    inverse = np.linalg.inv(kernel + penalty * np.eye(n))
    slope = centred.T @ (inverse @ (labels - offset))
    hat = kernel @ inverse + 1.0 / n  # the intercept is a constant column, orthogonal to the rest
    fitted = hat @ labels
    left_out = labels - (labels - fitted) / (1 - np.diag(hat))
    return Ridge(centre, slope, offset, left_out)


def _unit(vectors: NDArray[np.float32]) -> Floats:
    rows = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0))
