"""Which training data the machines hold (group ``placement``).

A part of the training data may be movable: a pool that belongs to nobody, which the server may
deal out. What is sent to a machine is charged to it as bytes and seconds of its next download.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedhive.world.instructions import ROWS, TRANSFER
from strategies.view import View

Rows = NDArray[np.int32]
Settings = dict[str, Any]


class Placement(Protocol):
    """Decides which rows of the training data each machine holds."""

    def prepare(self, rows: int, row_bytes: int) -> None:
        """Told once how many training rows there are and how large one is, bytes."""
        ...

    def settings(self, view: View, nodes: Sequence[int]) -> Mapping[int, Settings]:
        """What to add to the instructions of ``nodes`` so that they get their data."""
        ...

    def awaits(self, node: int, server_round: int) -> bool:
        """Whether the instruction of that round told the node something it had not known."""
        ...

    def arrived(self, node: int, server_round: int) -> None:
        """The node has answered an instruction of that round, so it has what came with it."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from here, as plain data."""
        ...

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""
        ...


@dataclass
class Proportional:
    """All training rows, dealt in proportion to the compute that each machine is expected to give.

    A machine's expected compute is its declared rate x the mean of P(on) over the horizon, by the
    configured forecaster, which knows the past only. Rows are dealt at random, each to one
    machine; when shares are planned anew, machines whose share shrinks give up rows and those
    whose share grows get them, so that little moves.

    Args:
        by: ``compute`` as above; ``rate`` for the declared rate alone; ``equal`` for equal shares.
        horizon_s: how far ahead to look, seconds.
        steps: at how many times within the horizon P(on) is looked at.
        every_s: how often to plan anew, seconds; null for once.
        min_rows: least rows a machine gets.
    """

    by: str = "compute"
    horizon_s: float = 21_600.0
    steps: int = 6
    every_s: float | None = None
    min_rows: int = 32
    _size: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    _held: dict[int, Rows] = field(default_factory=dict, init=False, repr=False)
    _given: dict[int, Rows] = field(default_factory=dict, init=False, repr=False)
    _sent: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False)
    _plans: int = field(default=0, init=False, repr=False)
    _planned_s: float = field(default=-math.inf, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.by not in ("compute", "rate", "equal"):
            raise ValueError(f"by must be compute, rate or equal, got {self.by!r}")
        if not self.horizon_s > 0.0 or self.steps < 1 or self.min_rows < 1:
            raise ValueError("horizon_s, steps and min_rows must be above 0")
        if self.every_s is not None and not self.every_s > 0.0:
            raise ValueError(f"every_s must be above 0 (or null), got {self.every_s}")

    def prepare(self, rows: int, row_bytes: int) -> None:
        """Take note of the size of the training data."""
        self._size = rows, row_bytes

    def settings(self, view: View, nodes: Sequence[int]) -> Mapping[int, Settings]:
        """The rows of those nodes that do not hold theirs yet, and how many bytes are new."""
        if not self._held or self._due(view):
            self._plan(view)
        return {node: self._move(node, view.round) for node in nodes if self._lacks(node)}

    def awaits(self, node: int, server_round: int) -> bool:
        """Whether what was sent to the node in that round is still its share."""
        return self._sent.get(node) == (server_round, self._plans)

    def arrived(self, node: int, server_round: int) -> None:
        """The node holds what was sent to it in that round."""
        if self.awaits(node, server_round):
            self._given[node] = self._held[node]
            del self._sent[node]

    def _due(self, view: View) -> bool:
        unknown = any(node not in self._held for node in self._nodes(view))
        late = self.every_s is not None and view.now_s - self._planned_s >= self.every_s
        return unknown or late

    @staticmethod
    def _nodes(view: View) -> list[int]:
        return sorted({*view.profiles, *view.online, *view.history})

    def _lacks(self, node: int) -> bool:
        held = self._held.get(node)
        return held is not None and self._given.get(node) is not held

    def _move(self, node: int, server_round: int) -> Settings:
        held = self._held[node]
        before = self._given.get(node)
        new = len(held) if before is None else len(np.setdiff1d(held, before))
        self._sent[node] = server_round, self._plans
        return {ROWS: held.tobytes(), TRANSFER: int(new * self._size[1])}

    def _plan(self, view: View) -> None:
        nodes = self._nodes(view)
        sizes = deal(self._worth(view, nodes), self._size[0], self.min_rows)
        rng = view.rng("placement")
        self._held = rearrange(
            dict(zip(nodes, sizes, strict=True)), self._held, self._size[0], rng
        )
        self._plans += 1
        self._planned_s = view.now_s

    def _worth(self, view: View, nodes: Sequence[int]) -> NDArray[np.float64]:
        if self.by == "equal":
            return np.ones(len(nodes))
        known = [view.profiles[n].rate for n in nodes if n in view.profiles]
        usual = float(np.median(known)) if known else 1.0
        rates = np.array([view.profiles[n].rate if n in view.profiles else usual for n in nodes])
        if self.by == "rate":
            return rates
        times = self.horizon_s * (np.arange(self.steps) + 0.5) / self.steps
        on = np.mean([view.outlook.p_on(nodes, float(t)) for t in times], axis=0)
        return np.asarray(rates * np.maximum(on, 1e-3), np.float64)

    def state(self) -> dict[str, Any]:
        """Who holds what."""
        return {
            "held": {str(node): rows.tolist() for node, rows in self._held.items()},
            "given": {
                str(node): None if rows is self._held.get(node) else rows.tolist()
                for node, rows in self._given.items()
            },
            "sent": {str(node): list(sent) for node, sent in self._sent.items()},
            "plans": self._plans,
            "planned_s": None if math.isinf(self._planned_s) else self._planned_s,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""
        held = {int(node): np.array(rows, np.int32) for node, rows in saved["held"].items()}
        self._held = held
        self._given = {
            int(node): held[int(node)] if rows is None else np.array(rows, np.int32)
            for node, rows in saved["given"].items()
        }
        self._sent = {int(node): (sent[0], sent[1]) for node, sent in saved["sent"].items()}
        self._plans = int(saved["plans"])
        planned = saved["planned_s"]
        self._planned_s = -math.inf if planned is None else float(planned)


def deal(worth: NDArray[np.float64], rows: int, least: int) -> list[int]:
    """How many of all ``rows`` each node gets: at least ``least``, the rest by ``worth``.

    Args:
        worth: above 0, [n].
        rows: to be dealt.
        least: of each node.

    Raises:
        ValueError: if there are not enough rows for everybody.
    """
    n = len(worth)
    if rows < n * least:
        raise ValueError(f"{rows} training rows are not enough for {n} machines of {least} each")
    free = rows - n * least
    exact = free * worth / worth.sum()
    sizes = np.floor(exact).astype(int)
    left = free - int(sizes.sum())
    largest = np.argsort(-(exact - sizes), kind="stable")[
        :left
    ]  # the method of largest remainders
    sizes[largest] += 1
    return [int(size) + least for size in sizes]


def rearrange(
    sizes: Mapping[int, int], held: Mapping[int, Rows], rows: int, rng: np.random.Generator
) -> dict[int, Rows]:
    """Rows of each node, of the wanted sizes; nobody gives up more than it must.

    Args:
        sizes: wanted number of rows by node; their sum is at most ``rows``.
        held: rows by node now; a node whose rows do not change keeps the very same array.
        rows: number of all rows.
        rng: shuffles those that are dealt.
    """
    kept = {node: held[node][: sizes[node]] for node in sizes if node in held}
    taken = np.zeros(rows, bool)
    for part in kept.values():
        taken[part] = True
    free = rng.permutation(np.flatnonzero(~taken)).astype(np.int32)
    out: dict[int, Rows] = {}
    start = 0
    for node, size in sizes.items():
        part = kept.get(node, np.empty(0, np.int32))
        need = size - len(part)
        if need == 0 and len(held[node]) == size:
            out[node] = held[node]
            continue
        out[node] = np.concatenate([part, free[start : start + need]])
        start += need
    return out
