"""Keeps a volunteer's SuperNode running when it may run, and only then.

Flower's SuperNode, left alone, stays as a dead process after a TLS error, and one that is
started again within a minute of a crash is refused: the SuperLink still takes it to be there.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from fedhive.deploy.environment import SETTINGS, flower_environment
from fedhive.deploy.hive import parted, unreachable
from fedhive.errors import UserError
from fedhive.join import sandbox
from fedhive.join.answer import FACTS, coded
from fedhive.join.facts import facts
from fedhive.join.folder import Folder
from fedhive.join.policy import Computer, ThisComputer, hindrance
from fedhive.join.reasons import Trouble, trouble_in
from fedhive.join.settings import Settings

BACK_OFF_S = 65.0
"""A SuperLink takes a machine to be there for 60 s after its last sign of life."""
LONGEST_BACK_OFF_S = 900.0
SILENCE_S = 150.0
"""No answer from the hive for so long, with a network that works: the SuperNode is dead."""
TICK_S = 1.0
LINGER_S = 60.0
"""A machine that was disturbed stays quiet for a while, rather than coming and going."""


class Supervisor:
    """Runs one SuperNode.

    Args:
        folder: the volunteer's.
        settings: what they decided.
        computer: what policies look at.
        reach: why the hive cannot be reached, empty if it can.
        clock: unix time.
    """

    def __init__(
        self,
        folder: Folder,
        settings: Settings,
        computer: Computer | None = None,
        reach: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        host, port = parted(settings.address)
        self.folder, self.settings = folder, settings
        self.own = ThisComputer()
        self.computer: Computer = computer or self.own
        self._reach = reach or (lambda: unreachable(host, port, folder.authority))
        self._clock = clock
        self.child: subprocess.Popen[bytes] | None = None
        self.state, self.reason = "starting", ""
        self.crashes, self._not_before, self._started = 0, 0.0, 0.0
        self._log_at, self._asked_to_leave = 0, False
        self._runtime = Path(tempfile.mkdtemp(prefix="fedhive-"))
        self._scratch = self._runtime / "scratch"
        self._scratch.mkdir()

    # ---- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Until told to stop.

        Raises:
            UserError: if there is no sandbox and the volunteer has not agreed to do without.
        """
        if self.settings.sandbox and sandbox.missing():
            raise UserError(f"refused to run the hive's code: {sandbox.missing()}")
        stop: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, _: stop.append(n))
        with self.folder.lock():
            self.say(f"joined {self.settings.hive} as {self.settings.name}")
            try:
                while not stop and self.tick():
                    time.sleep(TICK_S)
            finally:
                self.end_child()
                if self.state != "stopped":
                    self.set("stopped", "told to stop")
                self.folder.write_status(self.status())
                shutil.rmtree(self._runtime, ignore_errors=True)

    def tick(self) -> bool:
        """Look once; whether to go on."""
        wish = self.folder.wish()
        if wish == "stop":
            return False
        self._reap()
        if self.child is None and wish == "finish":
            self.set("stopped", "finished its work, then stopped as you asked")
            return False
        hindered = self._hindered(wish)
        if self.child is None:
            self._consider(hindered)
        elif wish == "finish":
            self._leave("finishing its work")
        elif hindered:
            self._pause(hindered)
        else:
            self._watch()
        self.folder.write_status(self.status())
        return True

    def _hindered(self, wish: str) -> str:
        if wish == "pause":
            return "you paused it"
        if self.folder.used_up(self.settings.limits.monthly_gb):
            return "this month's network quota is used up"
        return hindrance(self.settings.when, self.computer, datetime.now())

    def _consider(self, hindered: str) -> None:
        """Nothing runs: may something?"""
        now = self._clock()
        if hindered:
            if hindered != "you paused it":
                self._not_before = max(self._not_before, now + LINGER_S)
            self.set("paused", hindered)
        elif now >= self._not_before:
            self._start()
        elif self.state != "paused":
            left = self._not_before - now
            self.set("waiting", f"{self.reason.split(' (again')[0]} (again in {left:.0f} s)")

    def _pause(self, reason: str) -> None:
        """Leave at once: the hive hears of it and counts on others."""
        self.end_child()
        self._not_before = self._clock() + (0.0 if reason == "you paused it" else LINGER_S)
        self.set("paused", reason)

    def _leave(self, reason: str) -> None:
        """Leave as soon as no task is under way."""
        if self.child is not None and not self._asked_to_leave:
            self._asked_to_leave = True
            self.child.send_signal(signal.SIGUSR1)
            self.set("finishing", reason)

    def _watch(self) -> None:
        """Something runs: is it alive?"""
        now, pulse = self._clock(), self.folder.pulse()
        beat = float(pulse.get("beat", 0.0)) if pulse.get("pid") == self._pid() else 0.0
        since = max(beat, self._started)
        if beat:
            self.set("working" if pulse.get("busy") else "ready", "")
        if now - since < SILENCE_S:
            if beat and now - beat > 60.0 and self.crashes:
                self.crashes = 0
            return
        blocked = self._reach()
        if blocked:  # Flower tries for ever, and keeps finished work for when it is back
            self.set("offline", blocked)
            return
        self.say("the SuperNode is dead though the hive can be reached; starting it anew")
        self.end_child(kill=True)
        self._back_off("the SuperNode was dead")

    # ---- the child ----------------------------------------------------------------------------

    def _start(self) -> None:
        blocked = self._reach()
        if blocked:
            self._not_before = self._clock() + 15.0
            self.set("offline", blocked)
            return
        self.folder.pulse_path.unlink(missing_ok=True)
        order = self._runtime / "order.json"
        order.write_text(json.dumps(self.order()), encoding="utf-8")
        order.chmod(0o600)
        self._log_at = self.folder.node_log.stat().st_size if self.folder.node_log.exists() else 0
        with open(self.folder.node_log, "ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "fedhive.join.node", str(order)],
                env=flower_environment(self.folder.flower), cwd=self.folder.home,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=self._polite,
            )  # fmt: skip
        self.own.own = [self.child.pid]
        self._asked_to_leave, self._started = False, self._clock()
        self.set("connecting", "")

    def _polite(self) -> None:
        os.nice(self.settings.limits.nice)

    def order(self) -> dict[str, Any]:
        """All that `fedhive.join.node` needs to know."""
        settings, limits = self.settings, self.settings.limits
        port, sock = _free_port(), self._runtime / "node.sock"
        script = Path(__file__).with_name("worker.py")
        threads = str(limits.threads)
        environment = {
            **SETTINGS, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
            "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
            "FEDHIVE_DISK_BYTES": str(int(limits.disk_gb * 1e9)),
        }  # fmt: skip
        python = [sys.executable, "-I"]
        if settings.sandbox:
            inside = {sock: sandbox.INSIDE / "node.sock", script: sandbox.INSIDE / "worker.py"}
            worker = sandbox.command(
                [*python, str(inside[script]), str(port), str(inside[sock])],
                {**environment, "FLWR_HOME": "/tmp/home/flower"},
                read=[Path(folder).expanduser() for folder in settings.data],
                mounts=inside, disk_bytes=int(limits.disk_gb * 1e9), gpu=settings.gpu,
            )  # fmt: skip
        else:
            worker = [*python, str(script), str(port)]
            environment |= {"FLWR_HOME": str(self._scratch / "flower"), "HOME": str(Path.home())}
        told = facts(settings)
        config = {"partition-id": settings.partition} if settings.partition >= 0 else {}
        words = [f"{key}={value}" for key, value in config.items()]
        words += [f'{FACTS}="{coded(told)}"'] if told else []
        return {
            "address": settings.address, "authority": str(self.folder.authority),
            "key": str(self.folder.key), "port": port, "poll_s": settings.poll_s,
            "tpm": str(self.folder.tpm) if self.folder.tpm.is_dir() else None,
            "node_config": " ".join(words), "socket": str(sock), "worker": worker,
            "environment": environment, "scratch": str(self._scratch),
            "pulse": str(self.folder.pulse_path), "usage": str(self.folder.usage_path),
            "memory_gb": limits.memory_gb, "cpu_share": limits.cpu_share,
            "upload_mbps": limits.upload_mbps, "download_mbps": limits.download_mbps,
        }  # fmt: skip

    def _reap(self) -> None:
        """Notice that the child has ended, and find out why."""
        if self.child is None or self.child.poll() is None:
            return
        code, left = self.child.returncode, self._asked_to_leave
        self.child = None
        if left:
            return
        trouble = trouble_in(self._said()) or Trouble(
            f"the SuperNode ended unexpectedly (exit status {code}; see `fedhive join log --all`)"
        )
        self.say(trouble.text)
        self._back_off(trouble.text, trouble.wait_s)

    def _back_off(self, reason: str, least_s: float = BACK_OFF_S) -> None:
        self.crashes += 1
        wait = max(BACK_OFF_S, least_s) * 2.0 ** min(self.crashes - 1, 6)
        wait = max(min(wait, LONGEST_BACK_OFF_S), least_s) * random.uniform(1.0, 1.1)
        self._not_before = self._clock() + wait
        self.set("waiting", reason)

    def _said(self) -> str:
        """What the child has written since it began."""
        with open(self.folder.node_log, "rb") as log:
            log.seek(self._log_at)
            return log.read()[-20_000:].decode(errors="replace")

    def end_child(self, kill: bool = False) -> None:
        """Stop the SuperNode, politely unless it is dead; what it started ends with it."""
        if self.child is None:
            return
        if not kill:
            self.child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(10.0)
        end_family(self.child.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(10.0)
        self.child = None

    def _pid(self) -> int:
        return self.child.pid if self.child is not None else -1

    # ---- telling ------------------------------------------------------------------------------

    def set(self, state: str, reason: str) -> None:
        """Change the state; people are told of changes."""
        words = (state, reason.split(" (again")[0])
        if words != (self.state, self.reason.split(" (again")[0]):
            self.say(f"{state}{': ' + words[1] if reason else ''}")
        self.state, self.reason = state, reason

    def say(self, line: str) -> None:
        """One line for the log that people read."""
        self.folder.log(line)

    def status(self) -> dict[str, Any]:
        """The state as plain data."""
        pulse = self.folder.pulse()
        return {
            "state": self.state, "reason": self.reason, "hive": self.settings.hive,
            "address": self.settings.address, "name": self.settings.name,
            "sandbox": self.settings.sandbox, "tasks": self.folder.tasks(),
            "traffic_gb": round(self.folder.traffic_bytes() / 1e9, 6),
            "last_answer": pulse.get("beat") or None, "crashes": self.crashes,
            "pid": os.getpid(), "time": self._clock(),
        }  # fmt: skip


def end_family(pid: int) -> None:
    """Kill a process and everything below it."""
    import psutil

    with contextlib.suppress(psutil.Error):
        family = psutil.Process(pid).children(recursive=True)
        for process in [psutil.Process(pid), *family]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
