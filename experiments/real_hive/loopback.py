"""A whole hive on this machine: SuperLink, volunteers, TLS and keys, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from fedhive.deploy.command import main as operators
from fedhive.join.command import main as volunteers

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Loopback:
    """A hive in a folder.

    Args:
        folder: for everything.
        port: of the SuperLink; None for any free one.
        sandbox: let volunteers use one.
    """

    def __init__(self, folder: Path, port: int | None = None, sandbox: bool = True) -> None:
        self.folder, self.port, self.sandbox = folder, port or free_port(), sandbox
        self.home = folder / "hive"
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200",
        }  # fmt: skip

    # ---- commands -----------------------------------------------------------------------------

    def fedhive(self, *words: object, check: bool = True, wait_s: float = 600.0) -> str:
        """Output of a command, both streams."""
        done = subprocess.run(
            self._argv(words), cwd=self.folder, env=self.environment, text=True, timeout=wait_s,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{words}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def begin(self, name: str, *words: object) -> subprocess.Popen[str]:
        """Start a command in the background; its output goes to ``<name>.log``."""
        with open(self.folder / f"{name}.log", "a") as log:
            process = subprocess.Popen(
                self._argv(words), cwd=self.folder, env=self.environment, text=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.processes[name] = process
        return process

    @staticmethod
    def _argv(words: Sequence[object]) -> list[str]:
        return [sys.executable, "-m", "fedhive", *map(str, words)]

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # ---- parts --------------------------------------------------------------------------------

    def start_superlink(self, wait_s: float = 180.0) -> None:
        (self.folder / "superlink.log").unlink(missing_ok=True)
        self.begin(
            "superlink", "deploy", "start", "--home", self.home, "--address",
            f"127.0.0.1:{self.port}",
        )  # fmt: skip
        until(lambda: "is up at" in self.log("superlink"), wait_s, self.say_logs)

    def enlist(self, name: str, partition: int = -1, register: bool = True, **more: Any) -> Path:
        """Prepare a volunteer; their folder."""
        home = self.folder / name
        words = [] if self.sandbox else ["--no-sandbox"]
        invitation = self.home / "invitation.json"
        given = [invitation, "--home", home, "--name", name, "--yes", "--prepare", *words]
        volunteers([str(word) for word in given])
        if register:
            words = ["register", str(home / "node.pub"), "--as", name, "--home", str(self.home)]
            operators(words)
        settings = {"partition": partition, "poll_s": 0.3, "mains_only": False, **more}
        change(home / "config.toml", settings)
        return home

    def join(self, name: str) -> None:
        self.begin(name, "join", "--home", self.folder / name)

    def state(self, name: str) -> dict[str, Any]:
        path = self.folder / name / "state" / "status.json"
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return dict(json.loads(path.read_text()))
        return {}

    def family(self, name: str) -> list[psutil.Process]:
        """A part's process and all below it."""
        top = psutil.Process(self.processes[name].pid)
        return [top, *top.children(recursive=True)]

    def node_process(self, name: str) -> psutil.Process | None:
        """A volunteer's SuperNode."""
        for process in self.family(name):
            with contextlib.suppress(psutil.Error):
                if "fedhive.join.node" in " ".join(process.cmdline()):
                    return process
        return None

    def signal(self, name: str, number: int) -> None:
        """To everything that a part consists of."""
        for process in self.family(name):
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def end(self, name: str, wait_s: float = 60.0) -> None:
        """Stop a part as its owner would."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.processes[name] = process
            self.signal(name, signal.SIGKILL)
            del self.processes[name]
            process.wait(10)

    def say_logs(self) -> str:
        return "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self.processes)

    @contextlib.contextmanager
    def whole(self) -> Iterator[Loopback]:
        """Everything that was started ends with this."""
        try:
            yield self
        finally:
            for name in reversed(list(self.processes)):
                with contextlib.suppress(psutil.Error):
                    self.signal(name, signal.SIGCONT)
                with contextlib.suppress(psutil.Error):
                    self.end(name)


def change(path: Path, settings: dict[str, Any]) -> None:
    """Set values in a volunteer's configuration, as an editor would."""
    lines = []
    for line in path.read_text().splitlines():
        key = line.split(" = ")[0]
        if key in settings:
            line = f"{key} = {json.dumps(settings[key])}"
        lines.append(line)
    path.write_text("\n".join(lines) + "\n")


def until(condition: Callable[[], bool], limit_s: float, say: Callable[[], str] = str) -> None:
    """Wait.

    Raises:
        TimeoutError: if it takes too long.
    """
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited for {limit_s:g} s\n{say()}")
        time.sleep(0.2)
