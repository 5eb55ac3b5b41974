"""Questions to the holders of a key and their answers, as bytes; and what no holder answers.

A message is a list of parts, each with its length before it. Nothing is unpickled, and nothing is
allocated that is longer than the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from defenses.encryption import errors
from defenses.encryption.base import Ciphertext, Context, Upload

MOST_BUCKETS = 4096


def join(parts: Sequence[bytes]) -> bytes:
    """Parts as one message."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def split(data: bytes, count: int | None = None) -> list[bytes]:
    """The parts of a message.

    Args:
        data: from the network.
        count: how many there must be; None for any number.

    Raises:
        Truncated: if a part is cut.
        Malformed: for another number of parts.
    """
    parts, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if at + 4 > len(data) or end > len(data):
            raise errors.Truncated("a part of the message is cut")
        parts.append(data[at + 4 : end])
        at = end
    if count is not None and len(parts) != count:
        raise errors.Malformed(f"the message has {len(parts)} parts instead of {count}")
    return parts


@dataclass(frozen=True)
class Question:
    """What the holders of the key are asked to open.

    Args:
        run: as in `Context`, like ``round`` and ``mask``.
        round: from 1.
        mask: digest.
        params: the cipher's ``params_id``.
        buckets: the summands of each sum, with what the holder needs of each in ``shares``.
        count: values in each sum.
        check: only say whose shares cannot be opened.
        bodies: the sums themselves, for ciphers without fresh keys; else empty.
    """

    run: bytes
    round: int
    mask: bytes
    params: bytes
    buckets: tuple[tuple[Upload, ...], ...]
    count: int = 1
    check: bool = False
    bodies: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, totals: Sequence[Ciphertext], params: bytes) -> Question:
        """The question after some sums, without what the holder needs of their summands.

        Raises:
            TooFewClients: for no sum.
            SealError: for sums of different contexts.
        """
        if not totals:
            raise errors.TooFewClients("there is nothing to open")
        first = totals[0].context
        for total in totals:
            if replace(total.context, sender=first.sender) != first:
                raise errors.WrongRound("sums of different contexts cannot be opened together")
        buckets = tuple(
            tuple(Upload(u.sender, u.nonce) for u in total.uploads) for total in totals
        )
        return cls(first.run, first.round, first.mask, params, buckets, first.count)

    def pack(self) -> bytes:
        """As bytes."""
        head = self.run + self.round.to_bytes(4, "little") + self.mask + self.params
        head += bytes([self.check])
        sizes = len(self.buckets).to_bytes(4, "little") + self.count.to_bytes(8, "little")
        parts = [head, sizes]
        for bucket in self.buckets:
            parts += [
                np.array([u.sender for u in bucket], dtype="<u8").tobytes(),
                b"".join(u.nonce for u in bucket),
                join([u.shares for u in bucket]),
            ]
        return join([*parts, *self.bodies])

    def context(self, upload: Upload) -> Context:
        """The context of one of its uploads."""
        return Context(self.run, self.round, self.mask, upload.sender, self.count)

    @classmethod
    def unpack(cls, data: bytes) -> Question:
        """From bytes of the network.

        Raises:
            Truncated, Malformed: if they are no question.
        """
        parts = split(data)
        if len(parts) < 2 or len(parts[0]) != 53 or parts[0][52] > 1 or len(parts[1]) != 12:
            raise errors.Malformed("the message is not a question")
        head, count = parts[0], int.from_bytes(parts[1][:4], "little")
        values = int.from_bytes(parts[1][4:], "little")
        fits = len(parts) in (2 + 3 * count, 2 + 4 * count) and 0 < values < 2**40
        if not 0 < count <= MOST_BUCKETS or not fits:
            raise errors.Malformed("the question's buckets do not fit")
        buckets = tuple(_bucket(*parts[2 + 3 * i : 5 + 3 * i]) for i in range(count))
        bodies = tuple(parts[2 + 3 * count :])
        round_ = int.from_bytes(head[16:20], "little")
        names = (head[:16], round_, head[20:36], head[36:52])
        return cls(*names, buckets, values, head[52] == 1, bodies)


def _bucket(senders: bytes, nonces: bytes, shares: bytes) -> tuple[Upload, ...]:
    if len(senders) % 8 or len(nonces) != 4 * len(senders):
        raise errors.Malformed("the question's senders and nonces do not fit")
    ids = np.frombuffer(senders, dtype="<u8").tolist()
    return tuple(
        Upload(sender, nonces[32 * i : 32 * i + 32], share)
        for i, (sender, share) in enumerate(zip(ids, split(shares, len(ids)), strict=True))
    )


class Guard:
    """What every holder of a key checks before it answers, and remembers after.

    One question a round: the difference of two sums over almost the same clients is one client.
    Rounds are answered in ascending order only, so that what must be remembered is one number a
    run.

    Args:
        least: fewest clients in a sum (u_min), at least 2.
        state: what `state` gave before a restart.

    Raises:
        Malformed: for a state that is none.
    """

    def __init__(self, least: int, state: bytes | None = None) -> None:
        self.least = least
        raw = state or b""
        if len(raw) % 20:
            raise errors.Malformed("the state of the answered rounds is damaged")
        self._last = {
            raw[i : i + 16]: int.from_bytes(raw[i + 16 : i + 20], "little")
            for i in range(0, len(raw), 20)
        }

    def admit(self, question: Question, params: bytes) -> None:
        """`check` a question and `count` its round as answered, even if answering then fails."""
        self.check(question, params)
        self.count(question)

    def check(self, question: Question, params: bytes) -> None:
        """Refuse what must not be answered.

        Raises:
            WrongParameters: for another cipher's sums.
            TooFewClients: for a sum over fewer than ``least``.
            OverlappingBuckets: if a client or a nonce appears twice.
            AlreadyAnswered: for a round that is not later than the last answered one.
        """
        if question.params != params:
            raise errors.WrongParameters("the question is about another cipher's sums")
        smallest = min(len(bucket) for bucket in question.buckets)
        if smallest < self.least:
            raise errors.TooFewClients(
                f"a sum over {smallest} clients is not opened; the least is {self.least}"
            )
        uploads = [upload for bucket in question.buckets for upload in bucket]
        senders, nonces = {u.sender for u in uploads}, {u.nonce for u in uploads}
        if len(senders) < len(uploads) or len(nonces) < len(uploads):
            raise errors.OverlappingBuckets("a client appears twice in one question")
        if question.round <= self._last.get(question.run, -1):
            raise errors.AlreadyAnswered(f"round {question.round} has been answered")

    def count(self, question: Question) -> None:
        """Remember that a round has been answered."""
        self._last[question.run] = question.round

    def state(self) -> bytes:
        """The answered rounds, 20 bytes a run."""
        return b"".join(run + last.to_bytes(4, "little") for run, last in self._last.items())
