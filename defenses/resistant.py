"""A robust rule on groups of identities, weighed by what is known of them (``combine``).

One adversary may have any number of identities. Three things are put before the rule:

* identities that share what costs something, an account or an attested device, become one row:
  `f` is then a number of adversaries, and not of the identities that they could afford;
* each identity has a weight, from its history, its age and its reputation, or its place in the
  tree of networks;
* what is left of an adversary is one client's vote, which is the rule's business.

Groups and weights are coefficients of the rows: the whole costs what the rule costs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from defenses import grouping, sybil
from defenses.histories import Histories
from defenses.identities import Identity, Reputation, probation
from defenses.robust import Robust, Spec, resolved
from defenses.rows import Rows, TooFewRowsError
from fedhive.errors import UserError
from strategies.combine import Cohort, State, Vector, updates

LOG = logging.getLogger(__name__)
ATTRIBUTES = (*grouping.ATTRIBUTES, "near_duplicates")

Attribute = Literal["key", "owner", "device", "network", "near_duplicates"]


@dataclass(frozen=True)
class SybilResistant:
    """Groups, weights, then stages and a rule, on the clients' updates.

    A group's row is the weighted mean of its members' updates, and its weight the sum of theirs,
    but at most ``cap``. Rows are scaled by their weights over the mean weight: under ``mean`` that
    is the weighted mean; a robust rule sees less weighty groups move less. Groups of weight 0 are
    left out. If too few groups are left for the rule, the model stays as it is and a warning is
    logged. Claimed numbers of examples are not looked at.

    Args:
        rule: as in `defenses.robust.Robust`.
        f: how many groups may be faulty; below 1 and not whole: the share of those that replied.
        pre: stages before the rule.
        groups: what makes identities one group, if they share any of these: ``owner``,
            ``device``, ``key``, ``network`` (an address prefix), ``near_duplicates`` (updates
            much closer than usual); empty for groups of one.
        network: how much of the address: ``wide``, ``middle``, ``narrow``.
        unknown: identities of which an attribute is not known stand ``alone``, or ``together`` as
            one group: only then does withholding an attribute not pay.
        cap: the most that a group may weigh; one identity of weight 1 weighs 1.
        tolerance: of ``near_duplicates``.
        similarity: weights from histories: ``foolsgold``, ``hardened_foolsgold``, one of these
            with options, or a function of your own [n, d] to [n]; null for none.
        memory: what a history keeps each round: 1 is a plain sum, as in FoolsGold; less forgets,
            as SybilWall's distant histories do.
        features: only the last so many parameters make a history (the output layer); null for all.
        kept: histories of at most so many identities, the latest.
        tree: weigh identities by their branch of the tree of networks, accounts and keys.
        probation_rounds: length of a new identity's probation; 0 for none.
        probation_least: its weight in its first round.
        reputation: what earlier rounds are worth; null for nothing.
        far: a reply is a bad mark if it is farther from the result than so many times the median.
        nodes: the most clients that may ever reply; numbers impossible even then are refused.
        seed: of all random stages.
    """

    rule: Spec = "trimmed_mean"
    f: int | float = 1
    pre: Sequence[Spec] = ()
    groups: Sequence[Attribute] = ("owner", "device")
    network: grouping.Network = "middle"
    unknown: grouping.Unknown = "alone"
    cap: float = 1.0
    tolerance: float = 0.1
    similarity: Spec | None = None
    memory: float = 1.0
    features: int | None = None
    kept: int = 1000
    tree: bool = False
    probation_rounds: int = 0
    probation_least: float = 0.1
    reputation: Reputation | None = None
    far: float = 3.0
    nodes: int | None = None
    seed: int = 0
    _robust: Robust = field(init=False, repr=False, compare=False)
    _histories: Histories = field(init=False, repr=False, compare=False)

    broadcasts: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        grouping.check_attributes(self.groups, ATTRIBUTES, "combine.groups")
        if not (self.cap > 0.0 and self.far > 0.0):
            raise UserError(f"combine needs cap > 0 and far > 0, got {self.cap} and {self.far}")
        probation(1, 1, rounds=self.probation_rounds, least=self.probation_least)
        robust = Robust(self.rule, self.f, self.pre, nodes=self.nodes, seed=self.seed)
        object.__setattr__(self, "_robust", robust)
        rate = None
        if self.similarity is not None:
            rate = resolved(self.similarity, sybil, "combine.similarity")
        histories = Histories(rate, self.memory, self.features, self.kept)
        object.__setattr__(self, "_histories", histories)

    def check(self, n: int) -> None:
        """Refuse a rule that n replies are not enough for, even if none share a group.

        Raises:
            UserError: with the inequality.
        """
        self._robust.check(n)

    def init(self, params: Vector) -> State:
        """The rule's memory; no histories."""
        return self._robust.init(params)

    def combine(self, cohort: Cohort, state: State) -> tuple[Vector, State]:
        """The proposed model; histories and what else the rule remembers."""
        moves = [torch.from_numpy(move) for move in updates(cohort)]
        fine = [i for i, move in enumerate(moves) if bool(move.isfinite().all())]
        moves = [moves[i] for i in fine]
        if not moves:
            return cohort.current.copy(), state
        known = cohort.identities or [Identity()] * len(cohort.nodes)
        identities = [known[i] for i in fine]
        names = [known[i].name(cohort.nodes[i]) for i in fine]
        state, rates = self._histories.learn(names, moves, cohort.round, state)
        weights = torch.tensor(self._weights(identities, names, cohort.round)) * rates
        mix = self._mix(self._labels(identities, moves), weights)
        if not len(mix):
            LOG.warning("round %d: every identity has a weight of 0; same model", cohort.round)
            return cohort.current.copy(), state
        centre = torch.from_numpy(state["centre"]) if "centre" in state else None
        try:
            moved = self._robust(Rows.of(moves).mixed(mix), round=cohort.round, centre=centre)
        except TooFewRowsError as error:
            LOG.warning(
                "round %d: %d identities are %d groups: %s; same model",
                cohort.round, len(moves), len(mix), error,
            )  # fmt: skip
            return cohort.current.copy(), state
        if self.reputation is not None:
            self.reputation.learn(_marks(names, moves, moved, self.far))
        move = moved.numpy()
        if "centre" in state:
            state = {**state, "centre": move}
        return cohort.current + move, state

    def state(self) -> dict[str, Any]:
        """Reputations, as plain data."""
        return {"reputation": None if self.reputation is None else self.reputation.state()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""
        if self.reputation is not None and saved.get("reputation") is not None:
            self.reputation.restore(saved["reputation"])

    # ---- inside -------------------------------------------------------------------------------

    def _weights(
        self, identities: Sequence[Identity], names: Sequence[str], round: int
    ) -> list[float]:
        """Each identity's weight by age, reputation and place, in [0, 1]."""
        weights = [
            probation(
                identity.first_round, round,
                rounds=self.probation_rounds, least=self.probation_least,
            )
            for identity in identities
        ]  # fmt: skip
        if self.reputation is not None:
            worth = self.reputation.weights(names)
            weights = [weight * w for weight, w in zip(weights, worth, strict=True)]
        if self.tree:
            paths = [identity.path() or (name,) for identity, name in zip(
                identities, names, strict=True
            )]  # fmt: skip
            shares = sybil.tree_shares(paths).tolist()
            weights = [weight * share for weight, share in zip(weights, shares, strict=True)]
        return weights

    def _labels(self, identities: Sequence[Identity], moves: Sequence[Tensor]) -> list[int]:
        """A group number for each identity, in order of appearance."""
        labelled: list[Sequence[Hashable]] = []
        for attribute in self.groups:
            if attribute == "near_duplicates":
                labels = sybil.near_duplicates(torch.stack(list(moves)), tolerance=self.tolerance)
                labelled.append(labels)
            else:
                labelled.append(grouping.values(identities, attribute, self.network, self.unknown))
        return sybil.joined(labelled, len(identities))

    def _mix(self, labels: Sequence[int], weights: Tensor) -> Tensor:
        """Coefficients [groups with a weight, n + 1] of their rows; the last: the origin."""
        n = len(labels)
        rows, amounts = [], []
        for group in range(max(labels) + 1):
            own = torch.where(torch.tensor(labels) == group, weights, 0.0)
            total = float(own.sum())
            if total > 0.0:
                rows.append(own / total)
                amounts.append(min(self.cap, total))
        if not rows:
            return torch.zeros(0, n + 1, dtype=torch.float64)
        scale = torch.tensor(amounts, dtype=torch.float64)
        scale /= scale.mean()
        mix = torch.stack(rows) * scale[:, None]
        return torch.cat([mix, 1.0 - mix.sum(1, keepdim=True)], dim=1)


def _marks(
    names: Sequence[str], moves: Sequence[Tensor], moved: Tensor, far: float
) -> dict[str, float]:
    """1 for replies near the result, 0 for those beyond ``far`` times the median distance."""
    distances = [float((move.double() - moved).norm()) for move in moves]
    limit = far * float(np.median(distances))
    marks: dict[str, float] = {}
    for name, distance in zip(names, distances, strict=True):
        good = float(distance <= limit and math.isfinite(distance))
        marks[name] = min(good, marks.get(name, 1.0))
    return marks
