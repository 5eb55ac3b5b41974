"""Which protection each client of a configured hive would get, for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fedhive import config, seeding
from fedhive.errors import UserError
from strategies.placement_program import NOBODY
from strategies.placement_security import (
    Assignment,
    Clients,
    Instance,
    Plan,
    Prices,
    Rules,
    solve,
)

Ints = NDArray[np.int64]
HORIZON_S = 86_400.0
"""How much of a day each machine is on, and how clean its electricity is over it."""


@dataclass(frozen=True)
class Planned:
    """An instance and its solution.

    Args:
        instance: clients, plans, rules and prices.
        found: the assignment.
    """

    instance: Instance
    found: Assignment

    @property
    def chosen(self) -> list[str | None]:
        """Each client's plan by name, None for no work."""
        names = [plan.name for plan in self.instance.plans]
        return [None if p == NOBODY else names[p] for p in self.found.plan.tolist()]

    def counts(self) -> dict[str, list[int]]:
        """Clients by plan and level; ``no work`` for those that get none."""
        rows = {plan.name: [0] * 5 for plan in self.instance.plans} | {"no work": [0] * 5}
        for name, level in zip(self.chosen, self.instance.clients.level.tolist(), strict=True):
            rows[name or "no work"][level] += 1
        return rows

    def expected_replies(self) -> float:
        """Of the chosen, each worth 1 less its plan's accuracy loss."""
        plans, who = self.instance.plans, self.instance.clients
        pairs = zip(self.found.plan.tolist(), who.available.tolist(), strict=True)
        return float(sum(on * (1.0 - plans[p].accuracy_loss) for p, on in pairs if p != NOBODY))

    def as_json(self) -> str:
        """For scripts, and for ``protection.chosen``."""
        found = self.found
        return json.dumps(
            {
                "chosen": self.chosen, "levels": self.instance.clients.level.tolist(),
                "counts": self.counts(), "seconds": found.seconds, "risk": found.risk,
                "grams": found.grams, "cost": found.cost, "bound": found.bound,
                "gap": found.gap, "programs": found.programs,
                "expected_replies": self.expected_replies(),
            },
            indent=1,
        )  # fmt: skip

    def show(self, console: Console | None = None) -> None:
        """For people."""
        out = console or Console()
        table = Table(
            title="clients by protection and trust level", title_justify="left", box=None
        )
        table.add_column("protection")
        for level in range(5):
            table.add_column(f"level {level}", justify="right")
        table.add_column("all", justify="right")
        for name, counts in self.counts().items():
            table.add_row(name, *(str(n) if n else "-" for n in counts), str(sum(counts)))
        out.print(table)
        found, chosen = self.found, int((self.found.plan != NOBODY).sum())
        lines = (
            f"round: {found.seconds:.1f} s, {found.grams:.3g} g CO2e, "
            f"{self.expected_replies():.1f} replies expected of {chosen} clients",
            f"risk: {found.risk / max(1, chosen):.3f} a client; 1 is an update that is read whole",
            f"cost {found.cost:.4g}, at most {100 * found.gap:.2g} % above the least possible "
            f"({found.programs} programs)",
        )
        for line in lines:
            out.print(line, highlight=False, soft_wrap=True)


def planned(
    cfg: Mapping[str, Any],
    levels: Ints,
    plans: Sequence[Plan],
    rules: Rules,
    prices: Prices,
    work: Mapping[str, float],
) -> Planned:
    """The best assignment for the hive that a configuration describes.

    Args:
        cfg: the composed configuration: ``fleet``, ``availability``, ``carbon``.
        levels: trust level of each machine.
        plans: what each may get.
        rules: what must hold.
        prices: what is minimised.
        work: ``samples`` that a client trains on in a round, ``bytes`` of the model.

    Raises:
        UserError: if nothing keeps the rules, or ``work`` is not told.
    """
    if set(work) != {"samples", "bytes"} or not all(value >= 0 for value in work.values()):
        raise UserError("protection.work must tell samples and bytes, e.g. {samples: 400, ...}")
    n, seed = int(cfg["nodes"]), int(cfg["seed"])
    devices = config.build(cfg["fleet"], "fleet")(n, seeding.stream(seed, "fleet"))
    about = {"nodes": n, "seed": seed, "devices": devices}
    availability = config.build(cfg["availability"], "availability", **about)
    carbon = config.build(cfg["carbon"], "carbon", **about)
    on = [
        sum(b - a for a, b in availability.intervals(i, 0.0, HORIZON_S)) / HORIZON_S
        for i in range(n)
    ]
    zones = {device.zone for device in devices}
    clean = {zone: carbon.mean_g_per_kwh(zone, 0.0, HORIZON_S) for zone in zones}
    size = float(work["bytes"])
    clients = Clients(
        level=np.asarray(levels), available=np.minimum(np.array(on), 1.0),
        compute_s=np.array([d.train_s(work["samples"]) for d in devices]),
        transfer_s=np.array([d.download_s(size) + d.upload_s(size) for d in devices]),
        train_w=np.array([d.train_w for d in devices]),
        comm_w=np.array([d.comm_w for d in devices]),
        g_per_kwh=np.array([clean[d.zone] for d in devices]),
        sensitivity=np.ones(n),
    )  # fmt: skip
    instance = Instance(clients, plans, rules, prices)
    return Planned(instance, solve(instance))
