"""A socket file behind which is one port of this machine: all that a sandbox can reach."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

BLOCK = 1 << 16


def serve_socket(path: Path, port: int) -> None:
    """Carry connections to the socket at ``path`` to ``127.0.0.1:port``, in the background.

    Raises:
        OSError: if the path is too long for a socket (107 bytes), or cannot be made.
    """
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    path.chmod(0o600)
    server.listen(64)
    threading.Thread(target=_accept, args=(server, port), daemon=True).start()


def _accept(server: socket.socket, port: int) -> None:
    while True:
        inner, _ = server.accept()
        try:
            outer = socket.create_connection(("127.0.0.1", port), 10.0)
        except OSError:
            inner.close()
            continue
        outer.settimeout(None)
        for pair in ((inner, outer), (outer, inner)):
            threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(BLOCK):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
