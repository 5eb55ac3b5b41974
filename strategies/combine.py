"""How accepted replies become one proposed model (group ``combine``).

A rule is plain data with pure functions; what it remembers between rounds is a dictionary of
vectors that a checkpoint can save. Arithmetic is NumPy's in float32, clients in ascending order
of node id, one addition after the other: the same sums, to the bit, as Flower's FedAvg makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from defenses.identities import Identity
from fedhive.errors import UserError

Vector = NDArray[np.float32]
State = dict[str, Vector]
Weighting = Literal["examples", "samples", "uniform"]
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Cohort:
    """The accepted replies of a round, ordered by node id.

    Args:
        nodes: node ids.
        models: the clients' models, float32 [P] each; not to be written to.
        examples: training examples of each client.
        weights: the selection's weight of each client.
        extra: further vectors they sent, by name, one [P] a client.
        current: the global model, float32 [P].
        total_nodes: number of nodes that the hive has had so far.
        bases: the model that each client started from: ``current`` itself for fresh replies, an
            older or a personal one otherwise; empty if all are ``current``.
        staleness: how many rounds ago each client was asked, 0 for this one; empty for all 0.
        steps: optimiser steps that each client did; empty or None where unknown.
        probabilities: how likely the selection was to pick each client; empty or None if unknown.
        round: the round that is being combined, from 1.
        known: ids of all nodes that the hive has had so far, ascending.
        samples: samples that each client trained on for this reply, counted with repetition;
            empty or None where unknown.
        identities: who stands behind each client, as far as is known; empty for nothing.
    """

    nodes: Sequence[int]
    models: Sequence[Vector]
    examples: Sequence[int]
    weights: Sequence[float]
    extra: Mapping[str, Sequence[Vector]]
    current: Vector
    total_nodes: int
    bases: Sequence[Vector] = ()
    staleness: Sequence[int] = ()
    steps: Sequence[int | None] = ()
    probabilities: Sequence[float | None] = ()
    round: int = 1
    known: Sequence[int] = ()
    samples: Sequence[int | None] = ()
    identities: Sequence[Identity] = ()


class Combine(Protocol):
    """Turns a cohort into the model it proposes."""

    broadcasts: ClassVar[tuple[str, ...]]
    """Names of the vectors that it sends to clients beside the model."""
    expects: ClassVar[tuple[str, ...]]
    """Names of the vectors that it needs from clients beside the model."""

    def init(self, params: Vector) -> State:
        """Its memory before the first round; holds a vector for each name in ``broadcasts``."""
        ...

    def combine(self, cohort: Cohort, state: State) -> tuple[Vector, State]:
        """(proposed model float32 [P], new memory)."""
        ...


def updates(cohort: Cohort) -> list[Vector]:
    """What each client changed: its model minus the one it started from, float32 [P] each."""
    bases = cohort.bases or [cohort.current] * len(cohort.models)
    return [model - base for model, base in zip(cohort.models, bases, strict=True)]


def moved(cohort: Cohort) -> list[Vector]:
    """The current model moved by each client's update; fresh clients' models as they are."""
    current = cohort.current
    bases = cohort.bases or [current] * len(cohort.models)
    return [
        model if base is current else current + (model - base)
        for model, base in zip(cohort.models, bases, strict=True)
    ]


def weighted_sum(rows: Sequence[Vector], factors: Sequence[float]) -> Vector:
    """``sum_i factors[i] * rows[i]`` in float32, in order.

    Args:
        rows: float32 [P] each, at least one.
        factors: as many numbers.
    """
    total = rows[0] * factors[0]
    term = np.empty_like(total)
    for row, factor in zip(rows[1:], factors[1:], strict=True):
        np.multiply(row, factor, out=term)
        total += term
    return total


def stepped(current: Vector, rows: Sequence[Vector], factors: Sequence[float]) -> Vector:
    """``current + sum_i factors[i] * rows[i]``, float32 [P] in memory of its own."""
    total = weighted_sum(rows, factors)
    total += current
    return total


def numbers(values: Sequence[_Number | None], cohort: Cohort, what: str) -> list[_Number]:
    """``values``, one a client, with none missing.

    Raises:
        UserError: if some are; ``what`` says which numbers they are and what to do.
    """
    given: Sequence[_Number | None] = values or [None] * len(cohort.nodes)
    for node, value in zip(cohort.nodes, given, strict=True):
        if value is None:
            raise UserError(f"round {cohort.round}, node {node}: {what}")
    return [value for value in given if value is not None]


def shares(cohort: Cohort, weighting: str) -> list[float]:
    """Each client's share of this cohort, summing to 1, times the selection's weight.

    Args:
        cohort: the replies.
        weighting: ``examples`` for shares by training examples; ``samples`` by the samples
            processed for this reply (equal if nobody processed any); ``uniform`` for equal ones.

    Raises:
        UserError: by samples, if a client did not report them.
    """
    sizes: Sequence[float] = [1] * len(cohort.nodes)
    if weighting == "examples":
        sizes = cohort.examples
    elif weighting == "samples":
        hint = "no count of the samples it processed; use weighting examples or uniform"
        counted = numbers(cohort.samples, cohort, hint)
        sizes = counted if any(counted) else sizes
    raw = [n * w if w != 1.0 else n for n, w in zip(sizes, cohort.weights, strict=True)]
    total = sum(raw)
    return [value / total for value in raw]


@dataclass(frozen=True)
class Mean:
    """The average of the clients' models: FedAvg's combination.

    McMahan et al., AISTATS 2017, Algorithm 1: sum over k of (n_k / n) w_k.

    Args:
        weighting: ``examples`` for n_k / n; ``samples`` for shares by the samples processed since
            the client got the model (partial work counts for what it is; merging by tokens);
            ``uniform`` for equal shares.
    """

    weighting: Weighting = "examples"

    broadcasts: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[tuple[str, ...]] = ()

    def init(self, params: Vector) -> State:
        """Nothing to remember."""
        return {}

    def combine(self, cohort: Cohort, state: State) -> tuple[Vector, State]:
        """The weighted average."""
        return weighted_sum(moved(cohort), shares(cohort, self.weighting)), state


@dataclass(frozen=True)
class Scaffold:
    """SCAFFOLD's server: averages models and control variates.

    Karimireddy et al., ICML 2020, Algorithm 1: x <- x + eta_g mean(dy_i),
    c <- c + (|S| / N) mean(dc_i). The global step size eta_g is the server optimiser's.
    """

    broadcasts: ClassVar[tuple[str, ...]] = ("control",)
    expects: ClassVar[tuple[str, ...]] = ("control",)

    def init(self, params: Vector) -> State:
        """c = 0."""
        return {"control": np.zeros_like(params)}

    def combine(self, cohort: Cohort, state: State) -> tuple[Vector, State]:
        """The plain mean of the models, and the moved control variate."""
        n = len(cohort.nodes)
        target = weighted_sum(moved(cohort), [1.0 / n] * n)
        change = weighted_sum(cohort.extra["control"], [1.0 / cohort.total_nodes] * n)
        return target, {"control": state["control"] + change}


@dataclass(frozen=True)
class FedDyn:
    """FedDyn's server: the mean model, shifted by the running regulariser.

    Acar et al., ICLR 2021, Algorithm 1: h <- h - (alpha / m) sum_{i in S} (w_i - w),
    w+ = mean(w_i) - h / alpha, with m the number of all nodes.

    Args:
        alpha: the same as the client's.
    """

    alpha: float = 0.01

    broadcasts: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.alpha > 0.0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}")

    def init(self, params: Vector) -> State:
        """h = 0."""
        return {"h": np.zeros_like(params)}

    def combine(self, cohort: Cohort, state: State) -> tuple[Vector, State]:
        """The shifted mean, and the new h."""
        n = len(cohort.nodes)
        mean = weighted_sum(moved(cohort), [1.0 / n] * n)
        step = (mean - cohort.current) * np.float32(n / cohort.total_nodes)
        h = state["h"] - np.float32(self.alpha) * step
        return np.subtract(mean, h / np.float32(self.alpha), dtype=np.float32), {"h": h}
