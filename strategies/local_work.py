"""How much each node trains before it replies (group ``local_work``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from strategies.view import View

Settings = dict[str, int | float]


class LocalWork(Protocol):
    """Decides the amount of local training."""

    def settings(self, view: View, node: int) -> Settings:
        """``{"local-epochs": passes}`` or ``{"local-steps": steps}`` for one node.

        ``"batch-size"`` may be added, in place of the client's own.
        """
        ...


@runtime_checkable
class Fitted(Protocol):
    """Local work that is cheaper to decide for many nodes at once than one by one."""

    def steps_for(self, view: View, nodes: Sequence[int]) -> list[int]:
        """Optimiser steps of each node."""
        ...


def planned_samples(
    work: LocalWork, view: View, nodes: Sequence[int], batch_size: int
) -> list[float]:
    """Samples that each node would train on, counted with repetition.

    Where a pass is asked of a node whose number of examples is unknown, the mean of the known
    stands in for it, one batch if none is.
    """
    if isinstance(work, Fitted):
        steps = work.steps_for(view, nodes)
        return [s * mean_batch(view, n, batch_size) for s, n in zip(steps, nodes, strict=True)]
    known = [n for node in nodes if (n := view.past(node).examples) is not None]
    typical = sum(known) / len(known) if known else float(batch_size)
    samples = []
    for node in nodes:
        settings: Mapping[str, int | float] = work.settings(view, node)
        if "local-steps" in settings:
            size = settings.get("batch-size") or mean_batch(view, node, batch_size)
            samples.append(settings["local-steps"] * size)
        else:
            own = view.past(node).examples
            samples.append(settings["local-epochs"] * (typical if own is None else own))
    return samples


def mean_batch(view: View, node: int, batch_size: int) -> float:
    """Samples of an average step: an epoch's last batch holds what is left."""
    n = view.past(node).examples
    return float(batch_size) if not n else n / math.ceil(n / batch_size)


def pace(view: View, node: int) -> tuple[float, float] | None:
    """(seconds for both transfers, seconds for each sample); None if nothing is known."""
    start, one = view.seconds(node, 0.0), view.seconds(node, 1.0)
    return None if start is None or one is None else (start, one - start)


@dataclass(frozen=True)
class Epochs:
    """The same number of passes over its own data for every node.

    Args:
        epochs: passes; may be fractional.
    """

    epochs: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.epochs < 1e6:
            raise ValueError(f"epochs must be above 0, got {self.epochs}")

    def settings(self, view: View, node: int) -> Settings:
        """The fixed number of passes."""
        return {"local-epochs": float(self.epochs)}


@dataclass(frozen=True)
class Steps:
    """The same number of optimiser steps for every node.

    Args:
        steps: steps of one batch each.
    """

    steps: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def settings(self, view: View, node: int) -> Settings:
        """The fixed number of steps."""
        return {"local-steps": self.steps}
