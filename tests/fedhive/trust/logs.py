"""Event logs written by hand, by the TCG's format."""

from __future__ import annotations

import hashlib
import struct

from fedhive.trust.eventlog import DRIVER_CONFIG, GLOBAL_GUID, NO_ACTION, SEPARATOR, SHA256

Event = tuple[int, int, bytes, bytes]
ACTION = 0x80000007


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def event(pcr: int, kind: int, data: bytes, digest: bytes | None = None) -> Event:
    """PCR, type, text, SHA-256; the text's own if none is given."""
    return pcr, kind, data, sha(data) if digest is None else digest


def variable(name: str, value: bytes, guid: bytes = GLOBAL_GUID) -> bytes:
    return guid + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def secure_boot(on: bool = True) -> Event:
    return event(7, DRIVER_CONFIG, variable("SecureBoot", bytes([on])))


def locality(number: int) -> Event:
    return event(0, NO_ACTION, b"StartupLocality\0" + bytes([number]), bytes(32))


def boot(on: bool = True) -> list[Event]:
    """A short but complete boot."""
    return [
        event(0, 8, b"v1.0 of some firmware"),
        secure_boot(on),
        event(7, DRIVER_CONFIG, variable("PK", b"some key")),
        *(event(pcr, SEPARATOR, bytes(4)) for pcr in range(8)),
        event(4, ACTION, b"Calling EFI Application from Boot Option"),
        event(4, 0x80000003, bytes(32), sha(b"the loader's code")),  # where it was, not what
    ]


def header(algorithms: tuple[tuple[int, int], ...] = ((4, 20), (SHA256, 32))) -> bytes:
    body = b"Spec ID Event03\0" + bytes([0, 0, 0, 0, 0, 2, 0, 2])
    body += struct.pack("<I", len(algorithms))
    body += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + b"\0"
    return struct.pack("<II", 0, NO_ACTION) + bytes(20) + struct.pack("<I", len(body)) + body


def written(events: list[Event]) -> bytes:
    """As firmware would leave it, with SHA-1 beside SHA-256."""
    parts = [header()]
    for pcr, kind, data, digest in events:
        parts.append(struct.pack("<IIIH", pcr, kind, 2, 4) + hashlib.sha1(data).digest())
        parts.append(struct.pack("<H", SHA256) + digest + struct.pack("<I", len(data)) + data)
    return b"".join(parts)
