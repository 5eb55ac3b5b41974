"""The process in which tasks run, with a stand-in for Flower's ClientApp."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedhive.join import sandbox, worker
from fedhive.join.node import Pulse, Worker
from fedhive.join.usage import Usage

TASKS = r"""
import os, subprocess, sys, time
sys.path.insert(0, PLACE)
import worker
def run():
    token = sys.argv[sys.argv.index("--token") + 1]
    if token == "leave":
        open("/tmp/left", "w").write("x")
        open("/dev/shm/left", "w").write("x")
        subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
    elif token == "look":
        alive = [p for p in os.listdir("/proc") if p.isdigit()]
        found = [f for f in ("/tmp/left", "/dev/shm/left") if os.path.exists(f)]
        sys.exit(10 * len(found) + len(alive))
    elif token == "input":
        sys.exit(len(sys.stdin.read()))
    elif token == "memory":
        try:
            open(f"/proc/{os.getppid()}/mem").read(1)
        except OSError:
            sys.exit(7)
    elif token == "crash":
        os.abort()
    elif token == "fail":
        raise ValueError("on purpose")
worker.limit()
worker.readable(by_others=False)
for line in sys.stdin:
    print("done", worker.do(run, line.strip(), 1, SOCKET), flush=True)
"""


def answers(folder: Path, boxed: bool, *tokens: str) -> list[str]:
    script = folder / "tasks.py"
    place = "/run/fedhive" if boxed else str(Path(worker.__file__).parent)
    text = TASKS.replace("PLACE", repr(place)).replace("SOCKET", repr("none" if boxed else ""))
    if boxed:  # the relay has nowhere to go
        text = text.replace("worker.limit()", "worker.limit(); worker.relay = lambda *a: None")
    script.write_text(text)
    command = [sys.executable, "-I", str(script)]
    if boxed:
        inside = {
            script: sandbox.INSIDE / "tasks.py",
            Path(worker.__file__): sandbox.INSIDE / "worker.py",
        }
        words = [sys.executable, "-I", str(inside[script])]
        command = sandbox.command(words, {"PATH": "/usr/bin"}, mounts=inside)
    done = subprocess.run(
        command, input="\n".join(tokens) + "\n", capture_output=True, text=True, timeout=60
    )
    return [line.split()[1] for line in done.stdout.splitlines()]


def test_a_task_that_crashes_or_fails_ends_alone(tmp_path: Path) -> None:
    assert answers(tmp_path, False, "ok", "crash", "fail", "input", "ok") == [
        "0", "-6", "1", "0", "0",
    ]  # fmt: skip


@pytest.mark.skipif(bool(sandbox.missing()), reason=f"no sandbox here: {sandbox.missing()}")
def test_nothing_of_a_task_is_left_for_the_next(tmp_path: Path) -> None:
    *_, looked, memory = answers(tmp_path, True, "leave", "look", "memory")
    assert (
        looked == "3"
    )  # the sandbox's own, the waiting process, the task: nobody and nothing else
    assert memory == "7"  # the waiting process cannot be read or changed


class Alone(Worker):
    """Does one task."""

    def once(self, token: str) -> float:
        began = time.monotonic()
        self.process = self._start()
        self._do(self.process, token)
        self.process.kill()
        self.process.wait()
        return time.monotonic() - began


def alone(folder: Path, code: str, **limits: float) -> Alone:
    order = {
        "worker": [sys.executable, "-c", code], "environment": None, "scratch": str(folder),
        "memory_gb": 0.0, "cpu_share": 1.0, **limits,
    }  # fmt: skip
    return Alone(order, Pulse(folder / "pulse.json"), Usage(folder / "usage.json"))


def test_a_task_that_needs_too_much_memory_is_ended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import time; input(); x = b'x' * 300_000_000; time.sleep(60)"
    assert alone(tmp_path, code, memory_gb=0.2).once("t") < 30.0
    assert "the limit is 0.2 GB" in capfd.readouterr().err


def test_a_task_gets_its_share_of_the_time(tmp_path: Path) -> None:
    code = (
        "import time; input(); w, c = time.monotonic(), time.process_time()\n"
        "while time.monotonic() - w < 2.0: pass\n"
        f"open({str(tmp_path / 'spent')!r}, 'w').write(str(time.process_time() - c))\n"
        "print('done 0', flush=True)"
    )
    alone(tmp_path, code, cpu_share=0.25).once("t")
    assert float((tmp_path / "spent").read_text()) < 0.8  # of 2 seconds; 0.5 on a quiet machine
