"""From replies to what a combination rule works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from defenses.containment import Containment, Update
from defenses.enrolment import Register
from defenses.protection.base import Protection, Release, SentModel
from fedhive.flower import Layout, Malformed
from strategies import verdicts
from strategies.combine import Cohort
from strategies.inbox import Asked, Inbox
from strategies.trigger import RoundFacts
from strategies.watch import Watch

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Reply:
    """One accepted reply.

    Args:
        asked: the instruction that it answers.
        base: the model that its client started from, float32 [P].
        update: what it brought.
        staleness: rounds since it was asked.
        key: id of the message that it answers.
        opened: what the protection parsed of it.
    """

    asked: Asked
    base: Vector
    update: Update
    staleness: int
    key: str = ""
    opened: Any = None

    @property
    def node(self) -> int:
        """Who sent it."""
        return self.asked.node


@dataclass(frozen=True)
class Reader:
    """Opens replies and gives the verdicts on them.

    Args:
        containment: what a reply must be to be looked at.
        expects: names of the vectors that must come beside the model.
        inbox: what is owed.
        watch: where what nodes have shown is remembered.
        register: where strikes are noted.
        max_staleness: rounds after which a reply is too old; None for never.
        protection: what is hidden in replies; None for nothing.
    """

    containment: Containment
    expects: Sequence[str]
    inbox: Inbox
    watch: Watch
    register: Register
    max_staleness: int | None = None
    protection: Protection | None = None

    def read(
        self,
        replies: Sequence[Message],
        server_round: int,
        sent: tuple[Vector, Layout],
        stranger: Callable[[int], Asked],
        grid: Grid | None,
        arrived_s: Mapping[str, float],
    ) -> list[Reply]:
        """The usable replies, by node, at most one of each; verdicts on all.

        Args:
            replies: as pulled.
            server_round: the round that is being combined.
            sent: the global model and its layout.
            stranger: the instruction to assume for a node that this inbox did not ask.
            grid: told the verdicts.
            arrived_s: when replies came, by the id of the message that they answer, if known.
        """
        usable: dict[int, Reply] = {}
        keys: dict[int, str] = {}
        for message in sorted(replies, key=lambda reply: reply.metadata.src_node_id):
            reply = self._open(message, server_round, sent, stranger, grid)
            if reply is None:
                continue
            key = message.metadata.reply_to_message_id
            if reply.node in usable:
                verdicts.settle(grid, key, "rejected", "a second reply in one round")
                continue
            usable[reply.node], keys[reply.node] = reply, key
        for node, reply in self._bounded(usable).items():
            claimed, counted = usable[node].update.examples, reply.update.examples
            doubt = self.protection.disbelieved(claimed, counted) if self.protection else ""
            if doubt:
                verdicts.settle(grid, keys[node], "rejected", doubt)
                del usable[node]
                continue
            cut = "" if claimed == counted else f"{claimed} examples counted as {counted}"
            verdicts.settle(grid, keys[node], "accepted", cut)
            usable[node] = reply
            came = arrived_s.get(keys[node])
            duration = None if came is None else came - reply.asked.sent_s
            self.watch.remember(node, reply.update, server_round, duration)
            self.register.accepted(node, server_round)
        return list(usable.values())

    def _bounded(self, usable: dict[int, Reply]) -> dict[int, Reply]:
        """The replies, with numbers of examples that the containment believes."""
        bound = getattr(self.containment, "bounded", None)
        if bound is None:  # somebody's own containment, which leaves the numbers as they are
            return dict(usable)
        known = {node: past.examples for node, past in self.watch.history.items()}
        updates = bound({node: reply.update for node, reply in usable.items()}, known)
        return {node: replace(reply, update=updates[node]) for node, reply in usable.items()}

    def give_up(self, message: Message, grid: Grid | None) -> None:
        """Note that a node failed or withdrew."""
        taken = self.inbox.take(message.metadata.reply_to_message_id)
        if verdicts.settle_failure(grid, message) and taken is not None:
            self.watch.of(taken[0].node).withdrawn += 1

    def _open(
        self,
        message: Message,
        server_round: int,
        sent: tuple[Vector, Layout],
        stranger: Callable[[int], Asked],
        grid: Grid | None,
    ) -> Reply | None:
        if message.has_error():
            self.give_up(message, grid)
            return None
        current, layout = sent
        key = message.metadata.reply_to_message_id
        taken = self.inbox.take(key)
        asked, base = taken or (stranger(message.metadata.src_node_id), current)
        staleness = server_round - asked.round
        if self.max_staleness is not None and staleness > self.max_staleness:
            verdicts.settle(grid, key, "late", f"{staleness} rounds old")
            self.watch.of(asked.node).late += 1
            return None
        if self.register.expelled(asked.node, asked.round):
            verdicts.settle(grid, key, "rejected", "expelled after its earlier replies")
            return None
        content, opened = message.content, None
        try:
            if self.protection is not None:
                sent_model = SentModel(asked.node, asked.round, base, layout, asked.weight)
                content, opened = self.protection.open(content, sent_model)
            update = self.containment.open(content, layout, self.expects, base)
        except Malformed as error:
            verdicts.settle(grid, key, "rejected", str(error))
            self.register.strike(asked.node, asked.round, str(error))
            return None
        return Reply(asked, base, update, staleness, key, opened)

    def leave_out(self, replies: Sequence[Reply], release: Release, grid: Grid | None) -> None:
        """Take back the verdict on replies that the protection could not use."""
        left_out = dict(release.left_out or {})
        if release.model is None:
            left_out = {reply.node: release.reason for reply in replies} | left_out
        for reply in replies:
            if reply.node in left_out:
                verdicts.revise(grid, reply.key, "rejected", left_out[reply.node])


def cohort_of(
    replies: Sequence[Reply],
    current: Vector,
    server_round: int,
    expects: Sequence[str],
    known: Sequence[int],
    register: Register,
) -> Cohort:
    """What a combination rule is given."""
    found = [reply.update for reply in replies]
    return Cohort(
        nodes=[reply.node for reply in replies],
        models=[update.model for update in found],
        examples=[update.examples for update in found],
        weights=[reply.asked.weight for reply in replies],
        extra={name: [update.extra[name] for update in found] for name in expects},
        current=current,
        total_nodes=len(known),
        bases=[reply.base for reply in replies],
        staleness=[reply.staleness for reply in replies],
        steps=[update.steps for update in found],
        probabilities=[reply.asked.probability for reply in replies],
        round=server_round,
        known=known,
        samples=[update.samples for update in found],
        identities=[register.identity(reply.node, reply.asked.round) for reply in replies],
    )


def round_facts(
    replies: Sequence[Reply], server_round: int, asked: int, arrivals_s: Sequence[float]
) -> RoundFacts:
    """What a trigger may learn from a round."""
    rows = [reply.update.model.astype(np.float64) - reply.base for reply in replies]
    mean = np.mean(rows, axis=0) if rows else np.zeros(1)
    losses = [reply.update.loss for reply in replies if reply.update.loss is not None]
    return RoundFacts(
        round=server_round,
        asked=asked,
        arrivals_s=tuple(sorted(arrivals_s)),
        n=len(rows),
        mean_update_sqnorm=float(mean @ mean),
        update_mean_sqnorm=float(np.mean([row @ row for row in rows])) if rows else 0.0,
        loss=float(np.mean(losses)) if losses else None,
    )


def mean_loss(replies: Sequence[Reply]) -> MetricRecord:
    """The mean training loss by examples; empty if nobody reported one."""
    found = [reply.update for reply in replies]
    known = [(u.loss, u.examples) for u in found if u.loss is not None]
    total = sum(examples for _, examples in known)
    if not total:
        return MetricRecord()
    return MetricRecord({"train-loss": sum(loss * n for loss, n in known) / total})
