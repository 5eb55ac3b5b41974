"""What may be claimed about how clients were sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedhive import config
from fedhive.errors import UserError

POISSON = "strategies.selection_poisson.Poisson"


@dataclass(frozen=True)
class Sampling:
    """Whether each client took part by an independent coin that nobody outside the server sees.

    Args:
        rate: probability of heads; None if no amplification by sampling may be claimed.
        why: the reason, in plain words.
    """

    rate: float | None
    why: str


def sampling_of(cfg: Mapping[str, Any]) -> Sampling:
    """What the configured selection amounts to.

    Amplification by sampling needs that every client takes part with probability at most q, by
    coins independent of everything else. Machines that are off when their coin falls only take
    part less. But who is asked must not depend on earlier coins, which is what happens where a
    machine still owes an answer, or a schedule or an expulsion looks back.
    """
    target = _target(cfg, "selection")
    if target != POISSON:
        return Sampling(None, (
            f"no amplification by sampling: selection {_name(target)} does not toss an "
            "independent coin for each client (only selection=poisson does); who takes part is "
            "taken to be known"
        ))  # fmt: skip
    blocks = {
        "schedule": ("strategies.schedule.Now", "who may work follows from the past"),
        "trigger": ("strategies.trigger.All", "a machine that still owes an answer is not asked"),
    }
    for group, (needed, reason) in blocks.items():
        found = _target(cfg, group)
        if found not in (None, needed):
            return Sampling(None, (
                f"no amplification by sampling: with {group} {_name(found)} {reason}, so that "
                "taking part is no independent coin"
            ))  # fmt: skip
    if (cfg.get("containment") or {}).get("max_strikes") is not None:
        return Sampling(None, (
            "no amplification by sampling: with containment.max_strikes, clients that took part "
            "may be expelled, so that taking part is no independent coin"
        ))  # fmt: skip
    rate = float(cfg["selection"]["rate"])
    return Sampling(rate, (
        f"amplified by Poisson sampling: each client takes part in a round by a coin of its own, "
        f"with probability {rate:g}; holds against whoever does not learn who took part"
    ))  # fmt: skip


LOSSY = {"PowerOfChoice", "CAFed", "Oort", "Predictive"}
"""Selections that rank clients by their training loss."""


def refuse_losses(cfg: Mapping[str, Any]) -> None:
    """Refuse a selection that needs clients' exact losses, which are not sent any more.

    Raises:
        UserError: naming it.
    """
    target = _target(cfg, "selection")
    if target is None:
        return
    part = config.locate(target, "selection")
    if part.__name__ in LOSSY or hasattr(part, "probe"):
        raise UserError(
            f"selection {part.__name__} looks at clients' losses, which would tell of their data "
            "what no noise covers: with differential privacy use selection=uniform or poisson"
        )


def _target(cfg: Mapping[str, Any], group: str) -> str | None:
    node = cfg.get(group)
    return str(node["_target_"]) if isinstance(node, Mapping) and "_target_" in node else None


def _name(target: str | None) -> str:
    return "nothing" if target is None else target.rpartition(".")[2]
