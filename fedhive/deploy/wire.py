"""What a run's server tells whoever submitted it, line by line in the log that Flower streams.

A line is a marker and a JSON object. Files of the run directory travel as pieces, so that a
run on anybody's SuperLink fills a directory here; where both sides see the same folder they do
not travel at all.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedhive.errors import UserError
from fedhive.results import rundir

MARK = "fedhive>"
PIECE = 48 * 1024
GROWING = (rundir.ROUNDS, rundir.EVENTS)
WHOLE = (
    rundir.CONFIG, rundir.SPLIT, rundir.MACHINES, rundir.SUMMARY, rundir.AVAILABILITY,
    rundir.FORECAST, rundir.HIVE, rundir.PROTECTION, "availability.csv", "model.npz",
)  # fmt: skip
"""The only names that are accepted from a server."""


def said(kind: str, **content: Any) -> str:
    """One line."""
    return f"{MARK} {json.dumps({'kind': kind, **content}, separators=(',', ':'))}"


def understood(line: str) -> dict[str, Any] | None:
    """The object in a line of a server's log; None for any other line."""
    _, mark, text = line.partition(f"{MARK} ")
    if not mark:
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("kind"), str) else None


class Courier:
    """Sends the files of a run directory.

    Args:
        folder: the run directory.
        say: takes a line.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._done: dict[str, int] = {}

    def start(self, config: Mapping[str, Any], run_dir: Path, group: str | None) -> None:
        """The run begins; a resumed one has rounds already."""
        self.round({})

    def round(self, record: Mapping[str, Any]) -> None:
        """Send what has been added to the files that grow."""
        for name in GROWING:
            path = self._folder / name
            if path.is_file():
                begin = self._done.get(name, 0)
                with open(path, "rb") as file:
                    file.seek(begin)
                    self._send(name, file.read(), begin)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Send the rest of them."""
        self.round({})

    def deliver(self) -> None:
        """Send all other files, when nothing changes any more."""
        for name in WHOLE:
            path = self._folder / name
            if path.is_file():
                self._send(name, path.read_bytes(), 0)

    def _send(self, name: str, data: bytes, begin: int) -> None:
        for offset in range(0, len(data), PIECE):
            piece = data[offset : offset + PIECE]
            packed = base64.b64encode(zlib.compress(piece)).decode()
            self._say(said("file", name=name, at=begin + offset, data=packed))
        self._done[name] = begin + len(data)


def unpack(folder: Path, piece: Mapping[str, Any]) -> None:
    """Write a piece of a file where it belongs.

    Raises:
        UserError: for a name that no server may write, or a piece out of place.
    """
    name, at = piece.get("name"), piece.get("at")
    if name not in (*GROWING, *WHOLE) or not isinstance(at, int):
        raise UserError(f"the server sent a file that no run has ({str(name)[:80]!r}); refused")
    path = folder / str(name)
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(str(piece.get("data"))), PIECE)
    size = path.stat().st_size if path.is_file() else 0
    if at > size:
        raise UserError(f"a piece of {name} was lost on the way; the server's log is incomplete")
    with open(path, "r+b" if size else "wb") as file:
        file.seek(at)
        file.write(data)
        file.truncate()
