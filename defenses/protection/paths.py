"""How hidden coordinates come back (group ``path``): which sums are opened, and what of them.

Ciphertexts can only be added, and nobody may open one client's alone. So a rule has three ways:

- ``sum``: one sum over everybody. Any liar's hidden part is in it, bounded by the clip only.
- ``select_then_sum``: a robust rule picks clients by what is in the clear, and one sum over those
  is opened. What the rule does not see it cannot judge: poison in hidden coordinates passes.
- ``bucketed``: disjoint groups are drawn at random, each group's sum is opened, and a robust rule
  works on the groups' means. It judges hidden coordinates too, at the price of opening smaller
  sums and of every liar spoiling its whole group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from defenses import aggregation
from defenses.aggregation.diameter import SearchLimitError
from defenses.protection.base import Step
from defenses.protection.opening import Sums
from defenses.robust import Robust, Spec, aggregate, resolved
from defenses.rows import Rows, TooFewRowsError
from fedhive import seeding
from fedhive.errors import UserError
from strategies.combine import Mean, updates

Hidden = NDArray[np.float64]


class Path(Protocol):
    """How hidden coordinates come back."""

    name: ClassVar[str]

    def check(self, combine: Any, everything: bool, clients: int) -> None:
        """Refuse a rule that this cannot serve.

        Args:
            combine: the rule for what is in the clear.
            everything: whether the mask hides all coordinates.
            clients: the most replies of a round.

        Raises:
            UserError: with the reason and the way out.
        """
        ...

    def hidden(self, step: Step, sums: Sums) -> Hidden:
        """The hidden coordinates' update, float64 [m].

        Raises:
            SealError, TooFewRowsError: if there is none in this round.
        """
        ...


@dataclass(frozen=True)
class Sum:
    """One weighted sum over all usable replies: what FedAvg needs."""

    name: ClassVar[str] = "sum"

    def check(self, combine: Any, everything: bool, clients: int) -> None:
        """Only a plain average is a sum."""
        if isinstance(combine, Mean):
            return
        rule = _named(combine)
        if isinstance(combine, Robust):
            way = "path=bucketed" if everything else "path=select_then_sum or path=bucketed"
            raise UserError(
                f"path=sum with {rule}: the rule needs every client's update in plain text, and "
                f"the server only sees {'sums' if everything else 'parts'} of them; use {way}, "
                "or combine=mean"
            )
        _only_mean_or_robust(rule)

    def hidden(self, step: Step, sums: Sums) -> Hidden:
        """The mean over everybody."""
        return sums.means([range(len(step.cohort.nodes))])[0]


@dataclass(frozen=True)
class SelectThenSum:
    """A rule picks clients by what is in the clear; the sum runs over those.

    It must be a rule that picks: Krum, Multi-Krum, minimum-diameter averaging, or any other that
    ends in a plain average of some rows.
    """

    name: ClassVar[str] = "select_then_sum"

    def check(self, combine: Any, everything: bool, clients: int) -> None:
        """Tries the rule on random rows."""
        rule = _named(combine)
        if not isinstance(combine, Robust):
            raise UserError(
                f"path=select_then_sum with {rule}: there is no rule that picks clients; use "
                "combine=robust combine.rule=multi_krum, or path=sum"
            )
        if everything:
            raise UserError(
                f"path=select_then_sum with mask=all: {rule} needs plain text to judge clients "
                "by, and everything is encrypted; use path=bucketed, or hide less"
            )
        if combine.pre or combine.trusted_nodes:
            raise UserError(
                "path=select_then_sum: stages before the rule (combine.pre) and trusted nodes mix "
                "or rescale updates, which nobody can do to sealed ones; set combine.pre=[]"
            )
        rows = torch.from_numpy(seeding.stream(0, "probe").normal(size=(clients, 5)))
        try:
            picked = chosen(combine, rows.to(torch.float32), 1)
        except (ValueError, SearchLimitError) as error:
            raise UserError(f"combine with {clients} clients: {error}") from error
        if picked is None:
            raise UserError(
                f"path=select_then_sum with {rule}: it does not pick whole clients but weighs "
                "them or works coordinate by coordinate on each one's plain update; use krum, "
                "multi_krum or minimum_diameter_averaging, or path=bucketed"
            )

    def hidden(self, step: Step, sums: Sums) -> Hidden:
        """The mean over those that the rule picked."""
        rows = torch.stack([torch.from_numpy(row) for row in updates(step.cohort)])
        picked = chosen(step.combine, rows, step.cohort.round)
        if picked is None:
            raise TooFewRowsError("the rule picked no clients in this round")
        return sums.means([picked])[0]


@dataclass(frozen=True)
class Bucketed:
    """Sums over disjoint groups drawn at random, then a robust rule over the groups' means.

    Groups of g clients: a liar spoils one group, so a rule that withstands f of k rows withstands
    f liars among k g clients. This is bucketing (Karimireddy et al., "Byzantine-robust learning
    on heterogeneous datasets via bucketing", ICLR 2022) under encryption.

    Args:
        size: g, at least 2: how many clients are hidden among each other.
        rule: a function of `defenses.aggregation` with its options, or one like them.
        f: how many groups may be spoilt; null for just below half of them.
        seed: of the draw, which is public.

    Raises:
        ValueError: for a size below 2.
    """

    size: int = 2
    rule: Spec = "coordinate_median"
    f: int | None = None
    seed: int = 0
    _rule: Any = field(init=False, repr=False, compare=False)

    name: ClassVar[str] = "bucketed"

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"size must be at least 2 clients, got {self.size}")
        object.__setattr__(self, "_rule", resolved(self.rule, aggregation, "path.rule"))

    def check(self, combine: Any, everything: bool, clients: int) -> None:
        """There must be enough groups for the rule."""
        if not isinstance(combine, Mean | Robust):
            _only_mean_or_robust(_named(combine))
        if isinstance(combine, Robust) and everything:
            raise UserError(
                f"path=bucketed with mask=all and {_named(combine)}: nothing is left in the clear "
                "for combine; the robust rule is path.rule here, so use combine=mean"
            )
        count = clients // self.size
        try:
            if count < 3:
                raise ValueError("a median needs at least 3 groups")
            self._aggregated([torch.zeros(3)] * count)
        except ValueError as error:
            raise UserError(
                f"path=bucketed: {clients} clients make {count} groups of {self.size}: {error}"
            ) from error

    def hidden(self, step: Step, sums: Sums) -> Hidden:
        """The rule's aggregate of the groups' means."""
        groups = self.groups(len(step.cohort.nodes), step.cohort.round)
        if len(groups) < 3:
            raise TooFewRowsError(f"{len(groups)} groups of {self.size} are too few for a rule")
        rows = [torch.from_numpy(mean.astype(np.float32)) for mean in sums.means(groups)]
        found: Hidden = self._aggregated(rows).numpy().astype(np.float64)
        return found

    def groups(self, n: int, number: int) -> list[list[int]]:
        """Disjoint groups of at least ``size`` of n places, drawn anew in every round."""
        order = seeding.stream(self.seed, "buckets", number).permutation(n)
        count = max(1, n // self.size)
        return [sorted(int(i) for i in part) for part in np.array_split(order, count)]

    def _aggregated(self, rows: Sequence[Tensor]) -> Tensor:
        f = (len(rows) - 1) // 2 if self.f is None else self.f
        return aggregate(list(rows), f=f, rule=self._rule)


def chosen(rule: Robust, rows: Tensor, number: int) -> list[int] | None:
    """Which rows a robust rule averages; None if it does not end in a plain average of some.

    Args:
        rule: without stages before it.
        rows: updates [n, d].
        number: the round.
    """
    watched = _Watched.of(rows)
    rule(watched, f=rule.faulty(len(rows)), round=number)
    if len(watched.seen) != 1:
        return None
    share = watched.seen[0][: len(rows)]
    picked = [int(i) for i in torch.nonzero(share).reshape(-1)]
    equal = torch.full((len(picked),), 1.0 / max(1, len(picked)), dtype=share.dtype)
    return picked if picked and torch.allclose(share[picked], equal) else None


class _Watched(Rows):
    """Rows that note with which coefficients they were combined."""

    @classmethod
    def of(cls, updates: Any) -> _Watched:
        made = super().of(updates)
        assert isinstance(made, _Watched)
        made.seen = []
        return made

    seen: list[Tensor]

    def combination(self, coefficients: Tensor) -> Tensor:
        self.seen.append(coefficients)
        return super().combination(coefficients)


def _named(combine: Any) -> str:
    name = type(combine).__name__
    rule = getattr(combine, "rule", None)
    if not isinstance(combine, Robust):
        return f"combine {name}"
    return f"rule {rule if isinstance(rule, str) else getattr(rule, '__name__', 'of combine')}"


def _only_mean_or_robust(rule: str) -> None:
    raise UserError(
        f"protection=encryption with {rule}: it works on single clients' models, or remembers "
        "them, and the server is shown sums of hidden coordinates only; use combine=mean or "
        "combine=robust"
    )
