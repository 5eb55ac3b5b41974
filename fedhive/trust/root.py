"""Reading a machine's files below a root of one's choice, so that any machine can be a test."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 1 << 20
"""Enough for any file that is looked at; /proc/cpuinfo of 256 threads has 0.4 MB."""


class Root:
    """The files of a Linux machine.

    Args:
        path: where its ``/`` is.
    """

    def __init__(self, path: Path | str = "/") -> None:
        self.path = Path(path)

    def at(self, name: str) -> Path:
        """The path of a file, given without its leading slash."""
        return self.path / name

    def exists(self, name: str) -> bool:
        """Whether it is there, as far as may be known."""
        try:
            return self.at(name).exists()
        except OSError:
            return False

    def read(self, name: str) -> bytes | None:
        """What a file holds; None if there is none.

        Raises:
            PermissionError: if it is there but not for us.
        """
        try:
            with self.at(name).open("rb") as file:
                return file.read(MOST_BYTES)
        except PermissionError:
            raise
        except OSError:
            return None

    def text(self, name: str) -> str | None:
        """What a text file holds, without surrounding space; None if it cannot be read."""
        try:
            data = self.read(name)
        except PermissionError:
            return None
        return None if data is None else data.decode("utf-8", "replace").strip("\0 \t\r\n")

    def number(self, name: str) -> int | None:
        """The whole number in a file; None if there is none."""
        try:
            return int(self.text(name) or "", 0)
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[str]:
        """The files that match, relative to the root, sorted."""
        try:
            return sorted(str(path.relative_to(self.path)) for path in self.path.glob(pattern))
        except OSError:
            return []
