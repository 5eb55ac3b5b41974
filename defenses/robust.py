"""Robust aggregation as a part of a strategy: stages, then a rule, on the clients' updates.

Stages and rules are named as in `defenses.preaggregation` and `defenses.aggregation`, with their
options, so that a pipeline is a Hydra list:

    combine=robust combine.f=3 combine.rule=trimmed_mean
    'combine.pre=[{clip: {norm: 2.0}}, nearest_neighbor_mixing]'

A function of your own goes in the same places as a ``_target_`` with ``_partial_: true``.
Whatever is linear in the rows is composed in the space of coefficients: the whole pipeline costs
one pass over the updates for their inner products, and one for the result.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from defenses import aggregation, preaggregation
from defenses.rows import Rows, TooFewRowsError, Updates, finitely
from fedhive import config, seeding
from fedhive.errors import UserError
from strategies.combine import Cohort, State, Vector, updates

Spec = str | Mapping[str, Mapping[str, Any]] | Callable[..., Any]
"""A function's name, its name with options, or the function itself."""

LOG = logging.getLogger(__name__)
PROBE = 3
"""Coordinates of the zero updates on which a pipeline is tried out."""


def aggregate(
    rows: Updates,
    *,
    f: int,
    rule: Callable[..., Tensor],
    pre: Sequence[Callable[..., Rows]] = (),
) -> Tensor:
    """Stages, then a rule.

    Args:
        rows: updates [n, d], n tensors [d], or rows of a pipeline; never written to.
        f: how many of them may be faulty; every stage and the rule are told.
        rule: a function of `defenses.aggregation`, or one like them.
        pre: functions of `defenses.preaggregation`, or like them, in order.

    Returns:
        [d].

    Raises:
        ValueError: if n and f are impossible for one of them.
    """

    def run(stage: Rows, f: int) -> Tensor:
        for step in pre:
            stage = step(stage, f=f)
        return rule(stage, f=f)

    return finitely(rows, f, run)


@dataclass(frozen=True)
class Robust:
    """The current model, moved by a robust aggregate of the clients' updates.

    Every accepted client counts alike: rules have no use for declared numbers of examples. If too
    few clients replied for the rule, the model stays as it is and a warning is logged.

    A rule with an option ``centre`` (centered clipping) is given the previous round's aggregate;
    one with an option ``trusted`` (FLTrust) the mean update of ``trusted_nodes``; options
    ``seed`` that are not set are derived from ``seed`` and the round.

    Args:
        rule: the rule.
        f: how many clients may be faulty; below 1 and not whole: the share of those that replied.
        pre: stages before it.
        trusted_nodes: nodes whose updates are the reference, and not among those aggregated.
        nodes: the most clients that may ever reply; numbers impossible even then are refused.
        seed: of all random stages.
    """

    rule: Spec = "trimmed_mean"
    f: int | float = 0
    pre: Sequence[Spec] = ()
    trusted_nodes: Sequence[int] = ()
    nodes: int | None = None
    seed: int = 0
    _rule: Callable[..., Tensor] = field(init=False, repr=False, compare=False)
    _pre: tuple[Callable[..., Rows], ...] = field(init=False, repr=False, compare=False)

    broadcasts: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.f >= 0 or (self.f != int(self.f) and self.f >= 0.5):
            raise UserError(f"combine.f must be a whole number or a share below 0.5, got {self.f}")
        object.__setattr__(self, "_rule", resolved(self.rule, aggregation, "combine.rule"))
        stages = tuple(
            resolved(spec, preaggregation, f"combine.pre[{i}]") for i, spec in enumerate(self.pre)
        )
        object.__setattr__(self, "_pre", stages)
        if "trusted" in _options(self._rule) and not self.trusted_nodes:
            raise UserError(
                "combine.trusted_nodes is empty: this rule compares with the updates of nodes "
                "that you trust; name them, e.g. combine.trusted_nodes=[1000]"
            )
        if self.nodes is not None:
            self.check(self.nodes)

    def faulty(self, n: int) -> int:
        """How many of n clients may be faulty."""
        if self.f == int(self.f):
            return int(self.f)
        return int(self.f * n + 1e-9)  # 0.29 * 100 is a little less than 29

    def check(self, n: int) -> None:
        """Refuse a pipeline that n replies are not enough for, by trying it on zeros.

        Raises:
            UserError: with the inequality.
        """
        rows = max(1, n - len(self.trusted_nodes))
        try:
            zero = torch.zeros(PROBE)
            self(torch.zeros(rows, PROBE), centre=zero, trusted=zero)
        except (ValueError, aggregation.SearchLimitError) as error:
            raise UserError(f"combine with {rows} clients: {error}") from error

    def init(self, params: Vector) -> State:
        """The centre, zero, if the rule has one."""
        return {"centre": np.zeros_like(params)} if "centre" in _options(self._rule) else {}

    def combine(self, cohort: Cohort, state: State) -> tuple[Vector, State]:
        """The proposed model, and the aggregate if the rule's next centre is it."""
        moves = dict(zip(cohort.nodes, map(torch.from_numpy, updates(cohort)), strict=True))
        trusted = [moves.pop(node) for node in self.trusted_nodes if node in moves]
        if not moves or (self.trusted_nodes and not trusted):
            LOG.warning("round %d: no reply to aggregate or to trust; same model", cohort.round)
            return cohort.current.copy(), state
        reference = torch.stack(trusted).mean(dim=0) if trusted else None
        centre = torch.from_numpy(state["centre"]) if "centre" in state else None
        try:
            moved = self(
                list(moves.values()), round=cohort.round, centre=centre, trusted=reference
            )
        except TooFewRowsError as error:
            LOG.warning("round %d: %s; same model", cohort.round, error)
            return cohort.current.copy(), state
        move = moved.numpy()
        return cohort.current + move, {"centre": move} if "centre" in state else state

    def __call__(
        self,
        updates: Updates,
        *,
        f: int | None = None,
        round: int = 1,
        centre: Tensor | None = None,
        trusted: Tensor | None = None,
    ) -> Tensor:
        """The stages and the rule as one function, as those of `defenses.aggregation` are.

        Args:
            updates: [n, d], n tensors [d], or rows of a pipeline; never written to.
            f: how many of them may be faulty; None: as many as this object's ``f`` says.
            round: which random stages draw anew in each.
            centre: [d], for a rule with such an option.
            trusted: [d], likewise.

        Returns:
            [d].

        Raises:
            ValueError: if n and f are impossible for a stage or the rule.
        """
        known = {"centre": centre, "trusted": trusted}

        def told(function: Callable[..., Any], place: int) -> Callable[..., Any]:
            free = _options(function)
            more: dict[str, Any] = {name: known[name] for name in known if name in free}
            if "seed" in free:
                more["seed"] = seeding.torch_seed(self.seed, "robust", round, place)
            return lambda stage, f: function(stage, f=f, **more)

        return aggregate(
            updates,
            f=self.faulty(len(updates)) if f is None else f,
            rule=told(self._rule, 0),
            pre=[told(stage, i) for i, stage in enumerate(self._pre, 1)],
        )


def resolved(spec: Spec, module: Any, path: str) -> Callable[..., Any]:
    """The function that a specification names, with its options bound.

    Raises:
        UserError: for an unknown name or option.
    """
    if callable(spec):
        return spec
    named: Mapping[str, Any] = {spec: {}} if isinstance(spec, str) else spec
    if len(named) != 1:
        raise UserError(f"{path}: one name with its options, not {sorted(named)}")
    [(name, options)] = named.items()
    known = [key for key in module.__all__ if inspect.isfunction(getattr(module, key))]
    if name not in known:
        hint = config.nearest(name, known) or f"; there are {', '.join(known)}"
        raise UserError(f"{path}: {module.__name__} has no {name!r}{hint}")
    target = {"_target_": f"{module.__name__}.{name}", "_partial_": True, **(options or {})}
    function: Callable[..., Any] = config.build(target, f"{path}.{name}")
    return function


def _options(function: Callable[..., Any]) -> set[str]:
    """Names of a function's options that are not bound yet."""
    bound = set(getattr(function, "keywords", None) or {})
    return set(inspect.signature(function).parameters) - bound
