"""What an operator keeps about enrolled machines: one file, changed by one process at a time."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import hmac
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedhive.errors import UserError

FILE, SECRET, LOCK = "enrolments.json", "secret.key", ".lock"
COLUMNS = ("key", "name", "owner", "device")


@dataclass(frozen=True)
class Enrolment:
    """One machine that was let in.

    Args:
        device: what stands for its TPM: a keyed digest of the endorsement key, nothing that could
            be matched with other lists.
        key: the node's public key, PEM, as SuperLink and SuperNode know it.
        attestation_key: public part of the attestation key, hexadecimal.
        name: for people.
        owner: account or person that it was admitted for.
        vouched: name of the root certificate of its maker; empty if nobody vouches for the chip.
        enrolled_s: Unix time.
        checked_s: Unix time of the last good quote.
        registers: SHA-256 by PCR at enrolment, hexadecimal.
        measured: whether a log accounted for the registers at the last quote.
        secure_boot: as measured at the last quote; None if that is not known.
        facts: what it declared, as JSON objects.
    """

    device: str
    key: str
    attestation_key: str
    name: str
    owner: str
    vouched: str
    enrolled_s: float
    checked_s: float
    registers: dict[str, str] = field(default_factory=dict)
    measured: bool = False
    secure_boot: bool | None = None
    facts: list[dict[str, Any]] = field(default_factory=list)


class Ledger:
    """Enrolments and open challenges in a folder.

    Args:
        folder: is made if it is not there; only its owner may read it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def device(self, endorsement_key: bytes) -> str:
        """What stands for an endorsement key in this ledger."""
        return hmac.new(self._secret(), endorsement_key, hashlib.sha256).hexdigest()

    def _secret(self) -> bytes:
        path = self.folder / SECRET
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        number, name = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(number, "wb") as file:
            file.write(os.urandom(32))
        with contextlib.suppress(FileExistsError):  # another process was first: its key counts
            os.link(name, path)
        os.unlink(name)
        return path.read_bytes()

    @contextlib.contextmanager
    def open(self) -> Iterator[Book]:
        """The ledger's content, alone; written back if nothing goes wrong.

        Raises:
            UserError: if the file cannot be read.
        """
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            book = self._read()
            yield book
            self._write(book)

    def enrolments(self) -> list[Enrolment]:
        """Everybody who was let in, in order of time."""
        return self._read().enrolments

    def _read(self) -> Book:
        path = self.folder / FILE
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            rows = [Enrolment(**row) for row in plain["enrolments"]]
            return Book(rows, plain["open"])
        except FileNotFoundError:
            return Book([], {})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a ledger of fedhive ({error})") from error

    def _write(self, book: Book) -> None:
        plain = {"enrolments": [asdict(one) for one in book.enrolments], "open": book.open}
        text = json.dumps(plain, indent=1)
        number, name = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, self.folder / FILE)

    def export(self, path: Path) -> int:
        """Write a table for ``identities=enrolled``; the number of rows.

        A SuperLink names a node's key by its PEM text, in hexadecimal digits. The device is told
        only where a maker vouches for the chip, since an unvouched one may be a program.
        """
        rows = self.enrolments()
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for one in rows:
                device = one.device if one.vouched else ""
                table.writerow([one.key.encode().hex(), one.name, one.owner, device])
        return len(rows)


@dataclass
class Book:
    """What a ledger holds.

    Args:
        enrolments: in order of time.
        open: challenges that were not answered yet, by their id.
    """

    enrolments: list[Enrolment]
    open: dict[str, dict[str, Any]]

    def find(self, key: str) -> Enrolment | None:
        """The enrolment of a node's key, or of a machine's name."""
        return next((one for one in self.enrolments if key in (one.key, one.name)), None)
