"""Collecting from machines that are away for a while, around the grid of a real SuperLink.

Flower gives up on a machine as soon as somebody asks for its reply while it is off-line, and then
throws away what it brings when it is back. So nobody asks until it is back. What Flower tells of
its nodes, who is on-line now, becomes a history in the form of the simulator's traces.

Machines are numbered, and keep their number for as long as the hive exists, whatever id a
SuperLink gives them; strategies see the ids that a simulated world of the same size has, so that
the same seed draws the same machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedhive.deploy.notes import Notes
from fedhive.errors import UserError
from fedhive.flower import (
    CLIENT_RAISED,
    NODE_UNAVAILABLE,
    NodeInfo,
    attribute,
    error_reply,
    records_of,
    set_message_id,
)
from fedhive.join.answer import NUMBER, heard, question
from fedhive.world.grid import FIRST_NODE_ID
from fedhive.world.ledger import Event
from fedhive.world.metered import MeteredGrid
from fedhive.world.recorded import RecordedPast
from fedhive.world.roster import Roster

MARGIN_S = 2.0
"""A machine whose time runs out so soon is not asked any more: Flower would give it up."""
ASK_AGAIN_S = 120.0


@dataclass
class Machine:
    """A machine of the hive, as this server knows it.

    Args:
        number: from 0, for the hive's whole life; None until it has said what it is.
        key: its public key, or what else tells it from others.
        name: as registered.
        location: as registered, ``"lat,lon"``.
        node: its id at the SuperLink.
        facts: what it declared.
        asked: the message that asked for them, and when.
    """

    number: int | None
    key: str
    name: str
    location: str
    node: int
    facts: dict[str, Any] = field(default_factory=dict)
    asked: tuple[str, float] | None = None


@dataclass
class Sent:
    """An instruction that is under way.

    Args:
        message: without its content.
        machine: key of the machine that has it.
        sent_s: when it was sent.
        away_s: since when the machine has been away; None while it is there.
        absences: when it was away before, [(from, to)].
        probe: the question whose answer, if it comes first, shows that the work is lost.
    """

    message: Message
    machine: str
    sent_s: float
    away_s: float | None = None
    absences: list[tuple[float, float]] = field(default_factory=list)
    probe: str | None = None


class HiveGrid(MeteredGrid):
    """A SuperLink's grid that waits for machines to come back.

    Args:
        grid: the SuperLink's.
        nodes: how many machines the run may have.
        poll_s: how often to look for replies.
        patience_s: how long a machine that owes a reply may be away before it is given up.
        notes: told what happens, for people.
        unix_time: the SuperLink's clock.
        roster: what the operator knows of the machines; those that are not in it are not asked.
    """

    name = "deployment"
    numbered = True

    def __init__(
        self,
        grid: Grid,
        nodes: int,
        poll_s: float = 0.2,
        patience_s: float = 600.0,
        notes: Notes | None = None,
        unix_time: Callable[[], float] = time.time,
        roster: Roster | None = None,
    ) -> None:
        super().__init__(grid, poll_s, roster)
        self.nodes, self.patience_s = nodes, patience_s
        self.notes = notes or Notes()
        self.past = RecordedPast(self.clock)
        self.machines: dict[str, Machine] = {}
        self._unix_time = unix_time
        self._online: dict[int, Machine] = {}
        self._sent: dict[str, Sent] = {}

    # ---- who is there -------------------------------------------------------------------------

    def look(self) -> list[Machine]:
        """Ask the SuperLink who is there; the numbered machines among them, by number."""
        until = self._unix_time() + MARGIN_S
        infos = [n for n in self.inner.get_nodes() if not n.online_until or n.online_until > until]
        here = [self._machine(info) for info in infos]
        self._hear(here)
        before, self._online = self._online, {_id(m): m for m in here if m.number is not None}
        self.past.record(self._online)
        for node in sorted(self._online.keys() ^ before.keys()):
            kind = "here" if node in self._online else "away"
            self.notes.write(kind, self.clock.now, self._name(node))
        self._follow_absences()
        return sorted(self._online.values(), key=_id)

    def meet(self, least: int, wait_s: float) -> None:
        """Wait until so many machines have come and said what they are.

        Raises:
            UserError: if they do not come in time.
        """
        until, told = self.clock.now + wait_s, -1
        while len(here := self.look()) < least:
            if len(here) != told:
                told = len(here)
                self.notes.write("waiting", self.clock.now, f"{told} of {least} machines are here")
            if self.clock.now >= until:
                raise UserError(
                    f"only {len(here)} of {least} machines came within {wait_s:g} s; let more "
                    "join, wait longer (engine.wait_s), or begin with fewer (engine.least)"
                )
            self.clock.wait(until)

    def get_node_ids(self) -> list[int]:
        """Machines that are here and have a number, ascending; with a roster, those in it."""
        return self.listed([_id(machine) for machine in self.look()])

    def named(self) -> dict[int, str]:
        """The names under which numbered machines are registered, by id."""
        return {_id(m): m.name for m in self.machines.values() if m.number is not None}

    def number_of(self, node: int) -> int:
        """Its number in the hive."""
        return node - FIRST_NODE_ID

    def get_nodes(self) -> list[NodeInfo]:
        """What is known about them."""
        return [
            NodeInfo(node_id=_id(m), name=m.name, location=m.location, status="online")
            for m in self.look()
        ]

    def _machine(self, info: NodeInfo) -> Machine:
        key = info.public_key.hex() or info.name or str(info.node_id)
        known = self.machines.get(key)
        if known is None:
            known = Machine(None, key, info.name, info.location, info.node_id)
            self.machines[key] = known
        if known.node != info.node_id:  # the SuperLink's own memory is new
            known.node, known.asked = info.node_id, None
        return known

    def _hear(self, here: list[Machine]) -> None:
        """Ask newcomers what they are, and number those that have answered."""
        now, fresh = self.clock.now, [m for m in here if m.number is None]
        for machine in fresh:
            if machine.asked is None or now - machine.asked[1] > ASK_AGAIN_S:
                [sent] = self.inner.push_messages([question(machine.node)])
                machine.asked = sent, now
        answered = []
        waiting = {m.asked[0]: m for m in fresh if m.asked is not None and m.asked[0]}
        for reply in self.inner.pull_messages(list(waiting)) if waiting else ():
            machine = waiting[reply.metadata.reply_to_message_id]
            if reply.has_error() and reply.error.code != CLIENT_RAISED:  # an app without answers
                machine.asked = "", now
                self.notes.write(
                    "failed", now, machine.name, f"could not say what it is: {reply.error.reason}"
                )
            else:
                machine.facts = {} if reply.has_error() else heard(reply)
                answered.append(machine)
        # Who asks for a place gets it before those to whom all are alike.
        for machine in sorted(answered, key=lambda m: ("partition" not in m.facts, m.name, m.key)):
            self._number(machine)

    def _number(self, machine: Machine) -> None:
        taken = {m.number for m in self.machines.values()}
        wanted = machine.facts.get("partition")
        free = [n for n in range(self.nodes) if n not in taken]
        if isinstance(wanted, int) and wanted in free:
            machine.number = wanted
        elif wanted is None and free:
            machine.number = free[0]
        else:
            reason = f"partition {wanted} is taken" if free else f"all {self.nodes} places are"
            self.notes.write("unneeded", self.clock.now, machine.name, reason)
            machine.asked = "", self.clock.now  # ask again later: a place may be free

    def _name(self, node_id: int) -> str:
        number = node_id - FIRST_NODE_ID
        return next(m.name or str(number) for m in self.machines.values() if m.number == number)

    # ---- messages -----------------------------------------------------------------------------

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send to the machines behind the ids; each is told which client it is."""
        batch = list(messages)
        by_id = {_id(m): m for m in self.machines.values() if m.number is not None}
        machines = [by_id[message.metadata.dst_node_id] for message in batch]
        letters = [_letter(message, m) for message, m in zip(batch, machines, strict=True)]
        ids = [str(sent) for sent in self.inner.push_messages(letters)] if letters else []
        for sent, message, machine in zip(ids, batch, machines, strict=True):
            self._open[sent] = self._begun(message)
            meta = message.metadata
            bare = Message(
                RecordDict(), meta.dst_node_id, meta.message_type, group_id=meta.group_id
            )
            set_message_id(bare, sent)
            self._sent[sent] = Sent(bare, machine.key, self.clock.now)
        self.sent += len(ids)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are here, of machines that are here; and the word that work is lost."""
        self.look()
        wanted = list(message_ids)
        replies = [_unknown(i) for i in wanted if i not in self._sent]
        known = [i for i in wanted if i in self._sent]
        present = [i for i in known if self._is_here(self._sent[i])]
        # Whoever answers a later question first has not got the work any more. The answers are
        # pulled before the work, so that a reply that comes in between is not called lost.
        lost = self._probed(present)
        for reply in self.inner.pull_messages(present) if present else ():
            sent = self._sent.pop(reply.metadata.reply_to_message_id)
            attribute(reply, sent.message.metadata.dst_node_id)
            self._remark(sent, reply)
            lost.pop(reply.metadata.reply_to_message_id, None)
            replies.append(reply)
        replies += [self._give_up(key, reason) for key, reason in lost.items()]
        for key in known:
            sent_ = self._sent.get(key)
            if sent_ is None or sent_.away_s is None:
                continue
            away = self.clock.now - sent_.away_s
            if away > self.patience_s:
                replies.append(self._give_up(key, f"away for {away:.0f} s"))
        for reply in replies:
            self._received(reply)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def _is_here(self, sent: Sent) -> bool:
        return sent.message.metadata.dst_node_id in self._online

    def _follow_absences(self) -> None:
        now = self.clock.now
        for sent in self._sent.values():
            if not self._is_here(sent):
                sent.away_s = now if sent.away_s is None else sent.away_s
                sent.probe = None
            elif sent.away_s is not None:
                sent.absences.append((sent.away_s, now))
                sent.away_s = None
                node = self.machines[sent.machine].node
                [sent.probe] = self.inner.push_messages([question(node)])

    def _probed(self, present: list[str]) -> dict[str, str]:
        """Messages whose machines have answered a question that came after them."""
        probes = {str(self._sent[i].probe): i for i in present if self._sent[i].probe}
        lost = {}
        for reply in self.inner.pull_messages(list(probes)) if probes else ():
            key = probes[reply.metadata.reply_to_message_id]
            sent = self._sent[key]
            sent.probe = None
            if reply.has_error():
                continue
            left, back = sent.absences[-1]
            lost[key] = f"away from {left:.0f} s to {back:.0f} s, and came back without the work"
        return lost

    def _give_up(self, key: str, reason: str) -> Message:
        sent = self._sent.pop(key)
        self.notes.write(
            "lost", self.clock.now, self._name(sent.message.metadata.dst_node_id), reason
        )
        return error_reply(sent.message, NODE_UNAVAILABLE, reason)

    def _remark(self, sent: Sent, reply: Message) -> None:
        """Write down failures, and that a reply came in after an absence."""
        name = self._name(sent.message.metadata.dst_node_id)
        away = ", ".join(f"{a:.0f} s to {b:.0f} s" for a, b in sent.absences)
        after = f"away from {away}, and came back " if away else ""
        if reply.has_error():
            said = f"{after}with an error: {reply.error.reason or reply.error.code}"
            self.notes.write("failed", self.clock.now, name, said)
        elif after:
            self.notes.write("returned", self.clock.now, name, f"{after}with the work")

    def _begun(self, message: Message) -> Event:
        event = super()._begun(message)
        event["node"] -= FIRST_NODE_ID
        return event

    # ---- what is kept -------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """The machines for ``machines.json``."""
        known = sorted((m for m in self.machines.values() if m.number is not None), key=_id)
        told = self._profiles
        return [
            {**(told[_id(m)].as_row(m.number or 0) if _id(m) in told else {}), "node": m.number,
             "name": m.name, "location": m.location, "declared": m.facts}
            for m in known
        ]  # fmt: skip

    def presence(self) -> dict[str, list[tuple[float, float]]]:
        """When each machine was here, by number: [(on, off), ...] in seconds of the run."""
        now = self.clock.now
        return {
            str(node - FIRST_NODE_ID): self.past.intervals(node, 0.0, now)
            for node in sorted(self.past.nodes)
        }

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """(plain data, arrays) for a checkpoint between rounds."""
        plain, arrays = super().state()
        machines = [{**asdict(machine), "asked": None} for machine in self.machines.values()]
        return {**plain, "machines": machines, "past": self.past.state()}, arrays

    def restore(self, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up such a state, also where another SuperLink has given the machines other ids."""
        super().restore(plain, arrays)
        self.machines = {row["key"]: Machine(**row) for row in plain["machines"]}
        self.past = RecordedPast(self.clock)
        self.past.restore(plain["past"])


def _id(machine: Machine) -> int:
    assert machine.number is not None
    return FIRST_NODE_ID + machine.number


def _letter(message: Message, machine: Machine) -> Message:
    """The message as it goes to the SuperLink."""
    content = message.content.copy()
    for name, record in records_of(content, ConfigRecord).items():
        content[name] = ConfigRecord({**record, NUMBER: machine.number or 0})
        break
    else:
        content["config"] = ConfigRecord({NUMBER: machine.number or 0})
    meta = message.metadata
    return Message(
        content, machine.node, meta.message_type, ttl=meta.ttl, group_id=meta.group_id
    )  # fmt: skip


def _unknown(message_id: str) -> Message:
    """The word on a message of an earlier server: whatever it asked for is lost."""
    bare = Message(RecordDict(), FIRST_NODE_ID, "train")
    set_message_id(bare, message_id)
    return error_reply(bare, NODE_UNAVAILABLE, "sent before the server was restarted")
