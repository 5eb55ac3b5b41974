"""Time, simulated or real, behind one small interface.

A strategy asks its grid for a clock and never calls ``time`` itself, so the same scheduler jumps
through a simulated week and really waits in a deployment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol


class Clock(Protocol):
    """What a strategy may do with time; all values are seconds since the run began."""

    @property
    def now(self) -> float:
        """The current time."""
        ...

    def sleep_until(self, t_s: float) -> None:
        """Let time pass until ``t_s``; returns at once if that is in the past."""
        ...

    def wait(self, until_s: float) -> None:
        """Let time pass until something may have happened, at the latest until ``until_s``."""
        ...


class VirtualClock:
    """A clock that jumps.

    Args:
        next_event: returns the time of the earliest event after a given time, or infinity.
    """

    def __init__(self, next_event: Callable[[float], float], now_s: float = 0.0) -> None:
        self._now = now_s
        self._next_event = next_event

    @property
    def now(self) -> float:
        """Simulated seconds since the run began."""
        return self._now

    def sleep_until(self, t_s: float) -> None:
        """Jump to ``t_s``, never backwards.

        Raises:
            ValueError: if ``t_s`` is not finite.
        """
        if not math.isfinite(t_s):
            raise ValueError(f"cannot sleep until {t_s}: nothing would ever wake this run")
        self._now = max(self._now, t_s)

    def wait(self, until_s: float) -> None:
        """Jump to the next event, at most to ``until_s``."""
        self.sleep_until(min(until_s, self._next_event(self._now)))


class WallClock:
    """Real time, counted from the clock's creation.

    Args:
        poll_s: how often ``wait`` lets its caller look for news.
        now_s: what it shows at first; a resumed run's clock goes on where it stopped.
    """

    def __init__(self, poll_s: float = 0.2, now_s: float = 0.0) -> None:
        self._origin = time.monotonic() - now_s
        self._poll_s = poll_s

    @property
    def now(self) -> float:
        """Seconds since this clock was made."""
        return time.monotonic() - self._origin

    def sleep_until(self, t_s: float) -> None:
        """Sleep for real."""
        time.sleep(max(0.0, t_s - self.now))

    def wait(self, until_s: float) -> None:
        """Sleep for one polling interval, at most until ``until_s``."""
        time.sleep(max(0.0, min(self._poll_s, until_s - self.now)))


def clock_of(grid: Any) -> Clock:
    """The grid's own clock, or real time for grids that know nothing of clocks."""
    clock: Clock | None = getattr(grid, "clock", None)
    return clock if clock is not None else WallClock()
