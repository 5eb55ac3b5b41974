"""When to train (group ``schedule``): who may work now, and when to look again if nobody may.

A schedule decides before the selection does: the selection picks among the machines that the
schedule lets work. Schedules that ``choose`` pick the machines themselves and want
``selection=all``. Those of papers are in `schedule_published` and `schedule_fedzero`, ours is in
`schedule_rolling`; the rules behind them are pure functions in `scheduling...`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fedhive.errors import UserError
from fedhive.world.carbon import JOULES_PER_KWH
from fedhive.world.carbon_forecast import HOUR_S, CarbonOutlook
from fedhive.world.devices import Device
from strategies.local_work import LocalWork, Settings, planned_samples
from strategies.scheduling import alpha_fair
from strategies.scheduling_rules import threshold
from strategies.selection import at_least_one, within
from strategies.view import View

Floats = NDArray[np.float64]
LOOK_S = 300.0
"""How often to look whether somebody who may work has come, seconds."""


@dataclass(frozen=True)
class Agenda:
    """What a schedule says at one moment.

    Args:
        nodes: who may work now; None for everybody.
        wake_s: when to look again if none of them can be asked; None to go on without waiting.
        settings: work of nodes for which the schedule decides it, in place of ``local_work``.
    """

    nodes: frozenset[int] | None = None
    wake_s: float | None = None
    settings: Mapping[int, Settings] = field(default_factory=dict)

    def allows(self, node: int) -> bool:
        """Whether ``node`` may work now."""
        return self.nodes is None or node in self.nodes


class Schedule(Protocol):
    """Decides who may work in the present slot.

    A schedule may also have ``learn(view, updates)``, called after each round with the accepted
    updates (float32 [P] by node), and ``state() -> dict`` with ``restore(dict)``.
    """

    @property
    def chooses(self) -> bool:
        """Whether it picks the machines itself."""
        ...

    @property
    def forecasts(self) -> bool:
        """Whether it needs a forecast of carbon intensity."""
        ...

    def plan(self, view: View) -> Agenda:
        """Who may work now."""
        ...


@dataclass(frozen=True)
class Now:
    """Everybody, always."""

    chooses: ClassVar[bool] = False
    forecasts: ClassVar[bool] = False

    def plan(self, view: View) -> Agenda:
        """No restriction, no waiting."""
        return Agenda()


@dataclass(frozen=True)
class Threshold:
    """Machines work in the hours in which their electricity is clean enough.

    Args:
        limit_g_per_kwh: work at up to this intensity, the same for all.
        quantile: work at up to this quantile of one's own zone over the hours to come; one of
            the two.
        horizon_h: how many hours are looked at.
    """

    limit_g_per_kwh: float | None = None
    quantile: float | None = 0.5
    horizon_h: int = 24
    chooses: ClassVar[bool] = False
    forecasts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least_one(horizon_h=self.horizon_h)
        if (self.limit_g_per_kwh is None) == (self.quantile is None):
            raise ValueError("set either limit_g_per_kwh or quantile, and the other to null")
        if self.quantile is not None:
            within(0.0, 1.0, quantile=self.quantile)

    def plan(self, view: View) -> Agenda:
        """Those whose present hour is clean enough."""
        carbon = carbon_of(view, self)
        nodes = sorted(view.profiles)
        table = carbon.forecast(nodes, self.horizon_h)
        return agenda(
            threshold(table, limit_g=self.limit_g_per_kwh, quantile=self.quantile),
            nodes, carbon,
        )  # fmt: skip


@dataclass
class AlphaFair:
    """Alpha-fair carbon allocation: slots for every machine, planned once, before training.

    Arputharaj, Rodriguez, Rodio, Neglia: Green Federated Learning via Carbon-Aware Client and
    Time Slot Scheduling, MASCOTS 2025 (`strategies.scheduling.alpha_fair`). The plan says in which
    hours each machine may work; FedAvg then trains with those of them that are on. As in the
    paper, grams are those of an hour of computing and the plan knows nothing of machines that
    leave. Unlike there, intensities are forecast, once, when training begins; the plan is greed's
    unless the problem is tiny; and within an hour rounds follow each other as the run's trigger
    closes them, with those of the hour's machines that are on.

    Args:
        hours: T, hours until the deadline.
        slack_h: how many hours later work may still end.
        fine_tune_h: hours at the end in which all compute.
        alpha: above 0 to 1; small values spread the work over machines.
        budget_share: grams allowed, over what all machines would emit in the first ``hours``.
        budget_g: grams allowed, in place of ``budget_share``.
    """

    hours: int = 48
    slack_h: int = 48
    fine_tune_h: int = 1
    alpha: float = 0.1
    budget_share: float | None = 0.3
    budget_g: float | None = None
    chooses: ClassVar[bool] = False
    forecasts: ClassVar[bool] = True
    slots: dict[int, str] = field(default_factory=dict, init=False, repr=False)
    first: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(hours=self.hours)
        within(0, self.hours, fine_tune_h=self.fine_tune_h)
        within(0, 100_000, slack_h=self.slack_h)
        within(1e-9, 1.0, alpha=self.alpha)
        if (self.budget_share is None) == (self.budget_g is None):
            raise ValueError("set either budget_share or budget_g, and the other to null")

    def plan(self, view: View) -> Agenda:
        """Those who have this hour in the plan; nobody once it is over."""
        carbon = carbon_of(view, self)
        if not self.slots:
            self._allocate(view, carbon)
        nodes = sorted(self.slots)
        at = carbon.slot - self.first
        left = np.array([[int(c) for c in self.slots[node][at:]] for node in nodes])
        return agenda(left.reshape(len(nodes), -1), nodes, carbon)

    def _allocate(self, view: View, carbon: CarbonOutlook) -> None:
        nodes = sorted(view.profiles)
        joules = np.array([view.profiles[node].train_w for node in nodes]) * HOUR_S
        grams = joules[:, None] / JOULES_PER_KWH
        grams = grams * carbon.forecast(nodes, self.hours + self.slack_h)
        budget = self.budget_g
        if budget is None:
            assert self.budget_share is not None
            budget = self.budget_share * float(grams[:, : self.hours].sum())
        chosen = alpha_fair(
            grams, budget_g=budget, alpha=self.alpha, slack=self.slack_h,
            fine_tune=self.fine_tune_h,
        )  # fmt: skip
        self.first = carbon.slot
        rows = ("".join(str(x) for x in row) for row in chosen.tolist())
        self.slots = dict(zip(nodes, rows, strict=True))

    def state(self) -> dict[str, Any]:
        """The plan."""
        return {"first": self.first, "slots": {str(n): row for n, row in self.slots.items()}}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.first = int(saved["first"])
        self.slots = {int(node): str(row) for node, row in saved["slots"].items()}


# ---- what schedules share ---------------------------------------------------------------------


def carbon_of(view: View, schedule: object) -> CarbonOutlook:
    """The view's carbon outlook.

    Raises:
        UserError: if there is none.
    """
    if view.carbon is None:
        raise UserError(
            f"schedule: {type(schedule).__name__} needs the carbon intensity and the declared "
            "power of machines, which this grid does not tell; use schedule=now"
        )
    return view.carbon


def agenda(plan: NDArray[Any], nodes: Sequence[int], carbon: CarbonOutlook) -> Agenda:
    """What a plan of slots, [n, from the present one], says now.

    Where somebody may work but is not there, it is worth looking again soon; where nobody may,
    the next slot in which somebody may is awaited, or the end of the plan.
    """
    now = frozenset(n for n, row in zip(nodes, plan, strict=True) if len(row) and row[0])
    later = np.flatnonzero(plan[:, 1:].any(axis=0)) if plan.size else np.zeros(0, np.int64)
    ahead = int(later[0]) + 1 if len(later) else max(1, plan.shape[1])
    return Agenda(now, carbon.start_s(1 if now else ahead))


def task_joules(device: Device, model_bytes: int, samples: float) -> float:
    """Energy of one task as the ledger charges it: training, both transfers, the network."""
    transfers = device.download_s(model_bytes) + device.upload_s(model_bytes)
    return (
        device.train_w * device.train_s(samples)
        + device.comm_w * transfers
        + device.net_j_per_byte * 2.0 * model_bytes
    )


def expected_joules(
    view: View, work: LocalWork, batch_size: int, nodes: Sequence[int]
) -> Floats:  # fmt: skip
    """Energy of each node's next task, J, [n]."""
    samples = planned_samples(work, view, nodes, batch_size)
    tasks = zip(nodes, samples, strict=True)
    return np.array([task_joules(view.profiles[n], view.model_bytes, s) for n, s in tasks])


def grams_per_kwh(joules: Floats, intensity: Floats) -> Floats:
    """Grams of drawing ``joules`` [n] at ``intensity`` [n] or [n, slots]."""
    kwh = joules / JOULES_PER_KWH
    return np.asarray(intensity * (kwh[:, None] if intensity.ndim == 2 else kwh))


def oort_utilities(view: View, nodes: Sequence[int], unknown: str = "most") -> Floats:
    """Statistical utility n sqrt(mean loss^2) of each node, [n], at least 0.

    Args:
        view: what is known.
        nodes: whose.
        unknown: what nodes that never replied count as: ``most``, the largest known; or ``size``,
            their number of samples (a loss of 1, Oort's convention).
    """
    found = np.full(len(nodes), math.nan)
    sizes = [n for node in nodes if (n := view.past(node).examples) is not None]
    for i, node in enumerate(nodes):
        past = view.past(node)
        loss = past.loss if past.loss_rms is None else past.loss_rms
        if past.examples is not None and loss is not None:
            found[i] = past.examples * loss
    known = found[np.isfinite(found)]
    instead = float(known.max()) if len(known) else 1.0
    if unknown == "size":
        instead = float(np.mean(sizes)) if sizes else 1.0
    return np.where(np.isfinite(found), found, instead)
