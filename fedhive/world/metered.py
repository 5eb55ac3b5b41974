"""Bookkeeping around a grid that is not ours: Flower's simulation runtime or a real SuperLink.

Time is real. What the machines drew is unknown, unless an operator has written down what they are:
with a `fedhive.world.roster.Roster`, schedulers see zones and watts, and energy and emissions are
what declared powers give.
Each message id is matched to the node that was asked, since Flower's own error replies do not
name it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedhive.flower import NODE_UNAVAILABLE, NodeInfo, Run, payload_bytes, records_of
from fedhive.world.carbon import CarbonSignal
from fedhive.world.clock import WallClock
from fedhive.world.devices import Device
from fedhive.world.ledger import Event
from fedhive.world.roster import Roster
from fedhive.world.task import STATUSES


class MeteredGrid(Grid):
    """A Flower grid with a clock and a record of what was sent and what came back.

    Args:
        grid: any Flower grid.
        poll_s: how often to look for replies, seconds.
        roster: what is known of the machines; those that are not in it are not asked. None for
            nothing.
    """

    numbered = False  # a SuperLink's ids are no machines' numbers

    def __init__(self, grid: Grid, poll_s: float = 0.2, roster: Roster | None = None) -> None:
        self.inner, self.roster = grid, roster
        self.clock = WallClock(poll_s)
        self.contexts: list[Context] = []  # what clients remember stays with them
        self.sent = 0
        self._poll_s = poll_s
        self._open: dict[str, Event] = {}
        self._done: list[Event] = []
        self._named: dict[int, str] = {}
        self._profiles: dict[int, Device] = {}
        self._samples: dict[int, int] = {}

    def set_run(self, run: Run) -> None:
        """Passed on."""
        self.inner.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the inner grid."""
        return self.inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A new instruction message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Nodes that are on-line, ascending; with a roster, those that are in it."""
        return self.listed(sorted(self.inner.get_node_ids()))

    # ---- what is known of them ----------------------------------------------------------------

    @property
    def carbon(self) -> CarbonSignal | None:
        """Intensity of electricity, where the roster has it."""
        return None if self.roster is None else self.roster.carbon

    @property
    def profiles(self) -> Mapping[int, Device]:
        """The machines by node id, as far as they have come; the same object until others come."""
        return self._profiles

    def named(self) -> dict[int, str]:
        """The names under which nodes are registered, by id."""
        return {info.node_id: info.name for info in self.inner.get_nodes()}

    def number_of(self, node: int) -> int:
        """By which a roster knows a node that it has no name for: here its id."""
        return node

    def listed(self, nodes: list[int]) -> list[int]:
        """Those that the roster knows; all of them without one."""
        if self.roster is None:
            return nodes
        if any(node not in self._named for node in nodes):
            self._named |= self.named()
            found = {n: self.roster.of(self.number_of(n), name) for n, name in self._named.items()}
            self._profiles = {node: device for node, device in found.items() if device is not None}
        return [node for node in nodes if node in self._profiles]

    def get_nodes(self) -> list[NodeInfo]:
        """What the inner grid knows about them."""
        return list(self.inner.get_nodes())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send, and note what was sent to whom."""
        batch = list(messages)
        ids = list(self.inner.push_messages(batch))
        for message_id, message in zip(ids, batch, strict=True):
            self._open[message_id] = self._begun(message)
        self.sent += len(ids)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Receive, and note when."""
        replies = list(self.inner.pull_messages(list(message_ids)))
        for reply in replies:
            self._received(reply)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send and wait, as Flower does; replies count as accepted."""
        pending = dict.fromkeys(self.push_messages(messages))
        deadline = self.clock.now + (float("inf") if timeout is None else timeout)
        replies: list[Message] = []
        while pending and self.clock.now < deadline:
            for reply in self.pull_messages(list(pending)):
                key = reply.metadata.reply_to_message_id
                pending.pop(key, None)
                replies.append(reply)
                self.settle(key, _verdict(reply))
            if pending:
                self.clock.wait(deadline)
        for key in pending:
            self.settle(key, "late", f"no reply within {timeout} s")
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def settle(self, message_id: str, verdict: str, reason: str = "") -> None:
        """The strategy's decision about a message; the first one stands."""
        if verdict not in STATUSES:
            raise ValueError(f"unknown verdict {verdict!r}, expected one of {STATUSES}")
        event = self._open.get(message_id)
        if event is not None and event["status"] is None:
            self._decide(message_id, event, verdict, reason)

    def revise(self, message_id: str, verdict: str, reason: str = "") -> None:
        """Change a verdict that was given too early."""
        for event in self._done:
            if event.get("id") == message_id:
                event.update(status=verdict, reason=reason)

    def collect_events(self) -> list[Event]:
        """The decided messages since the last call."""
        events, self._done = self._done, []
        for event in events:
            event.pop("id", None)
        return sorted(events, key=lambda event: (event["round"], event["node"]))

    def finish(self) -> list[Event]:
        """Close what is still open; the remaining events."""
        for key, event in list(self._open.items()):
            self._decide(key, event, "unneeded", "the run had ended")
        return self.collect_events()

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """(plain data, arrays) for a checkpoint between rounds."""
        return {"now_s": self.clock.now, "sent": self.sent}, {}

    def restore(self, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up such a state; the clock goes on from its time."""
        self.clock = WallClock(self._poll_s, float(plain["now_s"]))
        self.sent = int(plain["sent"])

    def _decide(self, message_id: str, event: Event, verdict: str, reason: str) -> None:
        event.update(id=message_id, status=verdict, reason=reason)
        if event["end_s"] is None:
            event["end_s"] = self.clock.now
        self._charge(event)
        self._done.append(event)
        del self._open[message_id]

    def _charge(self, event: Event) -> None:
        """Joules and grams of a task whose machine is known.

        What a machine did that never answered is taken to be what it did last, or what others
        usually do, as far as there was time.
        """
        node = event.pop("to")
        device = self._profiles.get(node)
        if device is None or self.roster is None:
            return
        samples: float | None = event["samples"]
        if event["kind"] == "train" and event["done_s"] is None:
            usual = statistics.median(self._samples.values()) if self._samples else None
            samples = self._samples.get(node, usual)
        elif event["kind"] == "train" and event["status"] == "accepted":
            self._samples[node] = event["samples"]
        event["energy_j"], event["carbon_g"] = self.roster.cost(device, event, samples)

    def _begun(self, message: Message) -> Event:
        now = self.clock.now
        number = 0
        for config in records_of(message.content, ConfigRecord).values():
            value = config.get("server-round")
            number = value if isinstance(value, int) else number
        return {
            "round": number, "node": message.metadata.dst_node_id,
            "to": message.metadata.dst_node_id,
            "kind": message.metadata.message_type, "sent_s": now, "begin_s": now, "start_s": now,
            "done_s": None, "end_s": None, "status": None, "reason": "", "steps_asked": None,
            "steps_done": None, "samples": 0, "bytes_up": 0,
            "bytes_down": payload_bytes(message.content), "energy_j": None, "carbon_g": None,
        }  # fmt: skip

    def _received(self, reply: Message) -> None:
        event = self._open.get(reply.metadata.reply_to_message_id)
        if event is None:
            return
        event["end_s"] = event["done_s"] = self.clock.now
        if reply.has_content():
            event["bytes_up"] = payload_bytes(reply.content)
            for metrics in records_of(reply.content, MetricRecord).values():
                event["samples"] = _counted(metrics.get("samples", 0))


def _counted(value: object) -> int:
    """A number that a client reports, 0 if it is no plausible count: nothing is checked yet."""
    return int(value) if isinstance(value, int | float) and 0 <= value <= 1e15 else 0


def _verdict(reply: Message) -> str:
    if not reply.has_error():
        return "accepted"
    return "withdrawn" if reply.error.code == NODE_UNAVAILABLE else "error"
