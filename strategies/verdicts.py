"""Telling a grid what became of a reply; grids that do not ask are left alone."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Message
from flwr.serverapp import Grid

from fedhive.flower import NODE_UNAVAILABLE


def settle(grid: Grid | None, message_id: str, verdict: str, reason: str = "") -> None:
    """Give the verdict on one message.

    Args:
        grid: a world, a metered grid, or any other, which has no use for verdicts.
        message_id: of the instruction.
        verdict: one of ``fedhive.world.task.STATUSES``.
        reason: for people.
    """
    tell: Callable[[str, str, str], None] | None = getattr(grid, "settle", None)
    if tell is not None:
        tell(message_id, verdict, reason)


def revise(grid: Grid | None, message_id: str, verdict: str, reason: str) -> None:
    """Change a verdict that was given too early, as long as the round is not over."""
    tell: Callable[[str, str, str], None] | None = getattr(grid, "revise", None)
    if tell is not None:
        tell(message_id, verdict, reason)


def settle_failure(grid: Grid | None, reply: Message) -> bool:
    """Give the verdict on an error reply; whether its machine withdrew."""
    withdrawn = bool(reply.error.code == NODE_UNAVAILABLE)
    verdict = "withdrawn" if withdrawn else "error"
    settle(grid, reply.metadata.reply_to_message_id, verdict, reply.error.reason or "")
    return withdrawn
