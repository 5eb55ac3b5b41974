"""A volunteer's folder: key, authority, configuration, state, log; all of it in one place."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from fedhive.errors import UserError
from fedhive.join.settings import DEFAULT_HOME, Settings, load

WISHES = ("resume", "pause", "finish", "stop")
LOG_BYTES = 1_000_000


class Folder:
    """Where `fedhive join` keeps everything.

    Args:
        home: the folder.
    """

    def __init__(self, home: Path = DEFAULT_HOME) -> None:
        self.home = home.expanduser().absolute()
        self.config = self.home / "config.toml"
        self.authority = self.home / "hive.crt"
        self.key = self.home / "node"
        self.public_key = self.home / "node.pub"
        self.tpm = self.home / "tpm"  # `fedhive trust hello --keys`: used in place of the key file
        self.flower = self.home / "flower"
        self.state = self.home / "state"
        self.node_log = self.state / "supernode.log"
        self.people_log = self.state / "log.txt"
        self.pulse_path = self.state / "pulse.json"
        self.usage_path = self.state / "usage.json"

    @property
    def settings(self) -> Settings:
        """The configuration.

        Raises:
            UserError: if there is none, or it is wrong.
        """
        found = load(self.config)
        if self.key.is_file() and self.key.stat().st_mode & 0o077:
            raise UserError(f"{self.key} can be read by others; run `chmod 600 {self.key}`")
        return found

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only one that works from this folder.

        Raises:
            UserError: if somebody else does.
        """
        import fcntl

        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self.state / "lock", "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    "fedhive join is running already; `fedhive join status` tells what it does"
                ) from error
            self.want("resume")
            yield

    @property
    def running(self) -> bool:
        """Whether a supervisor works from this folder."""
        import fcntl

        path = self.state / "lock"
        if not path.is_file():
            return False
        with open(path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    # ---- wishes and state ---------------------------------------------------------------------

    def want(self, wish: str) -> None:
        """Leave a wish for the supervisor, one of `WISHES`."""
        self.write("wish.json", {"wish": wish})

    def wish(self) -> str:
        """The last wish."""
        found = str(self._read(self.state / "wish.json").get("wish", "resume"))
        return found if found in WISHES else "resume"

    def write_status(self, status: dict[str, Any]) -> None:
        """Keep the state for `fedhive join status`."""
        self.write("status.json", status)

    def status(self) -> dict[str, Any]:
        """What the supervisor wrote last; stopped if there is none."""
        found = self._read(self.state / "status.json")
        if not self.running:
            found |= {"state": "stopped", "reason": found.get("reason", "") or "not started"}
        return found

    def pulse(self) -> dict[str, Any]:
        """The SuperNode's last sign of life."""
        return self._read(self.pulse_path)

    def tasks(self) -> int:
        """Tasks done in all."""
        return int(self._read(self.usage_path).get("tasks", 0))

    def traffic_bytes(self) -> int:
        """Bytes sent and received in this calendar month."""
        found = self._read(self.usage_path)
        return int(found.get("bytes", 0)) if found.get("month") == this_month() else 0

    def used_up(self, monthly_gb: float) -> bool:
        """Whether the month's quota is used up; 0 is no quota."""
        return bool(monthly_gb) and self.traffic_bytes() >= monthly_gb * 1e9

    def write(self, name: str, value: Any) -> None:
        """Replace a small file of state at once."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(self.state / name, value)

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    # ---- the log ------------------------------------------------------------------------------

    def log(self, line: str) -> None:
        """Add a line with the local time; the file is turned over before it grows large."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.people_log.is_file() and self.people_log.stat().st_size > LOG_BYTES:
            os.replace(self.people_log, self.people_log.with_suffix(".old.txt"))
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with open(self.people_log, "a", encoding="utf-8") as file:
            file.write(f"{stamp}  {line}\n")
        print(f"{stamp}  {line}", flush=True)


def this_month() -> str:
    """The calendar month, e.g. ``2026-11``."""
    return f"{datetime.now():%Y-%m}"


def write_json(path: Path, value: Any) -> None:
    """Replace a file at once."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")
    os.replace(temporary, path)
