"""The log of a measured boot: parsing it, and checking it against what a TPM has signed.

Firmware writes what it measures into a log and extends a TPM's registers (PCRs) by its digest. The
log itself is a plain file that anybody can edit; it is worth something only as far as replaying it
gives the very registers that the TPM signs. Two things that a naive reader misses are heeded here:
an event may say at which locality the TPM was started, which changes where PCR 0 begins; and a
digest does not vouch for the text beside it unless that text is hashed again.

References:
    TCG PC Client Platform Firmware Profile Specification, level 00, revision 1.06, section 10.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fedhive.errors import UserError

SHA256 = 0x000B
SIZES = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32}
"""Sizes of digests by TPM algorithm: SHA-1, SHA-256, SHA-384, SHA-512, SM3."""

NO_ACTION, SEPARATOR = 0x00000003, 0x00000004
DRIVER_CONFIG = 0x80000001
GLOBAL_GUID = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
"""EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c, as it lies in memory."""

MOST_BYTES, MOST_EVENTS = 1 << 20, 20_000


class BadLog(UserError):
    """The log cannot be read, or contradicts itself."""


@dataclass(frozen=True)
class Entry:
    """One measurement.

    Args:
        pcr: register that was extended.
        kind: type of event.
        digest: SHA-256 that it was extended by.
        data: what the log says beside it.
    """

    pcr: int
    kind: int
    digest: bytes
    data: bytes

    @property
    def vouched(self) -> bool:
        """Whether the digest is that of the text beside it."""
        return hashlib.sha256(self.data).digest() == self.digest


class _Reader:
    """Takes fields off a log, never beyond its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise BadLog(f"event log: ends within a field at byte {self.at}")
        part = self.data[self.at : self.at + size]
        self.at += size
        return part

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    @property
    def left(self) -> int:
        return len(self.data) - self.at


def parse(data: bytes) -> list[Entry]:
    """The measurements of a crypto-agile log, in order.

    Args:
        data: ``/sys/kernel/security/tpm0/binary_bios_measurements``.

    Raises:
        BadLog: if it is malformed, too long, or has no SHA-256.
    """
    if len(data) > MOST_BYTES:
        raise BadLog(f"event log: {len(data)} bytes, more than {MOST_BYTES}")
    reader = _Reader(data)
    sizes = _header(reader)
    if SHA256 not in sizes:
        raise BadLog("event log: holds no SHA-256; turn on that bank of the TPM in the firmware")
    return list(_entries(reader, sizes))


def _header(reader: _Reader) -> dict[int, int]:
    """The first event, in the old format, says which digests the others hold."""
    pcr, kind = reader.number("<I"), reader.number("<I")
    reader.take(20)
    body = _Reader(reader.take(reader.number("<I")))
    if (pcr, kind) != (0, NO_ACTION) or body.take(16) != b"Spec ID Event03\0":
        raise BadLog("event log: not in the format of TPM 2.0 firmware")
    body.take(8)  # platform class, version of the specification, size of UINTN
    count = body.number("<I")
    if not 0 < count <= 16:
        raise BadLog(f"event log: {count} kinds of digests")
    sizes = {body.number("<H"): body.number("<H") for _ in range(count)}
    if any(SIZES.get(name, size) != size or size > 64 for name, size in sizes.items()):
        raise BadLog("event log: a digest of a wrong size")
    return sizes


def _entries(reader: _Reader, sizes: dict[int, int]) -> Iterator[Entry]:
    number = 0
    while reader.left:
        number += 1
        pcr, kind, count = reader.number("<I"), reader.number("<I"), reader.number("<I")
        if pcr > 23 or count != len(sizes) or number > MOST_EVENTS:
            raise BadLog(f"event log: event {number} is malformed")
        digests: dict[int, bytes] = {}
        for _ in range(count):
            name = reader.number("<H")
            if name not in sizes or name in digests:
                raise BadLog(f"event log: event {number} has a digest that was not announced")
            digests[name] = reader.take(sizes[name])
        yield Entry(pcr, kind, digests[SHA256], reader.take(reader.number("<I")))


def replay(entries: list[Entry]) -> dict[int, bytes]:
    """The registers that these measurements give: SHA-256 by PCR, for those that occur.

    A register begins at 0, PCR 0 at the locality from which the TPM was started.
    """
    values: dict[int, bytes] = {}
    for entry in entries:
        if entry.kind == NO_ACTION:
            if entry.pcr == 0 and entry.data[:16] == b"StartupLocality\0" and 0 not in values:
                values[0] = bytes(31) + entry.data[16:17]
            continue
        before = values.get(entry.pcr, bytes(32))
        values[entry.pcr] = hashlib.sha256(before + entry.digest).digest()
    return values


def check(entries: list[Entry], quoted: dict[int, bytes]) -> None:
    """Make sure that a log accounts for registers that a TPM has signed.

    Args:
        entries: of the log.
        quoted: SHA-256 by PCR, from a verified quote.

    Raises:
        BadLog: if a register is not what the log says.
    """
    said = replay(entries)
    for pcr, value in sorted(quoted.items()):
        if said.get(pcr, bytes(32)) != value:
            raise BadLog(f"event log: replaying it gives another PCR {pcr} than the TPM signed")


def secure_boot(entries: list[Entry]) -> bool | None:
    """Whether firmware measured secure boot as on; None if it measured no such thing.

    Only what PCR 7 was extended by before its separator counts: what comes later, any program with
    access to the TPM may add.

    Raises:
        BadLog: if the text of such a measurement is not what was hashed, or it is there twice.
    """
    found: list[bool] = []
    for entry in entries:
        if entry.pcr != 7 or entry.kind == NO_ACTION:
            continue
        if entry.kind == SEPARATOR:
            break
        if entry.kind != DRIVER_CONFIG:
            continue
        if not entry.vouched:
            raise BadLog("event log: the text of a measured variable was edited")
        guid, name, value = _variable(entry.data)
        if (guid, name) == (GLOBAL_GUID, "SecureBoot"):
            found.append(value == b"\x01")
    if len(found) > 1:
        raise BadLog("event log: secure boot was measured twice")
    return found[0] if found else None


def _variable(data: bytes) -> tuple[bytes, str, bytes]:
    """UEFI_VARIABLE_DATA: vendor, name, value."""
    reader = _Reader(data)
    guid, letters, size = reader.take(16), reader.number("<Q"), reader.number("<Q")
    name = reader.take(2 * letters).decode("utf-16-le", "replace")
    return guid, name, reader.take(size)
