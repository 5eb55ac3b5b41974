"""What a machine has given to a hive, counted by its SuperNode, and how fast it may give."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fedhive.join.folder import this_month, write_json

MEGABIT = 1e6 / 8


class Usage:
    """Counts tasks and traffic in a file, and slows traffic down to what its owner allows.

    Args:
        path: the file; what it holds is added to.
        upload_mbps: megabits per second sent; 0 for no limit.
        download_mbps: received.
        sleep: lets time pass.
    """

    def __init__(
        self,
        path: Path,
        upload_mbps: float = 0.0,
        download_mbps: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path, self._sleep = path, sleep
        self._rates = upload_mbps * MEGABIT, download_mbps * MEGABIT
        self._lock = threading.Lock()

    def traffic(self, up: int, down: int) -> None:
        """Count what was just sent and received, and wait until it was not too fast."""
        self._add(up + down, 0)
        for size, rate in zip((up, down), self._rates, strict=True):
            if size and rate:
                self._sleep(size / rate)

    def task(self) -> None:
        """Count a task."""
        self._add(0, 1)

    def _add(self, size: int, tasks: int) -> None:
        with self._lock:
            try:
                found = json.loads(self._path.read_text(encoding="utf-8"))
            except (OSError, json.JSONDecodeError):
                found = {}
            if found.get("month") != this_month():
                found |= {"month": this_month(), "bytes": 0}
            found["bytes"] = int(found.get("bytes", 0)) + size
            found["tasks"] = int(found.get("tasks", 0)) + tasks
            write_json(self._path, found)
