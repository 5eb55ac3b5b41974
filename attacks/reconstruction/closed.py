"""Examples read off the gradient of a linear first layer, without any search.

For a neuron k on the inputs, weight row G_k = sum of delta_i x_i and bias g_k = sum of delta_i
over the examples i that activate it. Where one example does, x = G_k / g_k exactly (Phong et al.
2018, Boenisch et al. 2023); between two neurons with the same weights and neighbouring
thresholds, the differences of G and g belong to the examples between them (Fowl et al., Robbing
the Fed, ICLR 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.reconstruction.guess import Guess, guessed
from fedhive.flower import Layout
from fedhive.leakage.view import View

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FirstLayer:
    """Where the weights [k, d] and biases [k] of the first linear layer lie in the vector.

    Args:
        weight: offset of the weights.
        bias: offset of the biases.
        k: neurons.
        d: inputs.
    """

    weight: int
    bias: int
    k: int
    d: int

    def weights(self, flat: NDArray[Any]) -> NDArray[Any]:
        """The part of a vector that holds the weights, as [k, d] (a view)."""
        return flat[self.weight : self.weight + self.k * self.d].reshape(self.k, self.d)

    def biases(self, flat: NDArray[Any]) -> NDArray[Any]:
        """The part that holds the biases, [k] (a view)."""
        return flat[self.bias : self.bias + self.k]


def first_layer(layout: Layout, d: int | None = None) -> FirstLayer:
    """The model's first parameters, if they are a linear layer with bias on flattened inputs.

    Args:
        layout: names and shapes of the model.
        d: how many numbers an input has, to be checked.

    Raises:
        ValueError: if the model begins otherwise.
    """
    if len(layout) < 2:
        raise ValueError("the model has no linear first layer with a bias")
    (_, weight), (_, bias) = layout[0], layout[1]
    fits = len(weight) == 2 and tuple(bias) == (weight[0],)
    if not fits or (d is not None and weight[1] != d):
        raise ValueError("the model does not begin with a linear layer with bias on its inputs")
    return FirstLayer(0, math.prod(weight), weight[0], weight[1])


def seen_rows(view: View, layer: FirstLayer) -> tuple[Floats, Floats]:
    """Pseudo-gradients of weights [k, d] and biases [k]; NaN where they are hidden."""
    gradient = view.gradient().astype(np.float64)
    gradient[~view.visible] = np.nan
    return layer.weights(gradient), layer.biases(gradient)


def read_rows(view: View, input_shape: tuple[int, ...], low: float, high: float) -> Guess:
    """G_k / g_k of every neuron whose bias is visible, those that could be an input first.

    Hidden weights are filled in from other neurons that show the same example, else with grey.
    The score is how far outside of the inputs' range the sample lies (root mean square): 0 for
    what may be one example or a mixture of examples whose deltas have one sign.

    Args:
        view: what is seen.
        input_shape: of one example.
        low: smallest value of an input.
        high: largest.

    Raises:
        ValueError: if the model has no linear first layer.
    """
    layer = first_layer(view.layout, math.prod(input_shape))
    rows, biases = seen_rows(view, layer)
    noise = 1e-7 * np.nanmax(np.abs(biases), initial=0.0)
    usable = (np.abs(biases) > noise) & (np.mean(~np.isnan(rows), axis=1) >= LEAST_SEEN)
    return ranked(rows[usable] / biases[usable, None], input_shape, low, high)


LEAST_SEEN = 0.25
"""Rows of which less is visible are left aside."""


def ranked(samples: Floats, input_shape: tuple[int, ...], low: float, high: float) -> Guess:
    """Samples that agree where both are known merged, by distance from the inputs' range.

    Args:
        samples: [m, d]; NaN where unknown.
        input_shape: of one example.
        low: smallest value of an input.
        high: largest.
    """
    samples = samples[~np.isinf(samples).any(1)]
    known = ~np.isnan(samples)
    filled = np.where(known, samples, 0.0)
    far = np.where(known, filled - np.clip(filled, low, high), 0.0)
    beyond = np.sqrt((far**2).sum(1) / np.maximum(known.sum(1), 1))
    tolerance = (1e-4 * (high - low)) ** 2
    kept: list[int] = []
    for i in np.argsort(beyond, kind="stable"):
        both = known[kept] & known[i]
        shared = both.sum(1)
        gaps = (((filled[kept] - filled[i]) ** 2) * both).sum(1) / np.maximum(shared, 1)
        same = np.flatnonzero((gaps <= tolerance) & (shared >= LEAST_COMMON * known.shape[1]))
        if not len(same):
            kept.append(int(i))
            continue
        first = kept[int(same[0])]
        more = known[i] & ~known[first]
        filled[first, more] = filled[i, more]
        known[first] |= more
    found = np.where(known, filled, 0.5 * (low + high))[kept]
    return guessed(found.reshape(-1, *input_shape), scores=beyond[kept])


LEAST_COMMON = 0.05
"""Samples that share fewer known numbers are not taken for one, however well these agree."""


def read_imprint(view: View, input_shape: tuple[int, ...], low: float, high: float) -> Guess:
    """Differences of neighbouring neurons of an imprinted first layer, one sample a bin.

    Args:
        view: of a model that `attacks.reconstruction.imprint.imprint` has edited.
        input_shape: of one example.
        low: smallest value of an input.
        high: largest.

    Raises:
        ValueError: if the model has no linear first layer.
    """
    layer = first_layer(view.layout, math.prod(input_shape))
    rows, biases = seen_rows(view, layer)
    sent = np.asarray(layer.biases(view.exchanges[-1].sent), np.float64)
    told = ~np.isnan(biases)
    rows, biases, sent = rows[told], biases[told], sent[told]
    order = np.argsort(-sent, kind="stable")  # thresholds ascending
    rows, biases = rows[order], biases[order]
    steps = rows - np.vstack([rows[1:], np.zeros((1, layer.d))])
    deltas = biases - np.append(biases[1:], 0.0)
    usable = np.abs(deltas) > 1e-6 * np.abs(deltas).max(initial=0.0)
    usable &= np.mean(~np.isnan(steps), axis=1) >= LEAST_SEEN
    return ranked(steps[usable] / deltas[usable, None], input_shape, low, high)


def complete_rank_one(
    matrix: Floats, visible: NDArray[np.bool_], steps: int = 200
) -> tuple[Floats, NDArray[np.bool_]]:
    """A rank-one matrix from some of its entries: what encrypting part of a layer leaves to see.

    The gradient of a linear layer for one example is delta x^T. Every connected block of visible
    entries (rows and columns as nodes, entries as edges) fixes all its products; alternating
    least squares within a block, started from its strongest row, is exact without noise.

    Args:
        matrix: [k, d]; hidden entries are not looked at.
        visible: bool [k, d].
        steps: of alternating least squares.

    Returns:
        The completed matrix (0 where nothing tells) and which entries are determined.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    k, d = matrix.shape
    rows, columns = np.nonzero(visible & (matrix != 0))  # a zero tells nothing of the other factor
    graph = csr_matrix((np.ones(len(rows)), (rows, columns + k)), shape=(k + d, k + d))
    _, block = connected_components(graph, directed=False)
    shown = np.where(visible, matrix, 0.0)
    left, right = np.zeros(k), np.zeros(d)
    for number in np.unique(block[rows]):
        mine, theirs = np.flatnonzero(block[:k] == number), np.flatnonzero(block[k:] == number)
        left[mine], right[theirs] = _block(
            shown[np.ix_(mine, theirs)], visible[np.ix_(mine, theirs)], steps
        )
    known = block[:k, None] == block[None, k:]
    zeros = visible & (matrix == 0)
    known |= (zeros & (right != 0)[None, :]).any(1)[:, None] & (left == 0)[:, None]
    known |= (zeros & (left != 0)[:, None]).any(0)[None, :] & (right == 0)[None, :]
    return np.where(known, np.outer(left, right), 0.0), known


def _block(shown: Floats, visible: NDArray[np.bool_], steps: int) -> tuple[Floats, Floats]:
    weight = visible.astype(np.float64)
    left = _spread(shown, visible)
    for _ in range(steps):
        right = _divided(shown.T @ left, weight.T @ left**2)
        new = _divided(shown @ right, weight @ right**2)
        if np.allclose(new, left, rtol=1e-14, atol=0.0):
            break
        left = new
    return left, right


def _spread(shown: Floats, visible: NDArray[np.bool_]) -> Floats:
    """One factor by following ratios from entry to entry, strongest first; then it is refined."""
    k, d = shown.shape
    left, right = np.zeros(k), np.zeros(d)
    left[int(np.argmax(np.abs(shown).sum(1)))] = 1.0
    for _ in range(k + d):
        fresh_right = (right == 0) & (visible & (left != 0)[:, None]).any(0)
        weight = visible * (left**2)[:, None]
        right = np.where(fresh_right, _divided(left @ shown, weight.sum(0)), right)
        fresh_left = (left == 0) & (visible & (right != 0)[None, :]).any(1)
        weight = visible * (right**2)[None, :]
        left = np.where(fresh_left, _divided(shown @ right, weight.sum(1)), left)
        if not fresh_right.any() and not fresh_left.any():
            break
    return left


def _divided(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
