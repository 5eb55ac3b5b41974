"""Every example of a batch, certified, by bisection over rounds (a malicious server).

All first-layer neurons share one random direction w and differ in their thresholds, so a round's
answer says how much gradient lies above each threshold. Large equal biases make the softmax
exactly uniform in floating point: an example's delta then depends on its class alone. Where the
difference between two neighbouring thresholds is the delta of one class, exactly one example lies
there, and it is the ratio of the differences. The other intervals are searched more finely in the
next round (Diana et al., Cutting Through Privacy, 2025; with certificates, after Diana, Xu, Nusser
and Neglia, 2026).

A certificate holds against every mixture of up to three examples: the last layer is chosen so
that none of their sums of deltas comes near that of one. It needs one full-batch step of plain
SGD, and shows: no honest model has such biases.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attacks.reconstruction.closed import first_layer, seen_rows
from attacks.reconstruction.guess import Guess, guessed
from attacks.reconstruction.imprint import linear_layers
from fedhive import seeding
from fedhive.flower import Layout
from fedhive.leakage.recorded import Knower, Recorded, view_of
from fedhive.leakage.store import Public
from fedhive.leakage.view import Vector, View

Floats = NDArray[np.float64]
UNIFORM_BIAS = 1e25
"""So large that float32 forgets what is added to it: all logits become equal."""
ACTIVE_BIAS = 1e6
"""Keeps the neurons of inner layers on."""
TOLERANCE = 2e-4
"""Of deltas, relative to the largest; the last layer keeps mixtures further away than twice it."""


def class_weights(classes: int, rng: np.random.Generator, draws: int = 200) -> Floats:
    """Last-layer weights whose deltas tell one example from two or three, [classes].

    Args:
        classes: how many.
        rng: of the candidates.
        draws: candidates; the one with the widest gap is taken.
    """
    best, widest = np.zeros(classes), -1.0
    sets = [
        np.array(list(itertools.combinations_with_replacement(range(classes), m))) for m in (2, 3)
    ]
    for _ in range(draws):
        weights = rng.uniform(-1.0, 1.0, classes)
        deltas = weights.mean() - weights
        sums = np.concatenate([deltas[one].sum(1) for one in sets])
        gap = min(
            np.abs(sums[:, None] - deltas[None, :]).min(), np.abs(sums).min(),
            np.diff(np.sort(deltas)).min(initial=np.inf), np.abs(deltas).min(),
        ) / np.abs(deltas).max()  # fmt: skip
        if gap > widest:
            best, widest = weights, float(gap)
    return best


def arm(
    honest: Vector, layout: Layout, direction: Floats, thresholds: Floats, weights: Floats
) -> Vector:
    """The model to send: an MLP of two or more layers with these thresholds along a direction.

    Args:
        honest: gives the size, float32 [P].
        layout: names and shapes.
        direction: [d].
        thresholds: [K], one a first-layer neuron.
        weights: of the last layer, by class.

    Raises:
        ValueError: if the model is no such MLP.
    """
    layers = linear_layers(layout)
    if len(layers) < 2:
        raise ValueError("the attack needs an MLP of at least two layers")
    model = np.zeros_like(honest)
    first = first_layer(layout)
    first.weights(model)[:] = direction.astype(np.float32)
    first.biases(model)[:] = -thresholds
    for weight, bias, outputs, inputs in layers[1:-1]:
        share = 1.0 if (weight, bias) == layers[1][:2] else 1.0 / inputs
        model[weight : weight + outputs * inputs] = share
        model[bias : bias + outputs] = ACTIVE_BIAS
    weight, bias, outputs, inputs = layers[-1]
    share = 1.0 if len(layers) == 2 else 1.0 / inputs
    model[weight : weight + outputs * inputs] = np.repeat(weights * share, inputs)
    model[bias : bias + outputs] = UNIFORM_BIAS
    return model


@dataclass(frozen=True, eq=False)
class Cuts:
    """What all rounds together say, by ascending threshold.

    Args:
        direction: w, [d].
        deltas: of one example of each class, [classes].
        at: thresholds [m], the last one above all examples.
        rows: gradient of the weights of a neuron with that threshold, [m, d].
        biases: of its bias, [m].
    """

    direction: Floats
    deltas: Floats
    at: Floats
    rows: Floats
    biases: Floats


def cuts_of(view: View) -> Cuts:
    """All thresholds that were tried, from the models sent and the answers.

    Raises:
        ValueError: if the number of examples is unknown, or the model was not armed.
    """
    if view.knows.examples is None:
        raise ValueError("the attack must know how many examples a step has")
    layer = first_layer(view.layout)
    sent = view.exchanges[-1].sent
    direction = np.asarray(layer.weights(sent)[0], np.float64)
    weight, _, outputs, inputs = linear_layers(view.layout)[-1]
    last = sent[weight : weight + outputs * inputs].reshape(outputs, inputs).astype(np.float64)
    scale = last[:, 0] if len(linear_layers(view.layout)) == 2 else last.sum(1)
    deltas = (scale.mean() - scale) / view.knows.examples
    at, rows, biases = [], [], []
    for exchange in view.exchanges:
        if not np.array_equal(layer.weights(exchange.sent)[0], layer.weights(sent)[0]):
            continue
        one = view.restrict(rounds=[exchange.round])
        gradients, slopes = seen_rows(one, layer)
        whole = ~(np.isnan(gradients).any(1) | np.isnan(slopes))
        at.append(-np.asarray(layer.biases(exchange.sent), np.float64)[whole])
        rows.append(gradients[whole])
        biases.append(slopes[whole])
    thresholds = np.concatenate(at)
    order = np.argsort(thresholds, kind="stable")
    keep = order[np.append(np.diff(thresholds[order]) > 0, True)]
    return Cuts(
        direction, deltas, np.append(thresholds[keep], np.inf),
        np.vstack([np.concatenate(rows)[keep], np.zeros((1, layer.d))]),
        np.append(np.concatenate(biases)[keep], 0.0),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Found:
    """What is certain and what is open.

    Args:
        samples: certified examples [k, d].
        labels: int64 [k].
        open: [m, 2], intervals that hold something that is not yet one example.
    """

    samples: Floats
    labels: NDArray[np.int64]
    open: Floats


def read(cuts: Cuts, low: float, high: float) -> Found:
    """Judge every interval between neighbouring thresholds.

    Args:
        cuts: of all rounds.
        low: smallest value of an input.
        high: largest.
    """
    top = np.abs(cuts.deltas).max()
    slack = 0.02 * (high - low)
    rows, biases = cuts.rows[:-1] - cuts.rows[1:], cuts.biases[:-1] - cuts.biases[1:]
    samples, labels, still = [], [], []
    for i, (row, bias) in enumerate(zip(rows, biases, strict=True)):
        begin, end = cuts.at[i], cuts.at[i + 1]
        if max(np.abs(row).max() / max(abs(low), abs(high)), abs(bias)) <= TOLERANCE * top:
            continue
        label = int(np.argmin(np.abs(cuts.deltas - bias)))
        if abs(cuts.deltas[label] - bias) <= TOLERANCE * top:
            sample = row / bias
            height = float(sample @ cuts.direction)
            blur = 1e-3 * max(1.0, abs(height))
            inside = begin - blur <= height <= end + blur
            if inside and sample.min() >= low - slack and sample.max() <= high + slack:
                samples.append(sample)
                labels.append(label)
                continue
        still.append((begin, end))
    d = cuts.rows.shape[1]
    return Found(
        np.array(samples).reshape(-1, d), np.array(labels, np.int64),
        np.array(still, np.float64).reshape(-1, 2),
    )  # fmt: skip


def first_thresholds(k: int, direction: Floats, low: float, high: float) -> Floats:
    """Dense where most inputs lie, and the first below all of them (Cauchy quantiles), [k]."""
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    reach = half * float(np.abs(direction).sum())
    spread = half * float(np.linalg.norm(direction))
    ladder = middle * float(direction.sum()) + spread * np.tan(
        np.pi * (np.arange(k) / k - 0.5 + 0.5 / k)
    )
    least = middle * float(direction.sum()) - 1.01 * reach
    return np.sort(np.append(np.clip(ladder[1:], least, least + 2.02 * reach), least))


def next_thresholds(found: Found, k: int, highest: float) -> Floats:
    """Evenly inside the open intervals, as many in each; [k].

    Args:
        found: what is known.
        k: how many are needed.
        highest: no example lies above; closes the last interval.
    """
    intervals = found.open.copy()
    intervals[:, 1] = np.minimum(intervals[:, 1], highest)
    widths = intervals[:, 1] - intervals[:, 0]
    intervals = intervals[np.argsort(-widths, kind="stable")[:k]]
    if not len(intervals):
        return np.full(k, highest)
    shares = np.full(len(intervals), k // len(intervals))
    shares[: k - int(shares.sum())] += 1
    inner = [
        begin + (end - begin) * np.arange(1, share + 1) / (share + 1)
        for (begin, end), share in zip(intervals, shares, strict=True)
    ]
    return np.sort(np.concatenate(inner))


def read_adaptive(view: View, input_shape: tuple[int, ...], low: float, high: float) -> Guess:
    """All certified examples of a victim, from the record of all rounds."""
    found = read(cuts_of(view), low, high)
    proved = np.ones(len(found.samples), np.bool_)
    samples = np.clip(found.samples, low, high).reshape(-1, *input_shape)
    return guessed(samples, found.labels, proved, open=len(found.open))


@dataclass
class AdaptiveImprint:
    """The tamper: each round's model follows from the victim's answers so far.

    Args:
        low: smallest value of an input; None takes it from the run's public side.
        high: largest, likewise.
        gain: size of the last layer's weights; a large one lifts the answer above the rounding
            of the parameters it travels on.
        seed: of direction and last layer.
    """

    low: float | None = None
    high: float | None = None
    gain: float = 1e4
    seed: int = 0
    _heard: dict[int, list[Recorded]] = field(default_factory=dict, repr=False)
    _knower: Knower = field(default_factory=Knower, repr=False)

    def meet(self, public: Public) -> None:
        """Learn what inputs look like."""
        if self.low is None:
            self.low = public.bounds[0]
        if self.high is None:
            self.high = public.bounds[1]

    def edit(self, honest: Vector, layout: Layout, node: int, number: int) -> Vector:
        """Thresholds for this victim in this round.

        Raises:
            ValueError: if the inputs' range is unknown, or the model is no MLP.
        """
        low, high = self.low, self.high
        if low is None or high is None:
            raise ValueError("adaptive imprint needs the inputs' range: low and high")
        layer = first_layer(layout)
        rng = seeding.stream(self.seed, "adaptive_imprint")
        direction = (rng.normal(size=layer.d) / math.sqrt(layer.d)).astype(np.float32)
        weights = self.gain * class_weights(linear_layers(layout)[-1][2], rng)
        wide = direction.astype(np.float64)
        ladder = first_thresholds(layer.k, wide, low, high)
        heard = self._heard.get(node)
        if heard:
            view = view_of(heard, layout, self._knower)
            found = read(cuts_of(view), low, high)
            highest = 2 * 0.5 * (low + high) * float(wide.sum()) - float(ladder[0])
            ladder = next_thresholds(found, layer.k, highest)
        return arm(honest, layout, wide, ladder, weights)

    def learn(self, records: list[Recorded], knower: Knower) -> None:
        """The answers of a round."""
        self._knower = knower
        for record in records:
            self._heard.setdefault(record.node, []).append(record)
