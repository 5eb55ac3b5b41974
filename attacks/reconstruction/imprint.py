"""Models that a malicious server sends so that single examples can be read off the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attacks.reconstruction.closed import first_layer
from fedhive import seeding
from fedhive.flower import Layout
from fedhive.leakage.view import Vector

Floats = NDArray[np.float64]


def linear_layers(layout: Layout) -> list[tuple[int, int, int, int]]:
    """(offset of weights, offset of biases, outputs, inputs) of each layer of an MLP.

    Raises:
        ValueError: if the model is anything else.
    """
    found: list[tuple[int, int, int, int]] = []
    offset = 0
    if len(layout) % 2:
        raise ValueError("the model is no chain of linear layers with biases")
    for (_, weight), (_, bias) in zip(layout[::2], layout[1::2], strict=True):
        inner = found[-1][2] if found else None
        if len(weight) != 2 or tuple(bias) != (weight[0],) or inner not in (None, weight[1]):
            raise ValueError("the model is no chain of linear layers with biases")
        size = math.prod(weight)
        found.append((offset, offset + size, weight[0], weight[1]))
        offset += size + weight[0]
    return found


def same_columns(model: Vector, layout: Layout, rng: np.random.Generator, gain: float) -> None:
    """Make the second layer treat all first-layer neurons alike, in place.

    Then an example's delta is the same in every neuron that it activates.

    Args:
        model: [P].
        layout: of an MLP with at least two layers.
        rng: of the common column.
        gain: its size is so much over the number of neurons.
    """
    weight, _, outputs, inputs = linear_layers(layout)[1]
    column = rng.normal(0.0, gain / inputs, outputs).astype(np.float32)
    model[weight : weight + outputs * inputs] = np.repeat(column, inputs)


def imprint(
    honest: Vector,
    layout: Layout,
    public: NDArray[np.floating],
    rng: np.random.Generator,
    gain: float = 1.0,
    scale: float = 1e-3,
) -> Vector:
    """An MLP whose first layer sorts examples by brightness into bins of equal probability.

    Fowl et al. (ICLR 2022) with the thresholds at quantiles of public data in place of a guessed
    normal law. Of B examples, B (1 - 1/K)^(B - 1) are expected alone in one of K bins. Only
    parameters are edited, so the model must begin with a linear layer.

    Args:
        honest: the model to edit, float32 [P].
        layout: its names and shapes.
        public: inputs of the same kind [m, ...].
        rng: of the second layer's common column.
        gain: size of that column.
        scale: of the first layer; the second makes up for it. A small one matters: the answer
            travels as parameters, whose rounding would drown it beside large ones.

    Raises:
        ValueError: if the model is no MLP of two or more layers.
    """
    model = honest.copy()
    layer = first_layer(layout, int(np.prod(public.shape[1:])))
    heights = public.reshape(len(public), -1).mean(1, dtype=np.float64)
    cuts = np.quantile(heights, np.arange(layer.k) / layer.k)
    cuts[0] = heights.min() - 0.5 * (heights.max() - heights.min())  # nobody lies below
    layer.weights(model)[:] = scale / layer.d
    layer.biases(model)[:] = -scale * cuts
    same_columns(model, layout, rng, gain / scale)
    return model


def traps(
    honest: Vector, layout: Layout, rng: np.random.Generator, sigma: float = 0.5,
    shrink: float = 0.95,
) -> Vector:  # fmt: skip
    """Trap weights (Boenisch et al., When the Curious Abandon Honesty, EuroS&P 2023).

    Half of each row's weights are negative and, in other places, their mirror images times
    ``shrink``: most examples activate few neurons, so some neurons see just one.

    Args:
        honest: the model to edit, float32 [P].
        layout: its names and shapes.
        rng: of the rows.
        sigma: scale of the weights.
        shrink: how much weaker the positive half is.

    Raises:
        ValueError: if the model has no linear first layer.
    """
    model = honest.copy()
    layer = first_layer(layout)
    rows = np.zeros((layer.k, layer.d), np.float32)
    half = layer.d // 2
    for row in rows:
        places = rng.permutation(layer.d)
        negative = -np.abs(rng.normal(0.0, sigma, half))
        row[places[:half]] = negative
        row[places[half : 2 * half]] = -shrink * rng.permutation(negative)
    layer.weights(model)[:] = rows
    layer.biases(model)[:] = 0.0
    return model


@dataclass
class Imprint:
    """A tamper that sends an imprinted model in every round, calibrated on public data.

    Args:
        public: a data set's loader; its test part is the public data.
        samples: how many of them to use.
        gain: size of the second layer's common column.
        seed: of that column.
    """

    public: object
    samples: int = 1000
    gain: float = 1.0
    seed: int = 0
    _x: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._x = np.asarray(self.public.x_test[: self.samples])  # type: ignore[attr-defined]

    def edit(self, honest: Vector, layout: Layout, node: int, number: int) -> Vector:
        """The imprinted model; the same column for every node and round."""
        rng = seeding.stream(self.seed, "imprint")
        return imprint(honest, layout, self._x, rng, self.gain)


@dataclass
class Traps:
    """A tamper that sends trap weights.

    Args:
        sigma: scale of the weights.
        shrink: how much weaker the positive half is.
        seed: of the rows.
    """

    sigma: float = 0.5
    shrink: float = 0.95
    seed: int = 0

    def edit(self, honest: Vector, layout: Layout, node: int, number: int) -> Vector:
        """The same rows for every node and round."""
        return traps(honest, layout, seeding.stream(self.seed, "traps"), self.sigma, self.shrink)
