"""Another protection for each client, by what its machine can be trusted with.

A machine whose identity costs a chip may hold a share of a key, so its update is encrypted; one
that anybody could have made up ten times gets noise instead, or nothing. Plans are ordered by
what they leave to see; each client gets the best that its trust level permits, or the one that
`fedhive trust plan` chose for it among all clients.

With the mean as the rule, the round's model is the mean over both kinds: what is in the clear is
averaged as always, what is encrypted is opened as a sum of all encrypted replies, and the two
means are put together by their weights. A sum of too few is not opened: among plain neighbours,
one encrypted update would be the opened sum itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from defenses.protection.base import Mod, Protection, Release, Request, SentModel, Setting, Step
from fedhive.errors import UserError
from fedhive.flower import Layout, Malformed, records_of
from fedhive.trust.fleet import Levels
from fedhive.world.grid import FIRST_NODE_ID
from strategies.combine import Cohort, Mean, shares
from strategies.placement_report import Planned, planned
from strategies.placement_security import Plan, Prices, Rules

if TYPE_CHECKING:
    from fedhive.leakage.view import View


class ByCapability(Protection):
    """Encryption, noise or nothing, by trust level.

    Args:
        levels: of the machines, by number.
        plans: what there is.
        layers: the protection of each plan, by its name; null for none. A plan that no client of
            this run gets needs none.
        nodes: number of machines.
        rules: what must hold; ``cohort`` in every round, the rest where `fedhive trust plan`
            chooses.
        prices: for `fedhive trust plan`.
        work: what a client does in a round, for `fedhive trust plan`: ``samples`` and ``bytes``.
        chosen: file with what `fedhive trust plan --json` printed; null for the best plan that
            each level permits. Clients that it gives no work, but a selection asks all the same,
            get the best that their level permits.

    Raises:
        UserError: for a plan without its layer, or a file that gives a client more than its level
            permits.
    """

    def __init__(
        self,
        levels: Levels,
        plans: Sequence[Plan],
        layers: Mapping[str, Protection | None],
        nodes: int,
        rules: Rules,
        prices: Prices,
        work: Mapping[str, float],
        chosen: str | None = None,
    ) -> None:
        self.levels = levels(nodes)
        self.plans = sorted(plans, key=lambda plan: plan.exposure)
        self.rules, self.prices, self.work = rules, prices, dict(work)
        names = self._best(nodes) if chosen is None else self._read(Path(chosen), nodes)
        self.names = names
        self._layers = layers
        self.sealing = next((p.name for p in self.plans if p.cohort), None)

    def _best(self, nodes: int) -> list[str]:
        """The least exposed plan that each level permits, with enough for a cohort."""
        hiding = [p for p in self.plans if p.cohort]
        able = sum(any(level >= p.level for p in hiding) for level in self.levels)
        plans = [p for p in self.plans if not p.cohort or able >= self.rules.cohort]
        return [self._permitted(plans, int(self.levels[i]), i) for i in range(nodes)]

    @staticmethod
    def _permitted(plans: Sequence[Plan], level: int, number: int) -> str:
        for plan in plans:
            if level >= plan.level:
                return plan.name
        raise UserError(f"no plan of protection.plans is for machine {number}, of level {level}")

    def _read(self, path: Path, nodes: int) -> list[str]:
        try:
            told = json.loads(path.read_text(encoding="utf-8"))["chosen"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"protection.chosen: {path} cannot be used ({error})") from error
        if not isinstance(told, list) or len(told) != nodes:
            raise UserError(f"protection.chosen: {path} is not for nodes={nodes}")
        best, known = self._best(nodes), {plan.name: plan for plan in self.plans}
        for number, name in enumerate(told):
            if name is None:
                told[number] = best[number]
            elif name not in known or known[name].level > self.levels[number]:
                raise UserError(
                    f"protection.chosen: {path} gives machine {number} the plan {name!r}, which "
                    f"its level {self.levels[number]} does not permit"
                )
        return told

    def layer(self, number: int) -> Protection | None:
        """The protection of a machine."""
        return self._layers[self.names[number]]

    @property
    def used(self) -> dict[str, Protection]:
        """The protections of plans that some client has, by name."""
        found = {name: self._layers.get(name) for name in sorted(set(self.names))}
        return {name: layer for name, layer in found.items() if layer is not None}

    @property
    def records(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of all protections that are used."""
        return tuple(name for layer in self.used.values() for name in layer.records)

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of all protections that are used."""
        return tuple(name for layer in self.used.values() for name in layer.metrics)

    # ---- before the run -----------------------------------------------------------------------

    def plan_for(self, cfg: Mapping[str, Any]) -> Planned:
        """What the solver would give to each client of a configured hive."""
        return planned(cfg, self.levels, self.plans, self.rules, self.prices, self.work)

    def check(self, cfg: Mapping[str, Any]) -> None:
        """Each protection's own reasons; and what only this one cannot do."""
        missing = sorted(set(self.names) - set(self._layers))
        if missing:
            raise UserError(
                f"protection: some clients get the plan {missing[0]!r}, for which "
                "protection.layers has nothing; a simulation cannot shield, for instance: leave "
                "that plan out of protection.plans, or lower protection.levels.tee"
            )
        target = (cfg.get("combine") or {}).get("_target_", "")
        if self.used and target != "strategies.combine.Mean":
            raise UserError(
                f"protection=by_capability with combine {target.rpartition('.')[2]}: encrypted "
                "and plain replies can only be put together by their mean; use combine=mean"
            )
        for name, layer in self.used.items():
            if layer.moves_alone:
                raise UserError(
                    f"protection.layers.{name} adds its noise at the server, to all replies; for "
                    "some clients only, let them add it: noise=client"
                )
            own = (cfg.get("protection") or {}).get("layers") or {}
            layer.check({**cfg, "protection": own.get(name)})

    # ---- client -------------------------------------------------------------------------------

    def mods(self, node_number: int) -> Sequence[Mod]:
        """Those of the client's own protection."""
        layer = self.layer(node_number)
        return () if layer is None else layer.mods(node_number)

    def sealed_bytes(self, node_number: int, layout: Layout) -> int:
        """Those of the client's own protection."""
        layer = self.layer(node_number)
        return 0 if layer is None else layer.sealed_bytes(node_number, layout)

    def answer(self, message: Message, context: Context) -> Message:
        """That of the protection that answers queries."""
        for layer in self.used.values():
            if type(layer).answer is not Protection.answer:
                return layer.answer(message, context)
        return super().answer(message, context)

    # ---- server -------------------------------------------------------------------------------

    def _number(self, node: int) -> int:
        number = node - FIRST_NODE_ID
        if not 0 <= number < len(self.names):
            raise UserError(
                f"protection=by_capability does not know which machine node {node} is; use "
                "engine=local, pool or deployment"
            )
        return number

    def prepare(self, request: Request, grid: Grid | None) -> bool:
        """Whether all are ready."""
        ready = [layer.prepare(request, grid) for layer in self.used.values()]
        return all(ready)

    def settings(self, request: Request) -> Mapping[str, Setting]:
        """Those of all; each is told of its own clients only."""
        found: dict[str, Setting] = {}
        for name, layer in self.used.items():
            mine = {n: p for n, p in request.chosen.items() if self.names[self._number(n)] == name}
            found |= layer.settings(replace(request, chosen=mine))
        return found

    def open(self, content: RecordDict, sent: SentModel) -> tuple[RecordDict, Any]:
        """By the client's own protection; others' records are refused."""
        layer = self.layer(self._number(sent.node))
        mine = () if layer is None else layer.records
        strange = set(records_of(content, ArrayRecord)) & set(self.records) - set(mine)
        if strange:
            raise Malformed(f"a record {min(strange)!r} from a client of another plan")
        return (content, None) if layer is None else layer.open(content, sent)

    def screen(
        self, opened: Mapping[int, Any], server_round: int, grid: Grid | None
    ) -> dict[int, str]:
        """What each protection finds about its own clients' replies."""
        found: dict[int, str] = {}
        for name, layer in self.used.items():
            mine = {n: part for n, part in opened.items() if self.names[self._number(n)] == name}
            found |= layer.screen(mine, server_round, grid)
        return found

    def reveal(self, step: Step) -> Release:
        """The mean of what is in the clear and of what is opened."""
        cohort = step.cohort
        sealed = [i for i, n in enumerate(cohort.nodes) if self._sealed(n)]
        if not sealed:
            return Release(step.proposed)
        clear = [i for i in range(len(cohort.nodes)) if i not in set(sealed)]
        layer = self.used[str(self.sealing)]
        reason = f"{len(sealed)} encrypted replies, fewer than a cohort of {self.rules.cohort}"
        opened: np.ndarray[Any, np.dtype[np.float32]] | None = None
        if len(sealed) >= self.rules.cohort:
            part = _subset(cohort, sealed)
            proposed, _ = step.combine.combine(part, step.state)
            release = layer.reveal(
                replace(step, cohort=part, proposed=proposed,
                        opened=[step.opened[i] for i in sealed])
            )  # fmt: skip
            opened, reason = release.model, release.reason
        if opened is None:
            left_out = {cohort.nodes[i]: reason for i in sealed}
            if not clear:
                return Release(None, reason, left_out)
            model, _ = step.combine.combine(_subset(cohort, clear), step.state)
            return Release(model, reason, left_out)
        if not clear:
            return Release(opened, reason)
        assert isinstance(step.combine, Mean)  # see `check`
        weight = float(sum(shares(cohort, step.combine.weighting)[i] for i in sealed))
        model, _ = step.combine.combine(_subset(cohort, clear), dict(step.state))
        mixed = (1.0 - weight) * model.astype(np.float64) + weight * opened.astype(np.float64)
        return Release(mixed.astype(np.float32), reason)

    def _sealed(self, node: int) -> bool:
        return self.sealing is not None and self.names[self._number(node)] == self.sealing

    def disbelieved(self, claimed: int, counted: int) -> str:
        """The first reason of any: it is not told which client it is about."""
        reasons = (layer.disbelieved(claimed, counted) for layer in self.used.values())
        return next((reason for reason in reasons if reason), "")

    def facts(self) -> dict[str, Any]:
        """How many clients have which plan and level, and what their protections tell."""
        counts = {plan.name: self.names.count(plan.name) for plan in self.plans}
        levels = {str(level): int((self.levels == level).sum()) for level in range(5)}
        own = {"plans": counts, "levels": levels, "cohort": self.rules.cohort}
        inner = {type(layer).__name__.lower(): layer.facts() for layer in self.used.values()}
        return {"by_capability": own, **inner}

    def summary(self) -> dict[str, Any]:
        """Those of all protections that are used; no epsilon where some clients have none."""
        found = {k: v for layer in self.used.values() for k, v in layer.summary().items()}
        each = {name: self.used.get(name) for name in self.names}
        if any(layer is None or layer.epsilon() is None for layer in each.values()):
            found |= {key: None for key in ("epsilon", "delta") if key in found}
        return found

    def state(self) -> dict[str, Any]:
        """Those of all, by plan."""
        return {name: layer.state() for name, layer in self.used.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""
        for name, layer in self.used.items():
            layer.restore(state[name])

    # ---- what is left to see ------------------------------------------------------------------

    def view(self, view: View) -> View:
        """One client's, as its own protection leaves it; sums as they are."""
        if len(view.subjects) != 1:
            return view
        layer = self.layer(self._number(view.subjects[0]))
        return view if layer is None else layer.view(view)


def _subset(cohort: Cohort, of: Sequence[int]) -> Cohort:
    """Some of the replies of a cohort."""

    def taken(values: Sequence[Any]) -> Sequence[Any]:
        return [values[i] for i in of] if values else values

    return replace(
        cohort, nodes=taken(cohort.nodes), models=taken(cohort.models),
        examples=taken(cohort.examples), weights=taken(cohort.weights),
        extra={name: taken(rows) for name, rows in cohort.extra.items()},
        bases=taken(cohort.bases), staleness=taken(cohort.staleness), steps=taken(cohort.steps),
        probabilities=taken(cohort.probabilities), samples=taken(cohort.samples),
        identities=taken(cohort.identities),
    )  # fmt: skip
