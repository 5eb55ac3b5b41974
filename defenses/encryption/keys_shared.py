"""One key for all clients (group ``keys``): what other frameworks do, and what simulations need.

Every client could decrypt every other's upload, and any client together with the server does. It
is here to reproduce published systems and for simulations; ``committee`` has no such holder. In a
deployment the server still cannot decrypt: it gets a verification key only, and one holder, a
node outside the server, opens sums under the same rules as a committee's members.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from defenses.encryption import errors
from defenses.encryption.base import (
    Ask,
    Cipher,
    Ciphertext,
    Context,
    FreshCipher,
    Ints,
    StandingCipher,
    Upload,
    UploadKey,
)  # fmt: skip
from defenses.encryption.messages import Guard, Question, join, split
from defenses.encryption.prg import derive, digest
from fedhive.errors import UserError

KINDS = {"master": "fedhive-shared-key", "wire": "fedhive-shared-verification-key"}


@dataclass
class Shared:
    """One key for all clients.

    Args:
        file: where this machine's key is: clients and the holder have the key, the server has
            the verification key (`make_keys` makes both). Null derives a key from the run's seed,
            which is insecure and for simulations only: artefacts say so.
        holder: id of the node that opens sums in a deployment; unused in a simulation.
        least: fewest clients in a sum that is opened (u_min).
        seed: of the run, for simulated keys.

    Raises:
        UserError: for a file that cannot be used, or a deployment without a holder.
    """

    file: str | None = None
    holder: int | None = None
    least: int = 2
    seed: int = 0
    name: str = field(default="shared", init=False)
    _master: bytes | None = field(default=None, init=False, repr=False)
    _wire: bytes = field(default=b"", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.least < 1:
            raise UserError(f"keys.least must be at least 1, got {self.least}")
        if self.file is None:
            self._master = digest("simulated master key", self.seed, size=32)
            self._wire = derive(self._master, "wire")
            self._guard = Guard(self.least)
        else:
            if self.holder is None:
                raise UserError("keys.holder is missing: the id of the node that opens sums")
            self._master, self._wire = _read(self.file)

    @property
    def insecure_simulation(self) -> bool:
        """Whether the key comes from the run's seed."""
        return self.file is None

    @property
    def members(self) -> tuple[int, ...]:
        """The holder; nobody in a simulation."""
        return () if self.holder is None or self.file is None else (self.holder,)

    @property
    def key_id(self) -> bytes:
        """Names the key."""
        return digest("shared key", self._wire)

    def tag_key(self, nonce: bytes, context: Context) -> bytes:
        """Of one upload."""
        return derive(self._wire, "upload", nonce, context.sender)

    def check(self, cipher: Cipher) -> None:
        """Any cipher will do."""

    def for_upload(self, cipher: Cipher, context: Context) -> UploadKey:
        """A key of its own for every upload of a cipher with fresh keys, else the common one.

        Raises:
            ForeignKey: on a machine that has only the verification key.
        """
        nonce = os.urandom(32)
        if self.file is None:
            # The same bits in every run of the same seed; never twice under one context.
            nonce = derive(self._need(), "nonce", *_bound(context))
        secret = cipher.new_secret(self._secret(cipher, nonce, context))
        return UploadKey(secret, nonce, self.tag_key(nonce, context), self.key_id)

    def member(self, node: int, cipher: Cipher, state: bytes | None = None) -> Holder:
        """The holder's side.

        Raises:
            ForeignKey: on a machine without the key.
        """
        self._need()
        return Holder(self, cipher, Guard(self.least, state))

    def screen(
        self, cipher: Cipher, ciphertexts: Sequence[Ciphertext], ask: Ask | None = None
    ) -> dict[int, str]:
        """Nobody: there are no shares."""
        return {}

    def open(
        self, cipher: Cipher, totals: Sequence[Ciphertext], ask: Ask | None = None
    ) -> list[Ints]:
        """See `defenses.encryption.base.Keys.open`.

        Raises:
            UserError: if a deployed server holds the key itself.
        """
        question = Question.of(totals, cipher.params_id)
        if self.file is None:
            self._guard.admit(question, cipher.params_id)
            return [cipher.decrypt(total, self._opening(cipher, question, total.uploads))
                    for total in totals]  # fmt: skip
        if self._master is not None:
            raise UserError(
                f"keys.file: {self.file} holds the key itself; the server must have the "
                "verification key only"
            )
        if not cipher.fresh_keys:
            standing = cast(StandingCipher, cipher)
            question = replace(question, bodies=tuple(standing.pack(total) for total in totals))
        answers = ask({member: question.pack() for member in self.members}) if ask else {}
        if self.holder is None or self.holder not in answers:
            raise errors.TooFewAnswers("the holder of the key did not answer")
        parts = split(answers[self.holder], len(totals))
        if cipher.fresh_keys:
            openings = [_integers(part, "<i4", most=2**16) for part in parts]
            return [cipher.decrypt(*pair) for pair in zip(totals, openings, strict=True)]
        return [_integers(part, "<i8", question.count) for part in parts]

    def _need(self) -> bytes:
        if self._master is None:
            raise errors.ForeignKey("this machine has the verification key only")
        return self._master

    def _secret(self, cipher: Cipher, nonce: bytes, context: Context) -> bytes:
        if cipher.fresh_keys:
            return derive(self._need(), "upload key", nonce, *_bound(context))
        return derive(self._need(), "cipher key", cipher.params_id)

    def _opening(self, cipher: Cipher, question: Question, uploads: Sequence[Upload]) -> Any:
        secrets = (
            cipher.new_secret(self._secret(cipher, upload.nonce, question.context(upload)))
            for upload in uploads
        )
        return (
            cast(FreshCipher, cipher).short_keys(secrets) if cipher.fresh_keys else next(secrets)
        )


class Holder:
    """Opens sums where the key is: the one member of a shared key's deployment."""

    def __init__(self, keys: Shared, cipher: Cipher, guard: Guard) -> None:
        self._keys, self._cipher, self._guard = keys, cipher, guard

    def answer(self, question: bytes) -> bytes:
        """See `defenses.encryption.base.Member.answer`."""
        asked, cipher = Question.unpack(question), self._cipher
        if len(asked.bodies) != (0 if cipher.fresh_keys else len(asked.buckets)):
            raise errors.Malformed("the question's sums do not fit its buckets")
        self._guard.admit(asked, cipher.params_id)
        parts = []
        for i, bucket in enumerate(asked.buckets):
            opening = self._keys._opening(cipher, asked, bucket)
            if cipher.fresh_keys:
                parts.append(opening.astype("<i4").tobytes())
            else:
                context = asked.context(bucket[0])
                total = cast(StandingCipher, cipher).unpack(asked.bodies[i], context, bucket)
                parts.append(cipher.decrypt(total, opening).astype("<i8").tobytes())
        return join(parts)

    def state(self) -> bytes:
        """The answered rounds."""
        return self._guard.state()


def make_keys(key: str, verification: str) -> None:
    """Write a new key from the operating system's randomness, for clients and holder, and the
    verification key for the server. Existing files are not overwritten.

    Raises:
        UserError: if a file exists or cannot be written.
    """  # noqa: D205
    master = os.urandom(32)
    contents = {"kind": KINDS["master"], "key": master.hex()}
    wire = {"kind": KINDS["wire"], "key": derive(master, "wire").hex()}
    for path, content in ((key, contents), (verification, wire)):
        try:
            # Only the owner may read it, from the first moment on.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)


def _read(path: str) -> tuple[bytes | None, bytes]:
    """The key, None if the file has the verification key only, and the verification key."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        kind, key = content["kind"], bytes.fromhex(content["key"])
    except OSError as error:
        raise UserError(f"keys.file: {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"keys.file: {path} is no key file") from error
    if kind not in KINDS.values() or len(key) != 32:
        raise UserError(f"keys.file: {path} is no key file")
    return (key, derive(key, "wire")) if kind == KINDS["master"] else (None, key)


def _bound(context: Context) -> tuple[bytes | int, ...]:
    return (context.run, context.round, context.mask, context.sender)


def _integers(data: bytes, dtype: str, count: int | None = None, most: int = 2**40) -> Ints:
    size = np.dtype(dtype).itemsize
    if len(data) % size or len(data) // size > most or count not in (None, len(data) // size):
        raise errors.BadShare("the holder's answer has the wrong size")
    return np.frombuffer(data, dtype=dtype).astype(np.int64)
