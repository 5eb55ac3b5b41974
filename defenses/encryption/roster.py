"""Who the committee is: public keys of members and server, and the files that hold them.

A roster file is public and the same on every machine; whoever runs the hive hands it out before
the run, so that a server cannot put its own keys in. Its digest is in every upload and question.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from defenses.encryption import errors
from defenses.encryption.prg import digest
from fedhive.errors import UserError

KIND, KEY_KIND = "fedhive-committee", "fedhive-committee-key"


@dataclass(frozen=True)
class Roster:
    """The committee of a run.

    Args:
        members: node ids with their public keys (X25519, 32 bytes); kept ascending.
        threshold: t, how many members open a sum.
        server: the server's public key.

    Raises:
        UserError: unless more than half of the members are needed, and all can be.
    """

    members: tuple[tuple[int, bytes], ...]
    threshold: int
    server: bytes

    def __post_init__(self) -> None:
        # A member's place in this order is the x of its shares.
        object.__setattr__(self, "members", tuple(sorted(self.members)))
        c, t = len(self.members), self.threshold
        if not c / 2 < t <= c:
            raise UserError(
                f"keys.threshold must be more than half of the {c} members and at most all, "
                f"got {t}: two halves could open two different sums of one round"
            )
        if len({node for node, _ in self.members}) < c or len({k for _, k in self.members}) < c:
            raise UserError("a node or a key is twice in the committee's roster")

    @property
    def digest(self) -> bytes:
        """16 bytes that name this committee."""
        parts = [part for member in self.members for part in member]
        return digest("committee", self.threshold, self.server, *parts)

    @property
    def tolerates(self) -> int:
        """How many members may side with the server without any client's secret being at risk.

        t - 1 together cannot open a sum by themselves. Besides, f of them could help to open two
        different sums of one round, each with t - f of the honest ones, unless
        2 (t - f) > c - f.
        """
        return min(self.threshold - 1, 2 * self.threshold - len(self.members) - 1)


def agree(private: X25519PrivateKey, public: bytes, info: bytes) -> bytes:
    """A 32-byte key that two parties share (X25519, HKDF-SHA256) for one purpose.

    Raises:
        BadShare: for a public key that is none.
    """
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise errors.BadShare("a public key is not one of X25519") from error
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(shared)


def public_of(private: X25519PrivateKey) -> bytes:
    """The public key, 32 bytes."""
    return private.public_key().public_bytes_raw()


def make_key(path: str) -> str:
    """Write a new private key for a member or the server; its public key in hexadecimal digits.

    Raises:
        UserError: if the file exists or cannot be written.
    """
    private = X25519PrivateKey.generate()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"kind": KEY_KIND, "key": private.private_bytes_raw().hex()}, file)
    return public_of(private).hex()


def read_key(path: str) -> X25519PrivateKey:
    """A private key from its file.

    Raises:
        UserError: if there is none.
    """
    content = _json(path, "keys.key_file", KEY_KIND)
    try:
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(content["key"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"keys.key_file: {path} holds no key") from error


def write_roster(path: str, members: Mapping[int, str], threshold: int, server: str) -> Roster:
    """Write and return a roster.

    Args:
        path: of the file.
        members: public keys by node id, hexadecimal digits as `make_key` gave them.
        threshold: t.
        server: the server's public key.
    """
    roster = Roster(
        tuple((node, bytes.fromhex(key)) for node, key in members.items()),
        threshold, bytes.fromhex(server),
    )  # fmt: skip
    content = {"kind": KIND, "threshold": threshold, "server": server,
               "members": {str(node): key for node, key in members.items()}}  # fmt: skip
    Path(path).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return roster


def read_roster(path: str) -> Roster:
    """A roster from its file.

    Raises:
        UserError: if it is none.
    """
    content = _json(path, "keys.roster", KIND)
    try:
        members = tuple(
            (int(node), bytes.fromhex(key)) for node, key in content["members"].items()
        )
        threshold, server = int(content["threshold"]), bytes.fromhex(content["server"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"keys.roster: {path} is no roster") from error
    if any(len(key) != 32 for _, key in members) or len(server) != 32:
        raise UserError(f"keys.roster: {path} holds a key that is not 32 bytes long")
    return Roster(members, threshold, server)


def _json(path: str, setting: str, kind: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{setting}: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{setting}: {path} is not JSON") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise UserError(f"{setting}: {path} is no file of kind {kind}")
    return content
