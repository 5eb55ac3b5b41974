"""Which value of a sensitive attribute does a record have, if all else of it is known?

Model-based attribute inference (Driouich et al., arXiv:2210.16205): a model that fits the
client's own data assigns its records a small loss with their true attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attacks.inference.probe import Floats, Probe, Records
from fedhive.leakage.view import Vector


@dataclass(frozen=True, eq=False)
class Attribute:
    """Guesses of a sensitive attribute.

    Args:
        choice: index of the value guessed, int64 [n].
        margin: by how much its loss is below the next one's, [n]; ties give 0.
    """

    choice: NDArray[np.int64]
    margin: Floats


def infer_linear(
    weights: ArrayLike, x: ArrayLike, y: ArrayLike, column: int, values: ArrayLike
) -> Attribute:
    """For linear regression y ~ x w with squared loss.

    Assumes that the residual with the true value is smaller, as it is on average if |w_column|
    times the gap between values is large against the noise of y.

    Args:
        weights: [d].
        x: [n, d]; what is in ``column`` is not used.
        y: [n], targets.
        column: of the attribute.
        values: those that it can take, [k].
    """
    w, inputs = np.asarray(weights, np.float64), np.array(x, np.float64)
    inputs[:, column] = 0.0
    candidates = np.asarray(values, np.float64)
    rest = np.asarray(y, np.float64) - inputs @ w
    losses = (rest[:, None] - w[column] * candidates) ** 2
    return _smallest(losses)


def infer(
    weights: Vector, probe: Probe, records: Records, column: int, values: ArrayLike
) -> Attribute:
    """For classifiers with cross entropy; ``column`` counts in the flattened input.

    Args:
        weights: a local model, float32 [P].
        probe: the architecture.
        records: known but for the attribute; inputs as the model takes them.
        column: of the attribute.
        values: those that it can take, as the model takes them, [k].
    """
    losses = []
    for value in np.asarray(values, np.float32):
        x = records.x.clone()
        x.view(len(x), -1)[:, column] = float(value)
        losses.append(probe.losses(weights, Records(x, records.y)))
    return _smallest(np.stack(losses, axis=1))


def _smallest(losses: Floats) -> Attribute:
    choice = np.argmin(losses, axis=1)
    ordered = np.sort(losses, axis=1)
    margin = ordered[:, 1] - ordered[:, 0]
    return Attribute(choice.astype(np.int64), margin)
