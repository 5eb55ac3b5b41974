"""What everything cost: seconds, bytes, joules and grams, useful or wasted.

Each task is booked exactly once, when the machine has stopped working on it (or when the run
ends). For each machine: useful + lost + communicating + waiting seconds = seconds on.

Energy of a task: train power x computing seconds + communication power x communicating seconds
+ network energy x bytes. Its emissions: that energy, drawn evenly while the machine worked on it,
times the carbon intensity of the machine's zone. It is useful if the work was accepted into the
model, wasted otherwise.

Two more lines belong to no task: what machines draw while they wait (``wait_w``, above what their
owners use anyway) whenever they are on and do not work on a task, and what the server draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedhive.world.availability import Availability
from fedhive.world.carbon import JOULES_PER_KWH, CarbonSignal, grams
from fedhive.world.devices import Device
from fedhive.world.server import Server
from fedhive.world.task import Task, Timeline

Event = dict[str, Any]

SUMS = (
    "useful_s", "lost_s", "communicating_s", "useful_j", "wasted_j", "useful_g", "wasted_g",
)  # fmt: skip
"""What is summed up for each machine as tasks are booked: seconds, joules, grams."""


class Ledger:
    """Books tasks and sums them up.

    Args:
        devices: the machines, in node order.
        availability: when they are on.
        carbon: intensity of their electricity.
        server: what the server draws; None if that is not known.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        availability: Availability,
        carbon: CarbonSignal,
        server: Server | None = None,
    ) -> None:
        self.devices, self.availability, self.carbon = devices, availability, carbon
        self.server = server
        self._sums = {name: [0.0] * len(devices) for name in SUMS}
        # Of each machine that draws power while it waits: its seconds at work times intensity.
        self._busy_gs = [0.0] * len(devices)
        self._messages = [0.0, 0.0]  # the server's joules and grams for messages
        self._events: list[Event] = []

    def book(self, task: Task, now_s: float) -> None:
        """Charge a task that is over, or cut short at ``now_s`` because the run ends."""
        line, device = task.timeline, self.devices[task.node]
        communicating, computing = line.seconds_until(now_s)
        status = task.verdict or "unneeded"
        accepted = status == "accepted"
        stop = min(now_s, line.last_s)
        down = _share(stop, line.begin_s, line.start_s) * task.bytes_down
        up = _share(stop, line.upload_begin_s, line.end_s) * task.reply_bytes
        planned = task.plan.steps if line.steps is None else line.steps
        done = _share(stop, line.start_s, line.done_s) * planned / max(1, task.plan.steps)
        joules = (
            device.train_w * computing
            + device.comm_w * communicating
            + device.net_j_per_byte * (down + up)
        )
        emitted = grams(self.carbon, device.zone, joules, line.begin_s, max(stop, line.begin_s))
        self._add(task.node, "useful" if accepted else "lost", computing, "s")
        self._add(task.node, "communicating", communicating, "s")
        self._add(task.node, "useful" if accepted else "wasted", joules, "j")
        self._add(task.node, "useful" if accepted else "wasted", emitted, "g")
        self._busy(task.node, line, stop)
        self._serve(down + up, line.begin_s, max(stop, line.begin_s))
        self._events.append(
            {
                "round": task.round, "node": task.node, "kind": task.kind, "sent_s": line.sent_s,
                "begin_s": line.begin_s, "start_s": min(line.start_s, stop),
                "done_s": min(line.done_s, stop), "end_s": max(stop, line.sent_s),
                "status": status, "reason": task.reason, "steps_asked": task.plan.steps,
                "steps_done": int(done * task.plan.steps + 1e-9),
                "samples": int(done * task.plan.samples + 1e-9) if task.kind == "train" else 0,
                "bytes_up": int(up), "bytes_down": int(down), "energy_j": joules,
                "carbon_g": emitted,
            }
        )  # fmt: skip

    def collect(self) -> list[Event]:
        """The events booked since the last call, in order of machine and time."""
        events, self._events = self._events, []
        return sorted(events, key=lambda event: (event["round"], event["node"], event["begin_s"]))

    def _add(self, node: int, kind: str, amount: float, unit: str) -> None:
        self._sums[f"{kind}_{unit}"][node] += amount

    def _busy(self, node: int, line: Timeline, stop: float) -> None:
        """Note when a machine that also draws power while it waits did not wait."""
        device = self.devices[node]
        if not device.wait_w:
            return
        phases = (line.begin_s, line.start_s), (line.start_s, line.done_s)
        for begin, end in (*phases, (line.upload_begin_s, line.end_s)):
            seconds = min(stop, end) - begin
            if seconds > 0.0:
                mean = self.carbon.mean_g_per_kwh(device.zone, begin, begin + seconds)
                self._busy_gs[node] += seconds * mean

    def _serve(self, n_bytes: float, t0_s: float, t1_s: float) -> None:
        if self.server is not None:
            joules = self.server.message_j(n_bytes)
            self._messages[0] += joules
            self._messages[1] += self.server.grams(self.carbon, self.devices, joules, t0_s, t1_s)

    def accounts(self, end_s: float) -> list[dict[str, float]]:
        """Per machine, where its seconds, joules and grams went until ``end_s``."""
        return [self._account(node, end_s) for node in range(len(self.devices))]

    def serving(self, end_s: float) -> tuple[float | None, float | None]:
        """Joules and grams of the server until ``end_s``; None if there is none to charge."""
        if self.server is None:
            return None, None
        presence = self.server.presence_j(end_s)
        emitted = self.server.grams(self.carbon, self.devices, presence, 0.0, end_s)
        return self._messages[0] + presence, self._messages[1] + emitted

    def _account(self, node: int, end_s: float) -> dict[str, float]:
        spans = self.availability.intervals(node, 0.0, end_s)
        on_s = sum(b - a for a, b in spans)
        sums = {name: self._sums[name][node] for name in SUMS}
        busy_s = sums["useful_s"] + sums["lost_s"] + sums["communicating_s"]
        waiting_s = on_s - busy_s
        watts = self.devices[node].wait_w
        joules = watts * max(0.0, waiting_s)
        emitted = 0.0
        if joules:
            mean, zone = self.carbon.mean_g_per_kwh, self.devices[node].zone
            on_gs = math.fsum((b - a) * mean(zone, a, b) for a, b in spans)
            emitted = watts * max(0.0, on_gs - self._busy_gs[node]) / JOULES_PER_KWH
        return {
            "node": node, "on_s": on_s, **sums, "waiting_s": waiting_s, "waiting_j": joules,
            "waiting_g": emitted,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from here, as plain data."""
        return {"sums": self._sums, "busy_gs": self._busy_gs, "messages": self._messages}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state given by `state`."""
        self._sums = {name: list(state["sums"][name]) for name in SUMS}
        self._busy_gs, self._messages = list(state["busy_gs"]), list(state["messages"])


def _share(stop: float, begin: float, end: float) -> float:
    """How much of a phase lies before ``stop``; nothing of one that has no length."""
    if stop >= end:
        return 1.0
    return (stop - begin) / (end - begin) if stop > begin else 0.0
