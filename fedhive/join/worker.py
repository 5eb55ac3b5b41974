"""The process in which a hive's code runs: one task, then it ends.

It is started before there is work, imports what takes long, and waits. It is run by its path with
``python -I`` and imports nothing of fedhive: the code that comes with the task must find its own.

Arguments: the port of the SuperNode; then, in a sandbox, the socket through which alone it is
reached. Standard input: one line, the task's token.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

BLOCK = 1 << 16


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


def main() -> None:
    """Wait for a token, then be Flower's ClientApp process."""
    port, path = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    if path:
        relay(port, path)
    limit()
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="flwr-clientapp")
    run = command.load()
    import scipy  # noqa: F401
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print("ready", flush=True)
    token = sys.stdin.readline().strip()
    if not token:
        return
    sys.argv = ["flwr-clientapp", "--insecure", "--runtime-api-address", f"127.0.0.1:{port}"]
    sys.argv += ["--token", token]
    run()


if __name__ == "__main__":
    main()
