"""Whether this machine may work for the hive now, by what its volunteer decided."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from fedhive.join.settings import DAYS, When, parse_span

FOREVER_S = 1e9


class Computer(Protocol):
    """What a policy looks at."""

    def on_mains(self) -> bool:
        """Whether it is plugged in; machines without a battery are."""
        ...

    def idle_s(self) -> float:
        """For how long nobody has used keyboard or mouse, seconds."""
        ...

    def busy_percent(self) -> float:
        """Share of all processors that other programs used since the last look."""
        ...

    def programs(self) -> set[str]:
        """Names of the running programs, in lower case, without ``.exe``."""
        ...


class ThisComputer:
    """This machine, by psutil.

    Args:
        psutil: the module, or something like it.
        own: process ids whose work, and whose children's work, is the hive's own.
    """

    def __init__(self, psutil: Any = None, own: Iterable[int] = ()) -> None:
        if psutil is None:
            import psutil
        self._psutil = psutil
        self.own = list(own)
        self._last: tuple[float, float, float] | None = None

    def on_mains(self) -> bool:
        """By the battery's own account; a battery that cannot tell counts as unplugged."""
        sensors = getattr(self._psutil, "sensors_battery", None)
        battery = sensors() if sensors is not None else None
        return battery is None or bool(battery.power_plugged)

    def idle_s(self) -> float:
        """By the desktop's session manager, and by the terminals that people are logged in on."""
        ages = [self._terminal_idle_s(user.terminal) for user in self._psutil.users()]
        return min([*ages, _session_idle_s()], default=FOREVER_S)

    def busy_percent(self) -> float:
        """All work on this machine but the hive's."""
        times = self._psutil.cpu_times()
        total = float(sum(times[:8]))
        waiting = float(times.idle + getattr(times, "iowait", 0.0))
        own = self._own_seconds()
        last, self._last = self._last, (total, total - waiting, own)
        if last is None or total <= last[0]:
            return 0.0
        others = (total - waiting - last[1]) - max(0.0, own - last[2])
        return 100.0 * max(0.0, others) / (total - last[0])

    def programs(self) -> set[str]:
        """As the system names them."""
        found = (process.info.get("name") for process in self._psutil.process_iter(["name"]))
        return {name.lower().removesuffix(".exe") for name in found if name}

    def _own_seconds(self) -> float:
        spent = 0.0
        for pid in self.own:
            try:
                top = self._psutil.Process(pid)
                for process in (top, *top.children(recursive=True)):
                    times = process.cpu_times()
                    spent += times.user + times.system
            except self._psutil.Error:
                continue
        return spent

    @staticmethod
    def _terminal_idle_s(terminal: str | None) -> float:
        try:
            return max(0.0, time.time() - (Path("/dev") / (terminal or "-")).stat().st_atime)
        except OSError:
            return FOREVER_S


def _session_idle_s() -> float:
    """How long the desktop has been idle, as systemd's login manager knows it."""
    try:
        done = subprocess.run(
            ["loginctl", "show-user", str(os.getuid()), "-p", "IdleHint", "-p", "IdleSinceHint"],
            capture_output=True, text=True, timeout=5.0,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return FOREVER_S
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode or "IdleHint" not in found:
        return FOREVER_S
    if found["IdleHint"] != "yes":
        return 0.0
    since_us = int(found.get("IdleSinceHint") or 0)
    return max(0.0, time.time() - since_us / 1e6)


def hindrance(when: When, computer: Computer, now: datetime) -> str:
    """Why this machine must not work now, for people; empty if it may."""
    if when.mains_only and not computer.on_mains():
        return "on battery"
    if not within(when.hours, now):
        return "outside the hours that you set"
    if when.pause_for:
        running = computer.programs()
        for name in when.pause_for:
            if name.lower().removesuffix(".exe") in running:
                return f"{name} is running"
    busy = computer.busy_percent()  # asked always: it measures from look to look
    if when.idle_only:
        if computer.idle_s() < 60.0 * when.idle_minutes:
            return "somebody is using this machine"
        if busy > when.busy_percent:
            return f"other programs need the processor ({busy:.0f} %)"
    return ""


def within(hours: dict[str, str], now: datetime) -> bool:
    """Whether a time lies in the hours of its day, or of the night that began the day before."""
    if not hours:
        return True
    minute, day = now.hour * 60 + now.minute, now.weekday()
    today, yesterday = (hours.get(DAYS[d % 7]) for d in (day, day - 1))
    if today is not None:
        begin, end = parse_span(today)
        if begin <= minute and (minute < end or end < begin):
            return True
    if yesterday is not None:
        begin, end = parse_span(yesterday)
        return end < begin and minute < end
    return False
