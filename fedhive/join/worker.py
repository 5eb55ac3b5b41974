"""The process in which a hive's code runs.

It is started before there is work, imports what takes seconds, and waits. For each task it makes a
copy of itself (fork) that does the task and ends; whatever the task leaves behind in the sandbox,
files and processes, goes with it. It is run by its path with ``python -I`` and imports nothing of
fedhive: the code that comes with a task must find its own.

Arguments: the port of the SuperNode; then, in a sandbox, the socket through which alone it is
reached. Standard input: the tokens of tasks, one a line. Standard output: ``ready``, then ``done``
and the exit status after each task.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

BLOCK = 1 << 16
PR_SET_DUMPABLE = 4


def relay(port: int, path: str) -> None:
    """Carry connections to a port of this machine, which in a sandbox is nobody's, to a socket."""
    server = socket.create_server(("127.0.0.1", port))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(BLOCK):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            inner, _ = server.accept()
            outer = socket.socket(socket.AF_UNIX)
            outer.connect(path)
            for pair in ((inner, outer), (outer, inner)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def limit() -> None:
    """What no code can take back: no core dumps, no files above the disk limit."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    disk = int(os.environ.pop("FEDHIVE_DISK_BYTES", "0"))
    if disk:
        resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))


def readable(by_others: bool) -> None:
    """Whether processes of the same user may look into this one's memory."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, int(by_others), 0, 0, 0)


def do(run: Any, token: str, port: int, path: str) -> int:
    """Do one task in a copy of this process; its exit status."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        clean(child, sandboxed=bool(path))
        return os.waitstatus_to_exitcode(status)
    try:
        os.setsid()
        readable(by_others=True)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(2, 1)
        sys.stdin = open(os.devnull)  # noqa: SIM115  (not what this process has read ahead)
        if path:
            relay(port, path)
        sys.argv = ["flwr-clientapp", "--insecure", "--token", token]
        sys.argv += ["--runtime-api-address", f"127.0.0.1:{port}"]
        run()
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def clean(child: int, sandboxed: bool) -> None:
    """End what a task has started; in a sandbox, take away its files too."""
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    if not sandboxed:
        return
    # The sandbox has process numbers of its own: nobody else is in here.
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(int(name), signal.SIGKILL)
    for folder in ("/tmp", "/dev/shm"):
        for entry in Path(folder).iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    Path("/tmp/home").mkdir(exist_ok=True)
    os.chdir("/tmp/home")


def main() -> None:
    """Wait for tokens; be Flower's ClientApp process for each."""
    port, path = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    readable(by_others=False)
    limit()
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="flwr-clientapp")
    run = command.load()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print("ready", flush=True)
    for line in sys.stdin:
        print("done", do(run, line.strip(), port, path), flush=True)


if __name__ == "__main__":
    main()
