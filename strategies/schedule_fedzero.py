"""FedZero as a schedule: excess energy by zone, the shortest round, batches for each machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedhive.world.carbon_forecast import HOUR_S, WEEK, CarbonOutlook
from strategies.local_work import mean_batch
from strategies.schedule import Agenda, Floats, carbon_of, oort_utilities
from strategies.scheduling_fedzero import Fleet, fedzero, fedzero_excluded
from strategies.selection import at_least_one, within
from strategies.view import View

Vector = NDArray[np.float32]
DAY_S = 86_400.0


@dataclass
class FedZero:
    """FedZero: only excess energy, ``k`` machines, the most utility in the shortest round.

    Wiesner et al., FedZero, e-Energy 2024, arXiv 2305.15092 (`strategies.scheduling_fedzero`):
    among the machines that have excess energy now, the integer program over steps of ``step_s``
    seconds within rounds of at most ``longest_s``, solved by HiGHS; each chosen machine does
    between ``min_epochs`` and ``max_epochs`` passes and is told how many steps; utility is Oort's.
    Participants of the least utility are excluded and released again by the rule of the authors'
    code, at every look until there is a solution; their fair share is the mean participation of
    the day's active machines, and in the second half of a day moves from yesterday's to today's.
    Where no ``k`` machines can do their least work, it looks again after ``every_s``.

    What deviates:

    * The paper is given excess solar power by zone. Carbon intensity does not tell it, so here a
      zone has excess power in its cleanest hours: those at or below the ``clean`` quantile of its
      last week, and then ``excess`` times the training power of all its machines together, for
      which they compete. Their emissions are charged at the zone's intensity, not at 0.
    * Spare capacity is a machine's speed times the forecast chance that it is on.
    * The paper's second program, which shares out a domain's power while the round runs, is
      missing: machines do their planned steps at their own speed, also where that takes more power
      or lasts longer than there is excess. The round ends by the run's trigger.
    * A machine that never replied counts with the mean of the sizes that are known: its own, which
      the authors take, is not.

    Args:
        batch_size: samples of a step, the client's.
        k: n, machines a round.
        min_epochs: least passes of a chosen machine.
        max_epochs: most passes.
        step_s: length of a time step, seconds.
        longest_s: longest round, seconds.
        every_s: how long to wait where there is no solution, seconds.
        clean: share of hours in which a zone has excess power, 0 to 1.
        excess: excess power over the training power of the zone's machines.
        factor: share of the participants that is excluded.
        alpha: how readily the excluded are released; 0 for no exclusion.
    """

    batch_size: int = 32
    k: int = 10
    min_epochs: float = 1.0
    max_epochs: float = 5.0
    step_s: float = 300.0
    longest_s: float = 3600.0
    every_s: float = 300.0
    clean: float = 0.3
    excess: float = 0.5
    factor: float = 1.0
    alpha: float = 1.0
    chooses: ClassVar[bool] = True
    forecasts: ClassVar[bool] = True
    excluded: set[int] = field(default_factory=set, init=False, repr=False)
    active: set[int] = field(default_factory=set, init=False, repr=False)
    last: set[int] = field(default_factory=set, init=False, repr=False)
    looks: int = field(default=0, init=False, repr=False)
    cycle_s: float = field(default=0.0, init=False, repr=False)
    fair: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(batch_size=self.batch_size, k=self.k)
        within(0.0, 1.0, clean=self.clean, factor=self.factor)
        within(0.0, 1e6, excess=self.excess, alpha=self.alpha)
        within(1e-6, 1e6, min_epochs=self.min_epochs)
        within(self.min_epochs, 1e6, max_epochs=self.max_epochs)
        within(1.0, 1e9, step_s=self.step_s, every_s=self.every_s)
        within(self.step_s, 1e9, longest_s=self.longest_s)

    def plan(self, view: View) -> Agenda:
        """The solution's machines and their steps, or nobody for a while."""
        carbon = carbon_of(view, self)
        self._turn(view)
        everyone = list(view.idle)
        fleet, there = self.fleet(view, carbon, everyone)
        self.active.update(there)
        self._exclude(view)
        nodes = [node for node in there if node not in self.excluded]
        rows = np.array([everyone.index(node) for node in nodes], dtype=np.int64)
        found = fedzero(fleet.of(rows), self.k) if len(nodes) >= self.k else None
        if found is None:
            return Agenda(frozenset(), view.now_s + self.every_s)
        chosen = [i for i, take in enumerate(found.chosen) if take]
        steps = {nodes[i]: max(1, round(float(found.batches[i].sum()))) for i in chosen}
        settings: dict[int, dict[str, int | float]]
        settings = {node: {"local-steps": count} for node, count in steps.items()}
        return Agenda(frozenset(steps), view.now_s + self.every_s, settings)

    def fleet(
        self, view: View, carbon: CarbonOutlook, nodes: Sequence[int]
    ) -> tuple[Fleet, list[int]]:  # fmt: skip
        """The problem's numbers for these nodes, and those whose zone has excess power now."""
        steps = math.ceil(self.longest_s / self.step_s)
        zones = sorted({carbon.zones[node] for node in view.profiles})
        first = {carbon.zones[node]: node for node in sorted(view.profiles, reverse=True)}
        power = self._excess_w(view, carbon, [first[zone] for zone in zones])
        at = [(view.now_s + self.step_s * t) / HOUR_S - carbon.slot for t in range(steps)]
        energy = power[:, [min(int(h), power.shape[1] - 1) for h in at]] * self.step_s
        batch = np.array([mean_batch(view, node, self.batch_size) for node in nodes])
        rate = np.array([view.profiles[node].rate for node in nodes])
        watts = np.array([view.profiles[node].train_w for node in nodes])
        spare = np.zeros((len(nodes), steps))
        for t in range(steps):
            spare[:, t] = rate / batch * self.step_s * view.outlook.p_on(nodes, self.step_s * t)
        epoch = self._epochs(view, nodes)
        domain = np.array([zones.index(carbon.zones[node]) for node in nodes], dtype=np.int64)
        there = [node for node, p in zip(nodes, domain, strict=True) if energy[p, 0] > 0.0]
        # A machine that draws nothing is free; the program divides by its joules.
        joules = np.maximum(watts / np.maximum(rate, 1e-12) * batch, 1e-9)
        return Fleet(
            spare, energy, domain, joules, self.min_epochs * epoch, self.max_epochs * epoch,
            oort_utilities(view, nodes, unknown="size"),
        ), there  # fmt: skip

    def _excess_w(self, view: View, carbon: CarbonOutlook, of: Sequence[int]) -> Floats:
        """Excess power of each zone in the hours that a round may touch, W, [zones, hours]."""
        hours = math.ceil(self.longest_s / HOUR_S) + 1
        expected, past = carbon.forecast(of, hours), carbon.past(of, WEEK)
        limit = np.quantile(past, self.clean, axis=1, method="inverted_cdf")
        watts = dict.fromkeys((carbon.zones[node] for node in of), 0.0)
        for node, device in view.profiles.items():
            watts[carbon.zones[node]] += device.train_w
        total = np.array([watts[carbon.zones[node]] for node in of])
        return np.where(expected <= limit[:, None], self.excess * total[:, None], 0.0)

    def _epochs(self, view: View, nodes: Sequence[int]) -> Floats:
        """Batches of one pass; the mean of the known, or one batch, where it is not known."""
        sizes = [view.past(node).examples for node in nodes]
        known = [n for n in sizes if n]
        typical = float(np.mean(known)) if known else float(self.batch_size)
        return np.array([math.ceil((n or typical) / self.batch_size) for n in sizes], float)

    def _turn(self, view: View) -> None:
        """Every 24 hours: what a fair share of participation is, by those that could take part."""
        if view.now_s >= self.cycle_s + DAY_S and self.active:
            self.fair = float(np.mean([view.past(node).completed for node in self.active]))
            self.cycle_s, self.active = view.now_s, set()

    def fair_share(self, view: View) -> float:
        """Participations up to which a machine is surely released."""
        late_s = view.now_s - self.cycle_s - 0.5 * DAY_S
        if late_s < 0.0 or not self.active:
            return self.fair
        today = float(np.mean([view.past(node).completed for node in self.active]))
        return self.fair + (today - self.fair) * min(1.0, late_s / (0.5 * DAY_S))

    def _exclude(self, view: View) -> None:
        """Exclude the last participants and release by chance, anew at every look."""
        if not self.alpha or not self.last:
            return
        nodes = sorted(view.profiles)
        draws = view.rng(f"schedule.{self.looks}").random(len(nodes))
        self.looks += 1
        out = fedzero_excluded(
            [node in self.excluded for node in nodes], [node in self.last for node in nodes],
            oort_utilities(view, nodes, unknown="size"),
            [view.past(node).completed for node in nodes], factor=self.factor, alpha=self.alpha,
            mean=self.fair_share(view), draws=draws,
        )  # fmt: skip
        self.excluded = {node for node, sits in zip(nodes, out, strict=True) if sits}

    def learn(self, view: View, updates: Mapping[int, Vector]) -> None:
        """Note who took part; rounds in which nobody did change nothing."""
        if updates:
            self.last, self.looks = set(updates), 0

    def state(self) -> dict[str, Any]:
        """Who sits out, who took part last, and the day's count."""
        return {
            "excluded": sorted(self.excluded), "active": sorted(self.active),
            "last": sorted(self.last), "looks": self.looks, "cycle_s": self.cycle_s,
            "fair": self.fair,
        }  # fmt: skip

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.excluded, self.active = set(saved["excluded"]), set(saved["active"])
        self.last, self.looks = set(saved["last"]), int(saved["looks"])
        self.cycle_s, self.fair = float(saved["cycle_s"]), float(saved["fair"])
