"""A member of a committee: opens its shares of a sum's clients and answers their sum."""

from __future__ import annotations

from functools import cached_property
from typing import cast

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from defenses.encryption import errors, shamir
from defenses.encryption.base import Cipher, Context, FreshCipher, Ints, Upload
from defenses.encryption.messages import Guard, Question, join
from defenses.encryption.prg import encode
from defenses.encryption.roster import agree


class CommitteeMember:
    """One member: opens its shares of a sum's clients and answers their sum, once a round."""

    def __init__(
        self, key_id: bytes, node: int, private: X25519PrivateKey, cipher: Cipher, guard: Guard
    ) -> None:
        self._key_id, self._node, self._private = key_id, node, private
        self._cipher, self._guard = cipher, guard

    def answer(self, question: bytes) -> bytes:
        """See `defenses.encryption.base.Member.answer`.

        A checking question is answered with the ids of the clients whose shares do not open.
        """
        asked = Question.unpack(question)
        if asked.check:
            bad = [u.sender for b in asked.buckets for u in b if self._share(asked, u) is None]
            return np.array(bad, dtype="<u8").tobytes()
        self._guard.check(asked, self._cipher.params_id)
        sums = []
        for bucket in asked.buckets:
            shares = [self._share(asked, upload) for upload in bucket]
            if any(share is None for share in shares):
                raise errors.BadShare("a client's share cannot be opened")
            sums.append(shamir.add(np.stack(cast("list[Ints]", shares))).astype("<u2").tobytes())
        # Counted only now: a question that was not answered has given nothing away.
        self._guard.count(asked)
        return join(sums)

    def state(self) -> bytes:
        """The answered rounds."""
        return self._guard.state()

    def _share(self, asked: Question, upload: Upload) -> Ints | None:
        context, params = asked.context(upload), self._cipher.params_id
        box_info = info("share", self._key_id, context, self._node, params)
        try:
            box = ChaCha20Poly1305(agree(self._private, upload.nonce, box_info))
            raw = box.decrypt(bytes(12), upload.shares, box_info)
        except (InvalidTag, ValueError):
            return None
        if len(raw) % 2 or len(raw) > 1 << 16:
            return None
        share = np.frombuffer(raw, dtype="<u2").astype(np.int64)
        return share if len(share) == self._length and int(share.max()) < shamir.PRIME else None

    @cached_property
    def _length(self) -> int:
        return len(cast(FreshCipher, self._cipher).short_keys([]))


def info(purpose: str, key_id: bytes, context: Context, *parts: bytes | int) -> bytes:
    """What a key between two parties is for, and what is bound to it."""
    return encode(purpose, key_id, *bound(context), *parts)


def bound(context: Context) -> tuple[bytes | int, ...]:
    """What of a context every derived key depends on."""
    return (context.run, context.round, context.mask, context.sender)
