r"""Which protection each client gets: shielded, encrypted, noised or plain, or no work at all.

With x_ip = 1 if client i works under protection p, and T the time that the round takes,

.. math::
    \min_{x, T}\; w_T T + \sum_{ip} (w_r r_{ip} + w_e e_{ip}) x_{ip}

subject to: at most one protection a client, and only one that its trust level permits; every
chosen client done within T; enough expected replies; at most so many clients; a bound on the mean
risk; a least share of clients with an identity in hardware; and of those whose protection hides
them only among others (encryption), none or at least m. With one such client among plain ones, the
opened sum would be that client's update.

T is not put into the program, where it makes relaxations worthless: it is one of the clients'
times, the rest of the cost only falls as T grows, and so a bisection over T with these bounds ends
with the optimum (`solve`). Each step is an integer program (`strategies.placement_program`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedhive.errors import UserError
from strategies.placement_program import NOBODY, Program, cheapest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
JOULES_PER_KWH = 3.6e6
HARDWARE = 2
"""The trust level from which an identity costs its owner a chip."""


@dataclass(frozen=True)
class Plan:
    """A protection, as far as choosing it goes.

    Args:
        name: ``shielded``, ``encrypted``, ``noised``, ``plain`` or one's own.
        level: trust level that a client needs for it, 0 to 4.
        exposure: share of what a client's update tells that its likeliest reader still learns.
        compute: training takes so many times as long as in the plain.
        traffic: so many times as many bytes are sent as in the plain.
        accuracy_loss: what a reply under it is worth less, 0 to 1; counts against ``replies``.
        cohort: hides a client only among others under the same plan.
    """

    name: str
    level: int
    exposure: float
    compute: float = 1.0
    traffic: float = 1.0
    accuracy_loss: float = 0.0
    cohort: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 4:
            raise UserError(f"plan {self.name}: level must be 0 to 4, got {self.level}")
        if not (0.0 <= self.exposure <= 1.0 and 0.0 <= self.accuracy_loss <= 1.0):
            raise UserError(f"plan {self.name}: exposure and accuracy_loss must be 0 to 1")
        if not (self.compute > 0.0 and self.traffic > 0.0):
            raise UserError(f"plan {self.name}: compute and traffic must be above 0")


@dataclass(frozen=True)
class Clients:
    """What is known of the clients, all arrays [n].

    Args:
        level: trust level, 0 to 4.
        available: probability of replying.
        compute_s: seconds of training in the plain.
        transfer_s: seconds of receiving and sending in the plain.
        train_w: power of training, W.
        comm_w: power of communication, W.
        g_per_kwh: carbon intensity of its electricity.
        sensitivity: how much harm its data would do if it leaked; 1 for usual data.
    """

    level: Ints
    available: Floats
    compute_s: Floats
    transfer_s: Floats
    train_w: Floats
    comm_w: Floats
    g_per_kwh: Floats
    sensitivity: Floats

    def __post_init__(self) -> None:
        n = len(self.level)
        for name in Clients.__dataclass_fields__:
            value = np.asarray(getattr(self, name))
            if value.shape != (n,):
                raise ValueError(f"{name} must have shape ({n},), got {value.shape}")
            if not (np.isfinite(value).all() and (value >= 0).all()):
                raise ValueError(f"{name} must be finite and not negative")
        if n and (self.available.max() > 1.0 or self.level.max() > 4):
            raise ValueError("available must be at most 1 and level at most 4")

    def __len__(self) -> int:
        return len(self.level)


@dataclass(frozen=True)
class Rules:
    """What must hold.

    Args:
        replies: expected number of replies at least, each worth 1 less its accuracy loss.
        most: clients at most; None for no limit.
        risk: mean risk of the chosen at most; None for no limit.
        hardware: share of the chosen with an identity in hardware, at least.
        cohort: of the clients that a plan hides among others, none or at least so many.
        deadline_s: the round may take so long.
    """

    replies: float = 1.0
    most: int | None = None
    risk: float | None = None
    hardware: float = 0.0
    cohort: int = 3
    deadline_s: float = math.inf


@dataclass(frozen=True)
class Prices:
    """What things are worth against each other.

    Args:
        second: of the round.
        risk: of one client whose whole update is read.
        gram: of CO2e.
        doubt: risk that a client of each level adds whatever protects it, by level 0 to 4: that
            it is not what it says.
    """

    second: float = 0.01
    risk: float = 1.0
    gram: float = 0.1
    doubt: tuple[float, ...] = (0.2, 0.1, 0.05, 0.02, 0.01)


@dataclass(frozen=True)
class Assignment:
    """What `solve` found.

    Args:
        plan: number of each client's plan, -1 for no work, int64 [n].
        seconds: the round takes.
        risk: of all chosen clients together.
        grams: CO2e of all chosen clients together.
        cost: the objective.
        bound: no assignment costs less than this.
        programs: integer or linear programs solved.
    """

    plan: Ints
    seconds: float
    risk: float
    grams: float
    cost: float
    bound: float
    programs: int

    @property
    def gap(self) -> float:
        """How far the cost may be above the least possible, as a share of it."""
        return max(0.0, self.cost - self.bound) / max(abs(self.cost), 1e-12)


class Infeasible(UserError):
    """No assignment keeps the rules; says which of them are in the way."""


@dataclass(frozen=True)
class Instance:
    """Clients, plans, rules and prices together.

    Args:
        clients: who there is.
        plans: what each may get.
        rules: what must hold.
        prices: what is minimised.
    """

    clients: Clients
    plans: Sequence[Plan]
    rules: Rules = field(default_factory=Rules)
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        if not self.plans or len({plan.name for plan in self.plans}) < len(self.plans):
            raise UserError("plans must be at least one, each with a name of its own")
        if len(self.prices.doubt) != 5:
            raise UserError("prices.doubt must hold five numbers, one a level")

    def seconds(self) -> Floats:
        """Time of each client under each plan, [n, p]."""
        who = self.clients
        compute = np.array([plan.compute for plan in self.plans])
        traffic = np.array([plan.traffic for plan in self.plans])
        return np.asarray(who.compute_s[:, None] * compute + who.transfer_s[:, None] * traffic)

    def risks(self) -> Floats:
        """Risk of each client under each plan, [n, p]."""
        exposure = np.array([plan.exposure for plan in self.plans])
        doubt = np.array(self.prices.doubt)[self.clients.level]
        return np.asarray(self.clients.sensitivity[:, None] * exposure + doubt[:, None])

    def grams(self) -> Floats:
        """Emissions of each client under each plan, gCO2e, [n, p]."""
        who = self.clients
        compute = np.array([plan.compute for plan in self.plans])
        traffic = np.array([plan.traffic for plan in self.plans])
        joules = (who.compute_s * who.train_w)[:, None] * compute
        joules = joules + (who.transfer_s * who.comm_w)[:, None] * traffic
        return np.asarray(joules / JOULES_PER_KWH * who.g_per_kwh[:, None])

    def permitted(self) -> NDArray[np.bool_]:
        """Which plans each client's level permits in time, [n, p]."""
        least = np.array([plan.level for plan in self.plans])
        in_time = self.seconds() <= self.rules.deadline_s
        return np.asarray((self.clients.level[:, None] >= least) & in_time)

    def program(self) -> Program:
        """Everything but T."""
        risks, rules = self.risks(), self.rules
        worth = 1.0 - np.array([plan.accuracy_loss for plan in self.plans])
        n, p = risks.shape
        trusted = (self.clients.level >= HARDWARE).astype(float)[:, None]
        rows = {"replies": (-self.clients.available[:, None] * worth, -rules.replies)}
        if rules.risk is not None:
            rows["risk"] = risks - rules.risk, 0.0
        if rules.hardware > 0.0:
            rows["hardware"] = np.broadcast_to(rules.hardware - trusted, (n, p)), 0.0
        if rules.most is not None:
            rows["most"] = np.ones((n, p)), float(rules.most)
        return Program(
            cost=self.prices.risk * risks + self.prices.gram * self.grams(),
            allowed=self.permitted(),
            rows=rows,
            cohort=np.array([plan.cohort for plan in self.plans]),
            least=rules.cohort,
        )


def solve(
    instance: Instance, exact_up_to: int = 1000, most_steps: int | None = None, gap: float = 5e-3
) -> Assignment:
    """The cheapest assignment that keeps the rules.

    Up to ``exact_up_to`` clients each step is an integer program solved to the end, and the result
    is optimal. Above, each is a linear program whose few fractional clients are settled by a small
    integer program; the search ends when cost and bound are within ``gap``.

    Args:
        instance: what is given.
        exact_up_to: number of clients.
        most_steps: times to solve for at most; None for as many as it takes up to ``exact_up_to``
            clients, and for 12 above. The result tells its bound in any case.
        gap: good enough, above ``exact_up_to`` clients.

    Raises:
        Infeasible: if nothing keeps the rules, naming those in the way.
    """
    exact = len(instance.clients) <= exact_up_to
    steps = most_steps if most_steps is not None else (10**9 if exact else 12)
    search = _Search(instance, exact)
    best, bound = search.run(steps, 1e-9 if exact else gap)
    if best is None:
        raise Infeasible(_reason(instance, exact))
    return replace(best, bound=min(bound, best.cost))


class _Search:
    """Bisection over the round's time, the interval with the lowest bound first.

    What a time costs at least is known cheaply from the prices (dual values) that programs at
    other times have given; only where that is not enough to rule it out, a program is solved.
    """

    def __init__(self, instance: Instance, exact: bool) -> None:
        self.instance, self.exact = instance, exact
        self.program, self.seconds = instance.program(), instance.seconds()
        self.risks, self.grams = instance.risks(), instance.grams()
        self.times = np.unique(self.seconds[self.program.allowed])
        self.price = instance.prices.second
        self.best: Assignment | None = None
        self.programs = 0
        self.values: dict[int, float] = {}  # the rest of the cost, at least, by number of the time
        self.duals: list[Floats] = []

    def run(self, steps: int, gap: float) -> tuple[Assignment | None, float]:
        """The best found with so many times solved for, and a bound on all."""
        if not len(self.times):
            return self._nobody()
        last = len(self.times) - 1
        self._look(last, gap)
        # Open intervals (bound, low, high): times strictly between have not been looked at.
        queue = [(self._floor(-1, last), -1, last)]
        while queue and len(self.duals) < steps:
            bound, low, high = heapq.heappop(queue)
            if self._settled(bound, gap):
                heapq.heappush(queue, (bound, low, high))
                break
            if high - low < 2:
                continue
            middle = (low + high) // 2
            self._look(middle, gap)
            for pair in ((low, middle), (middle, high)):
                if math.isfinite(self.values[pair[1]]):
                    heapq.heappush(queue, (self._floor(*pair), *pair))
        seen = [self.price * self.times[i] + value for i, value in self.values.items()]
        return self.best, min([*seen, *(entry[0] for entry in queue if entry[2] - entry[1] > 1)])

    def _floor(self, low: int, high: int) -> float:
        """No time between costs less: it is later than ``low``, the rest at least as ``high``."""
        return float(self.price * self.times[low + 1] + self.values[high])

    def _settled(self, bound: float, gap: float) -> bool:
        return self.best is not None and self.best.cost - bound <= gap * abs(self.best.cost)

    def _look(self, index: int, gap: float) -> None:
        """Bound the rest of the cost within a time; solve for it unless that rules it out."""
        allowed = self.program.allowed & (self.seconds <= self.times[index])
        program = replace(self.program, allowed=allowed)
        value = max((program.dual_bound(duals) for duals in self.duals), default=-math.inf)
        if not self._settled(self.price * self.times[index] + value, gap):
            found = cheapest(program, self.exact)
            self.programs += found.programs
            value = max(value, found.bound)
            self.duals += [found.duals] if found.duals is not None else []
            if found.plan is not None:
                self._keep(found.plan)
        self.values[index] = value

    def _nobody(self) -> tuple[Assignment | None, float]:
        """Without anybody who may work, only rules that ask for nobody can be kept."""
        if self.instance.rules.replies > 0.0:
            return None, math.inf
        self._keep(np.full(len(self.instance.clients), NOBODY))
        return self.best, 0.0

    def _keep(self, plan: Ints) -> None:
        who = np.flatnonzero(plan != NOBODY)
        cells = who, plan[who]
        seconds = float(self.seconds[cells].max(initial=0.0))
        cost = float(self.program.cost[cells].sum()) + self.price * seconds
        if self.best is None or cost < self.best.cost:
            risk, grams = float(self.risks[cells].sum()), float(self.grams[cells].sum())
            self.best = Assignment(plan, seconds, risk, grams, cost, cost, self.programs)
        self.best = replace(self.best, programs=self.programs)


RELAXED = {
    "replies": {"replies": 0.0}, "most": {"most": None}, "risk": {"risk": None},
    "hardware": {"hardware": 0.0}, "cohort": {"cohort": 0}, "deadline_s": {"deadline_s": math.inf},
}  # fmt: skip


def _reason(instance: Instance, exact: bool) -> str:
    """Which rules, dropped alone, would make an assignment possible."""
    culprits = []
    for name, without in RELAXED.items():
        rules = replace(instance.rules, **without)  # type: ignore[arg-type]
        if rules == instance.rules:
            continue
        program = replace(instance, rules=rules).program()
        if name == "replies" or cheapest(program, exact).plan is not None:
            culprits.append(name)
    keep = [name for name in culprits if name != "replies"]
    if keep:
        return f"no assignment keeps all rules; one would without {' or without '.join(keep)}"
    expected = float(instance.clients.available.sum())
    return (
        f"no assignment keeps all rules: {len(instance.clients)} clients with {expected:.1f} "
        f"expected replies cannot give {instance.rules.replies:g} under the others"
    )
