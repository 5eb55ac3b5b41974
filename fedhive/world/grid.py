"""The world as a Flower Grid: a hive of machines on a virtual clock.

A strategy, Flower's or ours, sends messages and pulls replies as it would from a SuperLink. The
world decides when each task would begin, finish or be cut off by a withdrawal the moment it is
sent, and lets an engine run the client's code only for replies that somebody looks at.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedhive.engines.base import Engine, Job
from fedhive.flower import (
    NODE_UNAVAILABLE,
    DeferredReply,
    NodeInfo,
    QuickRecords,
    Run,
    assume_identity,
    error_reply,
    in_memory,
    isolated_copy,
    make_run,
    node_info,
    payload_bytes,
    quick_records,
    set_message_id,
)
from fedhive.world.availability import Availability, on_mask
from fedhive.world.carbon import CarbonSignal
from fedhive.world.clock import VirtualClock
from fedhive.world.devices import Device
from fedhive.world.instructions import (
    SIMULATED,
    instruct_to_stop,
    pack_task,
    plan_from,
    round_of,
    transfer_bytes,
    unpack_task,
)
from fedhive.world.ledger import Event, Ledger
from fedhive.world.past import Foresight, WorldPast
from fedhive.world.server import Server
from fedhive.world.task import Plan, Task, Timeline, schedule
from fedhive.world.withdrawal import Drop, Withdrawal

FIRST_NODE_ID = 1000
RUN_ID = 1

Planner = Callable[[Message, Context], Plan | None]


class Colluders(Protocol):
    """Machines that act as one: what they send is decided together (`attacks.infiltration`)."""

    def rewrite(
        self,
        messages: Sequence[Message],
        replies: Sequence[Message],
        nodes: Sequence[int],
        contexts: Sequence[Context],
    ) -> list[Message]:
        """The replies of a batch, the colluders' rewritten."""
        ...


class World(Grid):
    """An in-process grid with a virtual clock and a ledger.

    Args:
        devices: the machines; machine ``i`` has node id ``FIRST_NODE_ID + i`` and partition ``i``.
        availability: when they are on.
        carbon: how dirty their electricity is.
        engine: runs client code; already open.
        run_config: the Flower run config that every client sees.
        planner: what a task will take, asked before it is done; None if only doing it tells, and
            then the work is done when the message is sent.
        detection_s: how long after a machine has left the server notices, seconds; Flower's
            heartbeat and patience give 60.
        withdrawal: what becomes of the work of a machine that leaves; by default it is lost.
        history_s: how long the machines had been watched before the run began, seconds.
        colluders: see and rewrite the replies that are computed together; None for nobody.
        server: what the server draws; None leaves it unknown.
        declared: the machines as the server is told of them; None for as they are.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        availability: Availability,
        carbon: CarbonSignal,
        engine: Engine,
        run_config: Mapping[str, bool | float | int | str],
        planner: Planner | None = None,
        detection_s: float = 60.0,
        withdrawal: Withdrawal | None = None,
        history_s: float = 0.0,
        colluders: Colluders | None = None,
        server: Server | None = None,
        declared: Sequence[Device] | None = None,
    ) -> None:
        assume_identity(RUN_ID)
        told = list(devices if declared is None else declared)
        self.devices, self.availability, self.engine = list(devices), availability, engine
        self.carbon = carbon
        self.clock = VirtualClock(self._next_event)
        self.ledger = Ledger(devices, availability, carbon, server)
        self.detection_s, self.withdrawal = detection_s, withdrawal or Drop()
        ids = [FIRST_NODE_ID + i for i in range(len(self.devices))]
        self.profiles = dict(zip(ids, told, strict=True))
        self.past = WorldPast(availability, self.clock, ids, -history_s)
        self.future = Foresight(availability, self.clock, ids, -history_s)
        self.contexts = [
            Context(
                run_id=RUN_ID,
                node_id=FIRST_NODE_ID + i,
                node_config=_machine(i, len(devices)),
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for i in range(len(self.devices))
        ]
        self._planner, self._colluders = planner, colluders
        self._infos = [
            node_info(FIRST_NODE_ID + i, device.name, device.location)
            for i, device in enumerate(told)
        ]
        self._run = make_run(RUN_ID)
        self._count = 0
        self._tasks: dict[str, Task] = {}
        self._free_s = [0.0] * len(self.devices)
        self._ends: list[tuple[float, str]] = []
        self._uncomputed: dict[str, Task] = {}

    # ---- Flower's Grid ------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Flower's runtimes call this; a world has one run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Information about the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A new instruction message (Flower's older way; ``Message(...)`` does the same)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Ids of the machines that are on now."""
        mask = on_mask(self.availability, len(self.devices), self.clock.now)
        return [FIRST_NODE_ID + int(i) for i in np.flatnonzero(mask)]

    def get_nodes(self) -> list[NodeInfo]:
        """Names and locations of the machines that are on now."""
        return [self._infos[node_id - FIRST_NODE_ID] for node_id in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; decides at once when each task would end, and how.

        Raises:
            ValueError: if a message goes to a machine that is not part of this world.
        """
        sent = self._admit(list(messages))
        self._plan(sent)
        for task in sent:
            self._tasks[task.id] = task
            heapq.heappush(self._ends, (task.timeline.known_s, task.id))
        return [task.id for task in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that have arrived by now, ordered by machine; each is handed out once."""
        now = self.clock.now
        due = [self._tasks[i] for i in message_ids if i in self._tasks]
        due = [task for task in due if not task.delivered and task.timeline.known_s <= now]
        return [self._deliver(task) for task in sorted(due, key=_by_machine)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send, let virtual time pass until all replies are in or ``timeout`` seconds are over.

        Replies count as accepted: a strategy that calls this takes what it gets.
        """
        ids = self.push_messages(messages)
        deadline = self.clock.now + (math.inf if timeout is None else timeout)
        known = [self._tasks[i].timeline.known_s for i in ids]
        if known:
            self.clock.sleep_until(min(deadline, max(known)))
        tasks = sorted((self._tasks[i] for i in ids), key=_by_machine)
        due = [task for task in tasks if task.timeline.known_s <= self.clock.now]
        self._compute([t for t in due if t.reply is None and not t.timeline.withdrawn])
        replies = [self._deliver(task) for task in due]
        for task, reply in zip(due, replies, strict=True):
            failed = reply.has_error()
            task.settle(*(("error", reply.error.reason or "") if failed else ("accepted", "")))
        for task in tasks:
            if not task.delivered:
                task.settle("late", f"no reply within {timeout} s")
                task.delivered = True  # nobody knows its id: it will never be pulled
        return replies

    # ---- what only a world has ----------------------------------------------------------------

    def settle(self, message_id: str, verdict: str, reason: str = "") -> None:
        """The strategy's decision about a task; the first one stands.

        Args:
            message_id: as given by ``push_messages``.
            verdict: ``accepted``, ``late``, ``rejected``, ``error``, ``withdrawn``, ``unneeded``.
            reason: for people.
        """
        task = self._tasks.get(message_id)
        if task is not None:
            task.settle(verdict, reason)

    def revise(self, message_id: str, verdict: str, reason: str = "") -> None:
        """Change a verdict that was given too early, before the task is booked."""
        task = self._tasks.get(message_id)
        if task is not None:
            task.verdict = None
            task.settle(verdict, reason)

    @property
    def sent(self) -> int:
        """Number of messages sent so far."""
        return self._count

    def next_change_s(self) -> float:
        """When the next machine comes or goes; infinity if none ever does."""
        now = self.clock.now
        return min(self.availability.next_change(i, now) for i in range(len(self.devices)))

    def index_of(self, node_id: int) -> int:
        """The machine's number from 0."""
        return node_id - FIRST_NODE_ID

    def collect_events(self) -> list[Event]:
        """Book the tasks that are settled and over by now; their events."""
        now = self.clock.now
        over = [t for t in self._tasks.values() if t.verdict and t.timeline.last_s <= now]
        self._book(over)
        self._tasks = {k: t for k, t in self._tasks.items() if not (t.booked and t.delivered)}
        return self.ledger.collect()

    def finish(self) -> list[Event]:
        """End the run now: book what is still under way; the remaining events."""
        self._book(list(self._tasks.values()))
        self._tasks.clear()
        return self.ledger.collect()

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Clock, ledger and unfinished tasks: (plain data, arrays); call between rounds."""
        arrays: dict[str, NDArray[Any]] = {}
        plain = {
            "now_s": self.clock.now,
            "count": self._count,
            "free_s": self._free_s,
            "ledger": self.ledger.state(),
            "tasks": [pack_task(task, arrays) for task in self._tasks.values()],
        }
        return plain, arrays

    def restore(self, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up a state given by `state`."""
        self.clock.sleep_until(float(state["now_s"]))
        self._count = int(state["count"])
        self._free_s = [float(t) for t in state["free_s"]]
        self.ledger.restore(state["ledger"])
        made: dict[str, ArrayRecord] = {}
        for row in state["tasks"]:
            task = unpack_task(row, arrays, made, FIRST_NODE_ID + int(row["node"]))
            self._tasks[task.id] = task
            heapq.heappush(self._ends, (task.timeline.known_s, task.id))

    # ---- inside -------------------------------------------------------------------------------

    def _admit(self, messages: list[Message]) -> list[Task]:
        """Tasks with private contents and ids; each distinct payload is measured only once."""
        seen: dict[int, tuple[QuickRecords, int]] = {}
        arrays: dict[int, ArrayRecord] = {}
        tasks = []
        for message in messages:
            node = self.index_of(message.metadata.dst_node_id)
            if not 0 <= node < len(self.devices):
                raise ValueError(f"no machine has node id {message.metadata.dst_node_id}")
            original: RecordDict = message.content
            if id(original) not in seen:
                shared = QuickRecords()
                for key, record in original.items():
                    if isinstance(record, ArrayRecord):
                        record = arrays.setdefault(id(record), in_memory(record))
                    shared[key] = record
                seen[id(original)] = (shared, payload_bytes(shared))
            shared, size = seen[id(original)]
            message.content = isolated_copy(shared)
            self._count += 1
            set_message_id(message, f"m{self._count}")
            tasks.append(
                Task(
                    id=f"m{self._count}", node=node, round=round_of(message),
                    kind=message.metadata.message_type, message=message, timeline=_NEVER,
                    plan=_NOTHING, bytes_down=size + transfer_bytes(message),
                )
            )  # fmt: skip
        return tasks

    def _plan(self, tasks: list[Task]) -> None:
        blind = []
        for task in tasks:
            plan = self._planner(task.message, self.contexts[task.node]) if self._planner else None
            if plan is None:
                blind.append(task)
            else:
                task.plan = plan
        self._compute(blind)
        for task in blind:
            assert task.reply is not None
            task.plan = plan_from(task.reply)
        for task in tasks:
            task.reply_bytes = task.plan.reply_bytes
            task.timeline = schedule(
                self.devices[task.node], self.availability, task.node, self.clock.now,
                self._free_s[task.node], task.bytes_down, task.plan, self.detection_s,
            )  # fmt: skip
            if task.timeline.withdrawn and task.reply is None:
                self._rescue(task)
            self._free_s[task.node] = max(self._free_s[task.node], task.timeline.last_s)

    def _rescue(self, task: Task) -> None:
        """Save what the policy saves of a task that is cut off; nothing was computed yet."""
        task.timeline = self.withdrawal.rescue(
            task.timeline, self.devices[task.node], self.availability, task.node, task.plan
        )
        if task.timeline.steps is not None:
            instruct_to_stop(task.message, task.timeline.steps)

    def _deliver(self, task: Task) -> Message:
        task.delivered = True
        if task.timeline.withdrawn:
            task.settle("withdrawn", f"left at {task.timeline.cut_s:.0f} s")
            return error_reply(task.message, NODE_UNAVAILABLE, "the machine withdrew")
        if task.reply is not None:
            return task.reply
        if task.verdict is None:
            self._uncomputed[task.id] = task
        return DeferredReply(task.message, lambda: self._reply(task))

    def _reply(self, task: Task) -> Message:
        """The computed reply; what else was pulled and not given up is computed along with it."""
        if task.reply is None:
            batch = {t.id: t for t in self._uncomputed.values() if t.verdict is None}
            batch[task.id] = task
            self._compute(sorted(batch.values(), key=_by_machine))
        assert task.reply is not None
        return task.reply

    def _compute(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        jobs = [Job(task.message, self.contexts[task.node]) for task in tasks]
        replies = self.engine.run(jobs)
        if self._colluders is not None:
            messages, nodes = [task.message for task in tasks], [task.node for task in tasks]
            replies = self._colluders.rewrite(messages, replies, nodes, self.contexts)
        for task, reply in zip(tasks, replies, strict=True):
            task.reply = reply
            task.reply_bytes = 0
            if reply.has_content():
                reply.content = quick_records(reply.content)
                task.reply_bytes = payload_bytes(reply.content)
            self._uncomputed.pop(task.id, None)

    def _book(self, tasks: Sequence[Task]) -> None:
        """Charge tasks, each once; those not pulled yet stay, so that they still can be."""
        for task in sorted(tasks, key=_by_machine):
            if not task.booked:
                self.ledger.book(task, self.clock.now)
                task.booked = True
                self._uncomputed.pop(task.id, None)

    def _next_event(self, after_s: float) -> float:
        while self._ends and (self._ends[0][0] <= after_s or self._ends[0][1] not in self._tasks):
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else math.inf


_NEVER = Timeline(0.0, 0.0, 0.0, 0.0, 0.0, math.inf, 0.0)
_NOTHING = Plan(0.0, 0, 0)


def _machine(number: int, machines: int) -> dict[str, bool | float | int | str]:
    """What a machine of this world says of itself, as a real one's owner would have set it."""
    return {"partition-id": number, "num-partitions": machines, SIMULATED: True}


def _by_machine(task: Task) -> tuple[int, float, int]:
    """Sorts tasks by machine and, on each, as it takes them up."""
    return task.node, task.timeline.begin_s, int(task.id[1:])
