"""Schedules of papers that pick machines round by round: LowCarb and CAFE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedhive import seeding
from strategies.local_work import LocalWork
from strategies.schedule import (
    LOOK_S,
    Agenda,
    Floats,
    carbon_of,
    expected_joules,
    grams_per_kwh,
)
from strategies.scheduling_rules import cafe, cafe_queue, lowcarb
from strategies.selection import at_least_one, within
from strategies.view import View

Vector = NDArray[np.float32]
SKETCH = 256
"""Numbers kept of each update; distances between sketches are right to about 6 %."""


@dataclass(frozen=True)
class LowCarb:
    """The machines that would gain the least from waiting (birnbaum/flwr-lowcarb, 2022).

    `strategies.scheduling_rules.lowcarb`: every round takes the ``k`` machines whose intensity is
    forecast to fall the least within the time that each may wait; those that were asked often may
    wait longer. Training itself never waits.

    Args:
        k: machines a round.
        horizon_h: longest time to wait, hours.
    """

    k: int = 10
    horizon_h: int = 24
    chooses: ClassVar[bool] = True
    forecasts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least_one(k=self.k, horizon_h=self.horizon_h)

    def plan(self, view: View) -> Agenda:
        """The best ``k`` of those who are idle."""
        carbon = carbon_of(view, self)
        idle = list(view.idle)
        # What it reads of participation is relative to all machines, present or not.
        everyone = sorted({*view.profiles, *idle})
        table = carbon.forecast(everyone, self.horizon_h + 1)
        asked = [view.past(node).selected for node in everyone]
        order = [everyone[i] for i in lowcarb(table, asked, len(everyone))]
        there = set(idle)
        return Agenda(frozenset([node for node in order if node in there][: self.k]))


@dataclass
class Cafe:
    r"""CAFE: each round the set that stands best for all machines, within a carbon budget's pace.

    Bian, Wang, Ren, Xu: CAFE, e-Energy 2024, arXiv 2311.03615
    (`strategies.scheduling_rules.cafe`). Each round maximises :math:`V\,U(S) - Q\,C(S)` by double
    greedy, with U the coreset utility, C the round's grams, and Q a virtual queue:
    Q <- max(Q + C(S) - budget / rounds, 0).

    The paper takes distances between gradients at the present model. Asking everybody for one
    would itself cost energy, so distances are between the machines' last known mean gradients
    (update over steps), sketched; machines that never replied count as far from all others. Both
    terms are without a unit: distances over their mean, grams over the budget of a round. Where
    nobody is chosen, a round of the budget passes and ``every_s`` seconds.

    Args:
        work: how much each machine would train; the run's local work.
        batch_size: samples of a step, the client's.
        rounds: T, rounds of the whole training.
        budget_g: grams for the whole training.
        value: V.
        randomised: decide at random in double greedy, which is better on average.
        seed: of these decisions and of the sketch.
        every_s: how long to wait when nobody is chosen, seconds.
    """

    work: LocalWork
    batch_size: int = 32
    rounds: int = 100
    budget_g: float = 100.0
    value: float = 1.0
    randomised: bool = False
    seed: int = 0
    every_s: float = 3600.0
    chooses: ClassVar[bool] = True
    forecasts: ClassVar[bool] = True
    queue_g: float = field(default=0.0, init=False, repr=False)
    sketches: dict[int, list[float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(batch_size=self.batch_size, rounds=self.rounds)
        within(1e-12, 1e15, budget_g=self.budget_g, every_s=self.every_s)
        within(0.0, 1e9, value=self.value)

    def plan(self, view: View) -> Agenda:
        """The chosen set; the queue moves on."""
        carbon = carbon_of(view, self)
        idle = list(view.idle)
        if not idle:
            return Agenda(frozenset(), view.now_s + LOOK_S)
        joules = expected_joules(view, self.work, self.batch_size, idle)
        grams = grams_per_kwh(joules, carbon.forecast(idle, 1)[:, 0])
        each = self.budget_g / self.rounds
        rng = view.rng("schedule") if self.randomised else None
        mask = cafe(
            self.distances(sorted(view.profiles), idle), grams / each,
            queue_g=self.queue_g / each, value=self.value, rng=rng,
        )  # fmt: skip
        spent = float(grams[mask].sum())
        self.queue_g = cafe_queue(self.queue_g, spent, self.budget_g, self.rounds)
        chosen = frozenset(node for node, take in zip(idle, mask, strict=True) if take)
        return Agenda(chosen, view.now_s + self.every_s)

    def distances(self, everyone: Sequence[int], some: Sequence[int]) -> Floats:
        """Between mean gradients over their mean, [everyone, some]; unknown ones are far."""
        known = [node for node in everyone if node in self.sketches]
        table = np.full((len(everyone), len(some)), 1.0)
        if len(known) > 1:
            points = np.array([self.sketches[node] for node in known])
            squares = (points**2).sum(1)
            apart = np.maximum(squares[:, None] + squares - 2.0 * points @ points.T, 0.0) ** 0.5
            mean = float(apart.sum()) / (len(known) * (len(known) - 1))
            apart = apart / mean if mean > 0.0 else apart
            table[:] = max(1.0, float(apart.max()))
            row = {node: i for i, node in enumerate(known)}
            rows = [i for i, node in enumerate(everyone) if node in row]
            columns = [j for j, node in enumerate(some) if node in row]
            picked = [row[some[j]] for j in columns]
            table[np.ix_(rows, columns)] = apart[:, picked]
        at = {node: i for i, node in enumerate(everyone)}
        for j, node in enumerate(some):
            if node in at:
                table[at[node], j] = 0.0
        return table

    def learn(self, view: View, updates: Mapping[int, Vector]) -> None:
        """Keep a sketch of each accepted mean gradient."""
        for node, update in updates.items():
            steps = max(1, view.past(node).steps or 1)
            self.sketches[node] = [x / steps for x in self._sketch(update)]

    def _sketch(self, update: Vector) -> list[float]:
        """Signed sums of the coordinates that fall into each of `SKETCH` boxes."""
        if update.size <= SKETCH:
            return [float(x) for x in update]
        rng = seeding.stream(self.seed, "schedule.sketch")
        box = rng.integers(0, SKETCH, update.size)
        sign = 2.0 * rng.integers(0, 2, update.size) - 1.0
        return [float(x) for x in np.bincount(box, sign * update, minlength=SKETCH)]

    def state(self) -> dict[str, Any]:
        """The queue and the sketches."""
        rows = {str(node): row for node, row in self.sketches.items()}
        return {"queue_g": self.queue_g, "sketches": rows}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.queue_g = float(saved["queue_g"])
        self.sketches = {int(node): list(row) for node, row in saved["sketches"].items()}
