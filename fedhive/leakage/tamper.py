"""What malicious parties may do, kept within what the harness allows, and how plainly it shows.

A malicious server edits the model that it sends (`Tamper`); every edit is recorded with numbers
that a suspicious client could compute itself. A malicious client moves its own update, but no
further than a `Ball`; the harness projects and checks, whatever the attacker's code returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord

from fedhive.flower import Layout, flatten_record, from_flat, layout_of, records_of
from fedhive.leakage.view import Vector


class Tamper(Protocol):
    """A malicious server's hand on the model that it sends.

    One with a method ``meet(public)`` is first told what everybody knows, one with a method
    ``learn(records, knower)`` what each round brought.
    """

    def edit(self, honest: Vector, layout: Layout, node: int, number: int) -> Vector | None:
        """What node ``node`` gets in round ``number``: float32 [P], or None for the honest model.

        Args:
            honest: what the strategy wants to send; not to be written to.
            layout: its names and shapes.
            node: id of the node.
            number: of the round.
        """
        ...


def detectability(honest: Vector, sent: Vector, layout: Layout) -> dict[str, float]:
    """How plainly an edited model shows to the client that gets it.

    Args:
        honest: what should have been sent, float32 [P].
        sent: what was sent, float32 [P].
        layout: names and shapes.

    Returns:
        ``distance``: length of the change over the honest model's; ``changed``: share of the
        coordinates; ``largest``: largest absolute parameter sent, ``largest_growth``: that over
        the honest model's (a client that knows usual models needs no honest copy for these two);
        ``twin_rows``: largest share of equal rows in a weight matrix; ``norm_growth``.
    """
    norm, change = float(np.linalg.norm(honest)), float(np.linalg.norm(sent - honest))
    largest, usual = float(np.max(np.abs(sent))), float(np.max(np.abs(honest)))
    twins, offset = 0.0, 0
    for _, shape in layout:
        size = math.prod(shape)
        if len(shape) >= 2 and shape[0] > 1:
            rows = sent[offset : offset + size].reshape(shape[0], -1)
            twins = max(twins, 1.0 - (len(np.unique(rows, axis=0)) - 1) / (shape[0] - 1))
        offset += size
    return {
        "distance": change / max(norm, 1e-30),
        "changed": float(np.mean(sent != honest)),
        "largest": largest,
        "largest_growth": largest / max(usual, 1e-30),
        "twin_rows": twins,
        "norm_growth": float(np.linalg.norm(sent)) / max(norm, 1e-30),
    }


@dataclass(frozen=True)
class Ball:
    """How far a malicious client may move its update.

    Args:
        radius: in units of ``unit``.
        norm: the ball's shape: Euclidean, or each coordinate for itself.
        unit: ``update``, the same norm of the honest update, or ``absolute``.

    Raises:
        ValueError: for a negative radius.
    """

    radius: float
    norm: Literal["l2", "linf"] = "l2"
    unit: Literal["update", "absolute"] = "update"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius >= 0):
            raise ValueError(f"radius must be at least 0, got {self.radius}")

    def length(self, vector: Vector) -> float:
        """The ball's norm of a vector [P]."""
        wide = vector.astype(np.float64)
        return float(
            np.linalg.norm(wide) if self.norm == "l2" else np.max(np.abs(wide), initial=0)
        )

    def reach(self, honest: Vector) -> float:
        """The radius around this honest update, absolute."""
        return self.radius * (self.length(honest) if self.unit == "update" else 1.0)

    def project(self, moved: Vector, honest: Vector) -> Vector:
        """The nearest point of the ball around ``honest``, float32 [P], never outside."""
        reach = self.reach(honest)
        step = moved.astype(np.float64) - honest
        if self.norm == "linf":
            step = np.clip(step, -reach, reach)
        else:
            step *= min(1.0, reach / max(float(np.linalg.norm(step)), 1e-300))
        for shrink in (1.0, 1.0 - 1e-6, 1.0 - 1e-4, 0.0):  # rounding to float32 may overstep
            out = (honest + shrink * step).astype(np.float32)
            if self.contains(out, honest):
                return out
        raise AssertionError("unreachable: the honest update lies in its own ball")

    def contains(self, moved: Vector, honest: Vector) -> bool:
        """Whether ``moved`` lies in the ball around ``honest``."""
        step = moved.astype(np.float64) - honest.astype(np.float64)
        length = np.linalg.norm(step) if self.norm == "l2" else np.max(np.abs(step), initial=0)
        return bool(length <= self.reach(honest))


Move = Callable[[Vector, Vector], Vector]
"""(model received [P], honest update [P]) -> update wished for [P]."""


@dataclass(frozen=True)
class ClientTamper:
    """A client mod: the update is moved as the attacker wishes, then forced into the ball.

    Use as the ``behaviour`` of `attacks.infiltration.Infiltration`.

    Args:
        move: the attacker's wish.
        ball: what is allowed.
    """

    move: Move
    ball: Ball

    def __call__(
        self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        """The honest reply with its update moved; other messages and errors pass."""
        reply = call_next(message, context)
        if message.metadata.message_type != "train" or reply.has_error():
            return reply
        sent = flat_model(message)
        honest = np.asarray(flat_model(reply) - sent, np.float32)
        update = self.ball.project(np.asarray(self.move(sent, honest), np.float32), honest)
        if not self.ball.contains(update, honest):
            raise AssertionError("the harness let an update leave its ball")
        records = records_of(reply.content, ArrayRecord)
        name = "arrays" if "arrays" in records else next(iter(records))
        reply.content[name] = from_flat(sent + update, layout_of(records[name]))
        for metrics in records_of(reply.content, MetricRecord).values():
            metrics["moved"] = self.ball.length(update - honest)
        return reply

    def mods(self) -> Sequence[Any]:
        """Itself, as a chain of one."""
        return (self,)


def flat_model(message: Message) -> Vector:
    """The model in a message, float32 [P].

    Raises:
        KeyError: if it carries none.
        fedhive.flower.Malformed: if it is not float32.
    """
    records = records_of(message.content, ArrayRecord)
    record = records["arrays"] if "arrays" in records else next(iter(records.values()), None)
    if record is None:
        raise KeyError("the message carries no model")
    return flatten_record(record, layout_of(record))
