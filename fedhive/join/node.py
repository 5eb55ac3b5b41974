"""The process of a volunteer's SuperNode: ``python -m fedhive.join.node ORDER.json``.

It runs Flower's SuperNode, and ClientApps in processes of their own, started here: inside a
sandbox, warmed up before there is work, watched for what they take. It tells its
supervisor in a small file that it is alive, and ends at a safe moment when asked by SIGUSR1.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedhive.join.relay import serve_socket
from fedhive.join.usage import Usage

GAVE_UP = 75  # EX_TEMPFAIL: worth another try
TOO_MUCH_MEMORY = "task ended: it needed {used:.1f} GB of memory, the limit is {limit:g} GB"
CYCLE_S = 0.2
TAKE_S = 0.1


class Worker:
    """The process in which tasks run, `fedhive.join.worker`, in its sandbox.

    Args:
        order: see `fedhive.join.supervisor`.
        pulse: told of tasks.
        usage: counts them.
    """

    def __init__(self, order: dict[str, Any], pulse: Pulse, usage: Usage) -> None:
        self.order, self.pulse, self.usage = order, pulse, usage
        self.process: subprocess.Popen[str] | None = None

    def run(self, take: Callable[[], str | None]) -> None:
        """Have every task done, for ever."""
        while True:
            if self.process is None or self.process.poll() is not None:
                self.process = self._start()
                # A task that nobody takes up within 30 s of its token is given out again.
                if not self._await(self.process, "ready"):
                    say("the process for tasks did not start; trying again in a minute")
                    time.sleep(60.0)
                    continue
            token = take()
            if token is None:
                time.sleep(TAKE_S)
                continue
            self.pulse.task(True)
            self._do(self.process, token)
            self.pulse.task(False)
            self.usage.task()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.order["worker"], env=self.order["environment"], cwd=self.order["scratch"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True,
            start_new_session=True,
        )  # fmt: skip

    @staticmethod
    def _await(process: subprocess.Popen[str], word: str) -> bool:
        """Wait until the process says something; False if it ends before."""
        assert process.stdout is not None
        while line := process.stdout.readline():
            if line.startswith(word):
                return True
        return False

    def _do(self, process: subprocess.Popen[str], token: str) -> None:
        assert process.stdin is not None
        done = threading.Event()
        threading.Thread(target=self._watch, args=(process, done), daemon=True).start()
        try:
            process.stdin.write(token + "\n")
            process.stdin.flush()
            if not self._await(process, "done"):
                say("task failed: its process has ended")
        except OSError as error:
            say(f"task failed: its process is gone ({error})")
        finally:
            done.set()

    def _watch(self, process: subprocess.Popen[str], done: threading.Event) -> None:
        """Keep a task within its limits until it ends."""
        import psutil

        limit_gb, share = float(self.order["memory_gb"]), float(self.order["cpu_share"])
        looked = time.monotonic()
        while not done.wait(CYCLE_S * share):
            if share < 1.0:
                _signal(process, signal.SIGSTOP)
                time.sleep(CYCLE_S * (1.0 - share))
                _signal(process, signal.SIGCONT)
            if limit_gb and time.monotonic() - looked > 1.0:
                looked = time.monotonic()
                used = _memory(psutil, process.pid) / 1e9
                if used > limit_gb:
                    say(TOO_MUCH_MEMORY.format(used=used, limit=limit_gb))
                    _signal(process, signal.SIGKILL)


class Pulse:
    """The file by which a supervisor knows that its node is alive.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._row: dict[str, Any] = {"pid": os.getpid(), "beat": 0.0, "busy": False}
        self._written = 0.0
        self._lock = threading.Lock()

    def beat(self) -> None:
        """The hive has answered."""
        self._row["beat"] = time.time()
        if time.monotonic() - self._written > 1.0:
            self._write()

    def task(self, begins: bool) -> None:
        """A task begins or has ended."""
        self._row["busy"] = begins
        self._write()

    def _write(self) -> None:
        with self._lock:
            self._written = time.monotonic()
            temporary = self._path.with_name(f".{self._path.name}.tmp")
            temporary.write_text(json.dumps(self._row), encoding="utf-8")
            os.replace(temporary, self._path)


def say(line: str) -> None:
    """One line for the log that people read."""
    print(f"fedhive: {line}", file=sys.stderr, flush=True)


def _signal(process: subprocess.Popen[str], number: int) -> None:
    """To a worker and all it started; in a sandbox these are one session."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return
    # A sandbox puts its inside into another session.
    import psutil

    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return
    for child in children:
        try:
            child.send_signal(number)
        except psutil.Error:
            continue


def _memory(psutil: Any, pid: int) -> float:
    """Bytes of memory that a process and all below it hold."""
    total = 0.0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0.0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def _listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def main(order: dict[str, Any]) -> int:
    """Be a SuperNode until it gives up or is told to end; the exit status."""
    from fedhive.flower import run_supernode, take_task
    from fedhive.trust.supernode import key_of

    pulse = Pulse(Path(order["pulse"]))
    usage = Usage(
        Path(order["usage"]), float(order["upload_mbps"]), float(order["download_mbps"])
    )  # fmt: skip
    worker = Worker(order, pulse, usage)
    port, secret = int(order["port"]), secrets.token_bytes(32)
    secret_file = Path(order["pulse"]).with_name("secret")
    secret_file.unlink(missing_ok=True)
    descriptor = os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    leaving = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: leaving.set())

    def idle() -> None:
        if leaving.is_set():
            os.kill(os.getpid(), signal.SIGTERM)  # Flower says goodbye to the SuperLink

    def begin() -> None:
        while not _listening(port):
            time.sleep(0.1)
        serve_socket(Path(order["socket"]), port)
        worker.run(take_task(f"127.0.0.1:{port}", secret))

    threading.Thread(target=begin, daemon=True).start()
    arguments = [
        "--superlink", order["address"], "--root-certificates", order["authority"],
        "--auth-supernode-private-key", order["key"], "--port", str(port),
        "--isolation", "process", "--superexec-auth-secret-file", str(secret_file),
        *(["--node-config", order["node_config"]] if order["node_config"] else []),
    ]  # fmt: skip
    with key_of(order.get("tpm")):
        run_supernode(arguments, float(order["poll_s"]), idle, pulse.beat, usage.traffic)
    say("gave up: the SuperNode has lost the hive")
    return GAVE_UP


if __name__ == "__main__":
    status = main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    os._exit(status)  # Flower's threads would keep this process alive for ever
