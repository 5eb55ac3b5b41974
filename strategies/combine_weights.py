"""Rules without memory: weights of the selection, inverse probabilities, unequal step counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fedhive.errors import UserError
from strategies.combine import (
    Cohort,
    State,
    Vector,
    Weighting,
    numbers,
    shares,
    stepped,
    updates,
)


def refuse_weights(cohort: Cohort, rule: str) -> None:
    """Raise a UserError if the selection weights clients, for rules that do so themselves.

    To apply both corrections would count the same absence twice.
    """
    for node, weight in zip(cohort.nodes, cohort.weights, strict=True):
        if weight != 1.0:
            raise UserError(
                f"combine {rule} weights clients itself, but the selection gave node {node} the "
                f"weight {weight:g}: use combine=sum or combine=mean with this selection"
            )


def inverse_probabilities(cohort: Cohort) -> list[float]:
    """1 / p of each client.

    Raises:
        UserError: if the selection gave no probability for a client, or one outside (0, 1].
    """
    hint = (
        "the selection gives no inclusion probability; use a selection that does, or "
        "combine=fedau, which estimates how often a client takes part"
    )
    known = numbers(cohort.probabilities, cohort, hint)
    for node, p in zip(cohort.nodes, known, strict=True):
        if not 0.0 < p <= 1.0:
            raise UserError(
                f"round {cohort.round}, node {node}: the selection gave the inclusion "
                f"probability {p:g}; it must be in (0, 1]"
            )
    return [1.0 / p for p in known]


def noted_sizes(cohort: Cohort, weighting: str) -> State:
    """What to add to a memory so that `population_shares` knows the sizes of these clients.

    One float32 number a client, ``examples.NODE``; nothing for equal shares.
    """
    if weighting == "uniform":
        return {}
    pairs = zip(cohort.nodes, cohort.examples, strict=True)
    return {f"examples.{node}": small(float(n)) for node, n in pairs}


def population_shares(
    nodes: Sequence[int], cohort: Cohort, state: State, weighting: str
) -> list[float]:
    """Each node's share alpha among all nodes that the hive has had, not only this cohort.

    Args:
        nodes: whose shares; with ``examples`` they must be in the memory.
        cohort: says how many nodes there are, N.
        state: a memory that `noted_sizes` has been added to.
        weighting: ``uniform`` for 1/N; ``examples`` for the number of examples over everybody's,
            where nodes that never replied count as the mean of those that did.
    """
    if weighting == "uniform":
        return [1.0 / cohort.total_nodes] * len(nodes)
    seen = [float(value[0]) for key, value in state.items() if key.startswith("examples.")]
    total = sum(seen) / len(seen) * max(cohort.total_nodes, len(seen))
    return [float(state[f"examples.{node}"][0]) / total for node in nodes]


def small(*values: float) -> Vector:
    """A few numbers as a float32 vector, for a memory; whole numbers are exact up to 2^24."""
    return np.array(values, np.float32)


@dataclass(frozen=True)
class Sum:
    r"""The weighted sum of the updates, with the selection's weights as they are.

    $$w^+ = w + \sum_{k \in S} q_k \Delta_k$$

    The weights are not normalised, nor multiplied by numbers of examples: it is for selections of
    your own whose `Choice.weight` is the whole factor. F3AST and CA-Fed give inclusion
    probabilities instead: use `InverseProbability` with them. With a selection that gives no
    weights every update counts 1, which is too far by the number of clients: use ``mean`` there.
    """

    broadcasts: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[tuple[str, ...]] = ()

    def init(self, params: Vector) -> State:
        """Nothing to remember."""
        return {}

    def combine(self, cohort: Cohort, state: State) -> tuple[Vector, State]:
        """The model moved by the weighted sum."""
        return stepped(cohort.current, updates(cohort), [float(w) for w in cohort.weights]), state


@dataclass(frozen=True)
class InverseProbability:
    r"""Updates divided by their clients' inclusion probabilities (Horvitz-Thompson).

    $$w^+ = w + \sum_{k \in S} \frac{\alpha_k}{p_k} \Delta_k$$

    Its mean over the selection's randomness is the step of all clients together, whatever the
    probabilities; its variance grows as they shrink. Chen, Horvath, Richtarik: Optimal Client
    Sampling for Federated Learning, TMLR 2022, eq. 2. Machines that are rarely on are made up for
    only if the selection's probabilities count being on.

    Args:
        weighting: ``uniform`` for alpha_k = 1/N; ``examples`` for shares by examples, for which
            it keeps one number a client.
        normalised: divide by the sum of the alpha_k / p_k instead of by its expectation, 1
            (Hajek's ratio estimator): a small bias for much less variance.
    """

    weighting: Literal["examples", "uniform"] = "examples"
    normalised: bool = False

    broadcasts: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[tuple[str, ...]] = ()

    def init(self, params: Vector) -> State:
        """Nobody's size is known."""
        return {}

    def combine(self, cohort: Cohort, state: State) -> tuple[Vector, State]:
        """The model moved by the corrected sum.

        Raises:
            UserError: if the selection gives no probabilities, or weights.
        """
        refuse_weights(cohort, "inverse_probability")
        inverse = inverse_probabilities(cohort)
        new = {**state, **noted_sizes(cohort, self.weighting)}
        alpha = population_shares(cohort.nodes, cohort, new, self.weighting)
        factors = [a * i for a, i in zip(alpha, inverse, strict=True)]
        if self.normalised:
            total = sum(factors)
            factors = [factor / total for factor in factors]
        return stepped(cohort.current, updates(cohort), factors), new


@dataclass(frozen=True)
class FedNova:
    r"""Normalised averaging: who did more steps does not pull further.

    $$w^+ = w + \tau_{eff} \sum_k p_k \frac{\Delta_k}{\|a_k\|_1}, \qquad
    \tau_{eff} = \sum_k p_k \|a_k\|_1$$

    where $\|a_k\|_1 = \tau_k$, the number of local steps, for plain SGD, and
    $[\tau - \rho (1 - \rho^\tau) / (1 - \rho)] / (1 - \rho)$ with momentum $\rho$ (a gradient that
    is followed by j more steps weighs $(1 - \rho^{j + 1}) / (1 - \rho)$ in the update; summed).
    Wang, Liu, Liang, Joshi, Poor: Tackling the Objective Inconsistency Problem in Heterogeneous
    Federated Optimization, NeurIPS 2020, section 5 (the update rule of its section 4 with
    w_k = p_k). Clients that did no step are left out; proximal terms and learning rates that
    change within a round are not accounted for.

    Args:
        weighting: of the p_k: ``examples``, ``samples`` or ``uniform``.
        momentum: the clients', in [0, 1).
    """

    weighting: Weighting = "examples"
    momentum: float = 0.0

    broadcasts: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")

    def init(self, params: Vector) -> State:
        """Nothing to remember."""
        return {}

    def combine(self, cohort: Cohort, state: State) -> tuple[Vector, State]:
        """The normalised average.

        Raises:
            UserError: if a client did not say how many steps it did.
        """
        hint = "no count of its steps, which combine=fednova needs; use combine=mean"
        lengths = [self._length(steps) for steps in numbers(cohort.steps, cohort, hint)]
        parts = [
            (delta, share, length)
            for delta, share, length in zip(
                updates(cohort), shares(cohort, self.weighting), lengths, strict=True
            )
            if length > 0.0 and share > 0.0
        ]
        if not parts:
            return cohort.current.copy(), state
        mass = sum(share for _, share, _ in parts)
        effective = sum(share * length for _, share, length in parts) / mass
        factors = [share / mass * effective / length for _, share, length in parts]
        return stepped(cohort.current, [delta for delta, _, _ in parts], factors), state

    def _length(self, steps: int) -> float:
        """The 1-norm of the weights that ``steps`` gradients have in an update."""
        rho = self.momentum
        return (steps - rho * (1.0 - rho**steps) / (1.0 - rho)) / (1.0 - rho)
