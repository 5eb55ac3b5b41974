r"""Our schedule: a plan of crews and hours that is made anew before every round.

See `Rolling` for the objective. The functions here are pure; `Rolling` gives them what the view
knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedhive.world.carbon_forecast import HOUR_S
from strategies.local_work import LocalWork, planned_samples
from strategies.schedule import (
    LOOK_S,
    Agenda,
    Floats,
    carbon_of,
    grams_per_kwh,
    oort_utilities,
    task_joules,
)
from strategies.selection import at_least_one, within
from strategies.selection_predictive import stay_probability
from strategies.view import View

Vector = NDArray[np.float32]
LONGEST_H, DAY_H = 168, 24
AHEAD_H = (1, 2, 3, 4, 6, 8, 12, 18, 24)
"""Hours ahead for which presence is forecast; in between the last of them holds."""
ROUNDING = 1e-9
CAPS = 8
"""Limits on a round's length that are tried."""


@dataclass(frozen=True)
class Prospect:
    """What planning goes by: n machines, t slots of an hour, the present one first.

    Args:
        worth: expected progress that each machine adds in a round, in parts of a full round's,
            [n, t]; 0 where it cannot be there.
        grams: expected emissions of its task, [n, t].
        there: expected presence, 0 to 1, [n, t].
        seconds: duration of its task, [n].
    """

    worth: Floats
    grams: Floats
    there: Floats
    seconds: Floats


@dataclass(frozen=True)
class Crews:
    """For each slot, the crews worth comparing: ``caps`` round lengths times n prefixes.

    Args:
        progress: of a round, [caps, t, n].
        grams: of a round, [caps, t, n]; infinite where there is no such crew.
        rounds: in an hour, [caps].
        order: machines in the order in which crews take them, [caps, t, n].
    """

    progress: Floats
    grams: Floats
    rounds: Floats
    order: NDArray[np.int64]


@dataclass(frozen=True)
class Best:
    """What is best at a price of progress.

    Args:
        value: grams that an hour of each slot's best crew is worth beyond its cost, [t].
        crew: its place among the crews, flat index into [caps, n], [t].
        progress: that it makes in its hour, [t]; 0 in slots that are not worth it.
        grams: that it emits in its hour, [t].
    """

    value: Floats
    crew: NDArray[np.int64]
    progress: Floats
    grams: Floats


def crews(
    prospect: Prospect, *, power: float, least: int, hourly: float = math.inf
) -> Crews:  # fmt: skip
    """All crews that may be best: by length of the round, the machines of most worth a gram.

    For a limit on the round's length, progress is (sum of worth) ** ``power``, a concave function
    of a sum, and grams are a sum: whatever the price, no set beats by more than its last machine
    the one that takes machines by falling worth per gram.

    Args:
        prospect: the machines.
        power: above 0 to 1.
        least: expected machines of a crew at least; where fewer are there, all of them.
        hourly: rounds in an hour at most.
    """
    n, t = prospect.worth.shape
    ranks = np.unique(np.linspace(0, n - 1, min(CAPS, n)).round().astype(np.int64))
    caps = np.unique(np.sort(prospect.seconds)[ranks])
    shape = len(caps), t, n
    progress, grams, order = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
    enough = np.minimum(least, (prospect.there * (prospect.worth > 0.0)).sum(0)) - ROUNDING
    for j, cap in enumerate(caps):
        fits = (prospect.seconds <= cap)[:, None] & (prospect.worth > 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(fits, prospect.worth / prospect.grams, -1.0)
        rate = np.where(fits & (prospect.grams <= 0.0), np.inf, rate)
        order[j] = np.argsort(-rate, axis=0, kind="stable").T
        took = np.take_along_axis(fits.T, order[j], 1)
        sums = [
            np.cumsum(np.where(took, np.take_along_axis(x.T, order[j], 1), 0.0), axis=1)
            for x in (prospect.worth, prospect.grams, prospect.there)
        ]
        progress[j] = sums[0] ** power
        grams[j] = np.where(took & (sums[2] >= enough[:, None]), sums[1], np.inf)
    return Crews(progress, grams, np.minimum(HOUR_S / caps, hourly), order)


def best(made: Crews, delay_g: Floats, price: float) -> Best:
    """The best crew of each slot, and what comes of it, if progress is worth ``price`` grams.

    Args:
        made: the crews.
        delay_g: price of a round's delay until each slot, grams, [t].
        price: grams that a full round's progress is worth.
    """
    net = price * made.progress - made.grams - delay_g[:, None]
    hourly = (net * made.rounds[:, None, None]).transpose(1, 0, 2).reshape(len(delay_g), -1)
    crew = np.asarray(np.argmax(hourly, axis=1), dtype=np.int64)
    slots, n = np.arange(len(delay_g)), made.progress.shape[2]
    value = hourly[slots, crew]
    cap, prefix = crew // n, crew % n
    used = value > 0.0
    rounds = made.rounds[cap]
    progress = np.where(used, rounds * made.progress[cap, slots, prefix], 0.0)
    spent = np.where(used, made.grams[cap, slots, prefix], 0.0)
    return Best(value, crew, progress, np.where(used, rounds * spent, 0.0))


def price_of(
    made: Crews, delay_g: Floats, work: float, budget_g: float, start: float
) -> float:  # fmt: skip
    """The least price at which ``work`` full rounds are made or the budget is spent.

    Args:
        made: the crews.
        delay_g: price of a round's delay until each slot, grams, [t].
        work: progress to make, full rounds.
        budget_g: grams that may be emitted; infinite for no limit.
        start: any price above 0, best near the answer.
    """

    def enough(price: float) -> bool:
        found = best(made, delay_g, price)
        return float(found.progress.sum()) >= work or float(found.grams.sum()) > budget_g

    low, high = start, start
    for _ in range(60):
        if enough(high):
            break
        low, high = high, 2.0 * high
    else:
        return high  # all that can be done is too little: as fast as possible
    for _ in range(60):
        if not enough(low):
            break
        low, high = 0.5 * low, low
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def affordable(found: Best, budget_g: float) -> NDArray[np.bool_]:
    """The used slots that the budget is for, [t]: by falling value a gram until it is spent.

    Among equals the earlier go first; the last of them may be paid for in part.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(found.grams > 0.0, found.value / found.grams, np.inf)
    order = np.argsort(-rate, kind="stable")
    order = order[found.value[order] > 0.0]
    before = np.cumsum(found.grams[order]) - found.grams[order]
    kept = np.zeros(len(found.value), dtype=bool)
    kept[order[before < budget_g]] = True
    return kept


@dataclass
class Rolling:
    r"""Re-plans before every round: which crew in which hour until the deadline.

    Objective. With crews :math:`S_t` and numbers of rounds :math:`n_t` for the hours t that are
    left until the deadline,

    .. math:: \min \sum_t n_t \big(G(S_t, t) + \kappa h_t\big) \quad \text{s.t.} \quad
       \sum_t n_t V(S_t, t) \ge W,\; \sum_t n_t G(S_t, t) \le B,\;
       n_t \le \min(1\,\text{h} / D(S_t), m)

    * :math:`V = (\sum_{i \in S} a_{it} s_i u_i / k)^\beta`: expected progress of a round in parts
      of a full one, that of k average machines: a is the forecast chance that machine i is there,
      s that it stays for its task, u its utility over the mean: Oort's statistical utility,
      which comes from its last reply, times ((1 + mean participations) / (1 + its own))^f, as the
      same machines' data bring less each time.
    * :math:`G = \sum_{i \in S} a_{it} e_i c_{it}`: expected grams, by the joules of its task and
      the forecast intensity; work that is lost emits all the same.
    * :math:`D`: the longest of the crew's tasks. :math:`h_t`: hours until t, each of which costs a
      round :math:`\kappa` grams: the price for delay. m: ``hourly``.
    * W: what is left of the ``rounds`` that training is expected to take. B: what is left of the
      carbon budget.

    Rule. With a price :math:`\nu` of progress in grams (the multiplier of W), slots no longer
    depend on each other: each takes the crew that maximises
    :math:`n_t (\nu V - G - \kappa h_t)`, and is used if that is above 0. The least :math:`\nu`
    that does the work is found by bisection; where the budget does not reach so far, it goes to
    the hours of most value a gram. If the present hour is used its crew is asked, else the next
    hour is awaited. Everything is then planned anew: forecasts, utilities, and the work that is
    left have changed.

    Nobody knows how many rounds training takes. Work that is behind the average pace, ``rounds``
    over ``deadline_h``, has to be done by the deadline, and one that cannot be met drives
    :math:`\nu` up until crews are those of most progress an hour, whatever they emit. Otherwise,
    and after the deadline, W is what the average pace makes until the deadline, at least in a day:
    training that goes well does not rest, and training that takes longer goes on in clean hours.

    Args:
        work: how much each machine would train; the run's local work.
        batch_size: samples of a step, the client's.
        rounds: full rounds that training is expected to take.
        deadline_h: hours in which to make them.
        delay_price: kappa: grams that an hour's delay costs a round, as a share of what a round
            of k average machines would emit in their dirtiest hours.
        budget_g: grams for the whole training; null for no limit.
        k: machines of a full round.
        least: machines of a crew at least, if so many are there.
        hourly: rounds in an hour that a plan counts on at most: many short rounds of the same few
            machines would look better than they are. There may be more.
        power: beta: above 0 to 1; small values make small crews.
        fairness: exponent f, 0 or more; 0 for utility alone.
    """

    work: LocalWork
    batch_size: int = 32
    rounds: float = 50.0
    deadline_h: float = 72.0
    delay_price: float = 0.005
    budget_g: float | None = None
    k: int = 10
    least: int = 5
    hourly: float = 2.0
    power: float = 0.5
    fairness: float = 0.5
    chooses: ClassVar[bool] = True
    forecasts: ClassVar[bool] = True
    done: float = field(default=0.0, init=False, repr=False)
    spent_g: float = field(default=0.0, init=False, repr=False)
    utility: dict[int, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(batch_size=self.batch_size, k=self.k, least=self.least)
        within(1e-6, 1e9, rounds=self.rounds, deadline_h=self.deadline_h)
        within(0.0, 1e6, delay_price=self.delay_price)
        within(1e-3, 1e6, hourly=self.hourly)
        within(1e-3, 1.0, power=self.power)
        within(0.0, 10.0, fairness=self.fairness)
        if self.budget_g is not None:
            within(0.0, 1e15, budget_g=self.budget_g)

    def plan(self, view: View) -> Agenda:
        """The crew of this hour, or nobody until the next."""
        slots, work = self.outstanding(view.now_s)
        nodes = sorted(view.profiles)
        prospect = self.prospect(view, nodes, slots)
        next_s = carbon_of(view, self).start_s(1)
        if not (prospect.worth[:, 0] > 0.0).any():
            return Agenda(frozenset(), view.now_s + LOOK_S)
        made = crews(prospect, power=self.power, least=self.least, hourly=self.hourly)
        # Each machine's dirtiest hour, so that the price does not change with the time of day.
        round_g = self.k * float(prospect.grams.max(initial=0.0, axis=1).mean())
        delay_g: Floats = self.delay_price * round_g * np.arange(slots, dtype=np.float64)
        budget = math.inf if self.budget_g is None else self.budget_g - self.spent_g
        price = price_of(made, delay_g, work, budget, max(round_g, 1e-12))
        found = best(made, delay_g, price)
        cap, prefix = divmod(int(found.crew[0]), len(nodes))
        chosen = made.order[cap, 0, : prefix + 1]
        grams = float(prospect.grams[chosen, 0].sum())
        if not affordable(found, budget)[0] or grams > budget:
            return Agenda(frozenset(), next_s)
        self.spent_g += grams
        return Agenda(frozenset(nodes[i] for i in chosen), view.now_s + LOOK_S)

    def outstanding(self, now_s: float) -> tuple[int, float]:
        """Hours to plan for, and full rounds to make in them."""
        left_h, pace = self.deadline_h - now_s / HOUR_S, self.rounds / self.deadline_h
        work = self.rounds - self.done
        if left_h > 0.0 and work > pace * left_h * (1.0 + ROUNDING):
            slots = min(LONGEST_H, math.ceil(left_h))
            return slots, max(work * min(1.0, slots / left_h), pace)
        slots = min(LONGEST_H, max(DAY_H, math.ceil(left_h)))
        return slots, max(pace * slots, work if left_h <= 0.0 else 0.0)

    def prospect(self, view: View, nodes: list[int], slots: int) -> Prospect:
        """What the view promises of these nodes."""
        carbon = carbon_of(view, self)
        samples = planned_samples(self.work, view, nodes, self.batch_size)
        tasks = list(zip(nodes, samples, strict=True))
        seconds = np.array([view.seconds(node, s) or 1.0 for node, s in tasks])
        joules = np.array([task_joules(view.profiles[n], view.model_bytes, s) for n, s in tasks])
        there = self._presence(view, nodes, slots)
        stays = stay_probability(view, nodes, seconds)
        online = np.isin(nodes, view.online)
        typical = float(stays[online].mean()) if online.any() else 1.0
        stays = np.where(online, stays, typical)
        utility = oort_utilities(view, nodes) * self._seldom(view, nodes)
        utility = utility / utility.mean() if utility.mean() > 0.0 else np.ones(len(nodes))
        self.utility = dict(zip(nodes, utility.tolist(), strict=True))
        grams = grams_per_kwh(joules, carbon.forecast(nodes, slots))
        return Prospect(there * (stays * utility)[:, None] / self.k, there * grams, there, seconds)

    def _seldom(self, view: View, nodes: list[int]) -> Floats:
        """More than 1 for machines that took part less than the mean, less for others, [n]."""
        took_part = np.array([1.0 + view.past(node).completed for node in nodes])
        return np.asarray((took_part.mean() / took_part) ** self.fairness)

    def _presence(self, view: View, nodes: list[int], slots: int) -> Floats:
        """Chance that each node can be asked in each slot; now it can or it cannot, [n, t]."""
        there = np.zeros((len(nodes), slots))
        there[:, 0] = np.isin(nodes, view.idle)
        for t in range(1, slots):
            if t in AHEAD_H:
                there[:, t] = view.outlook.p_on(nodes, HOUR_S * t)
            else:
                there[:, t] = there[:, t - 1]
        return there

    def learn(self, view: View, updates: Mapping[int, Vector]) -> None:
        """Count the progress made."""
        worth = sum(self.utility.get(node, 1.0) for node in updates) / self.k
        self.done += worth**self.power

    def state(self) -> dict[str, Any]:
        """Progress made, grams spent, utilities of the last plan."""
        utility = {str(node): value for node, value in self.utility.items()}
        return {"done": self.done, "spent_g": self.spent_g, "utility": utility}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.done, self.spent_g = float(saved["done"]), float(saved["spent_g"])
        self.utility = {int(node): float(value) for node, value in saved["utility"].items()}
