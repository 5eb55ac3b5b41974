"""The seams of encryption: fixed point, cipher and keys are three independent choices.

Bytes travel at every seam: the same objects serve a simulation and a real hive. One round is::

    client      upload = keys.for_upload(cipher, context)          # a fresh key, shares of it
                sealed = cipher.encrypt(values, upload, context)   # one blob: header, body, shares
    server      one    = cipher.parse(blob, context, keys)         # SealError names what is wrong
                bad    = keys.screen(cipher, [one, other], ask)    # whose shares are damaged
                total  = cipher.add([one, other, ...])
                sums   = keys.open(cipher, [total], ask)           # ask: bytes to members and back
    members     answer = keys.member(node, cipher).answer(question)

`Context` binds a ciphertext to one run, round, mask and sender; nothing that was made for another
context is ever parsed. Ciphers add integers exactly; clients scale their values before they
encrypt, so no ciphertext is ever multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from defenses.encryption.fixed_point import FixedPoint

Ints = NDArray[np.int64]
Ask = Callable[[Mapping[int, bytes]], Mapping[int, bytes]]
"""Sends a question to each of some nodes and returns the answers of those that gave one."""


@dataclass(frozen=True)
class Context:
    """What a ciphertext is made for, and refused for anything else.

    Args:
        run: 16 bytes, unique to the run.
        round: from 1, below 2^32.
        mask: 16 bytes, digest of which coordinates are encrypted.
        sender: id of the node, below 2^64.
        count: number of values m.
    """

    run: bytes
    round: int
    mask: bytes
    sender: int
    count: int

    def __post_init__(self) -> None:
        if len(self.run) != 16 or len(self.mask) != 16:
            raise ValueError("run and mask are digests of 16 bytes")
        if not (0 <= self.round < 2**32 and 0 <= self.sender < 2**64 and 0 < self.count < 2**40):
            raise ValueError("round, sender or count is out of range")


@dataclass(frozen=True)
class UploadKey:
    """What one client needs for one upload.

    Args:
        secret: the cipher's key material; ciphers with fresh keys take 32 bytes.
        nonce: 32 bytes, never used before, public; from it the server finds the tag's key.
        tag_key: 32 bytes that authenticate the upload; not the decryption key.
        key_id: 16 bytes that name the run's key or committee, public.
        shares: sealed for the holders of the key, empty if they need none.
    """

    secret: Any = field(repr=False)
    nonce: bytes
    tag_key: bytes = field(repr=False)
    key_id: bytes
    shares: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Sealed:
    """What a client sends.

    Args:
        data: header, ciphertext, shares and tag.
        saturated: values that were outside the clip and were cut to it.
    """

    data: bytes = field(repr=False)
    saturated: int


@dataclass(frozen=True)
class Upload:
    """One summand of a ciphertext: who sent it, its nonce and the shares of its key."""

    sender: int
    nonce: bytes
    shares: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Ciphertext:
    """A parsed ciphertext or a sum of them.

    Args:
        context: what the summands were made for; a sum's sender is that of its first summand.
        uploads: its summands, ascending by sender.
        body: the cipher's own; never changed in place once it is here.
    """

    context: Context
    uploads: tuple[Upload, ...]
    body: Any = field(repr=False)

    @property
    def senders(self) -> tuple[int, ...]:
        """Ids of the clients in this sum."""
        return tuple(upload.sender for upload in self.uploads)


class Verifier(Protocol):
    """What a server needs to tell authentic uploads from others; it opens nothing."""

    @property
    def key_id(self) -> bytes:
        """16 bytes: uploads made under other keys are refused as `ForeignKey`."""
        ...

    def tag_key(self, nonce: bytes, context: Context) -> bytes:
        """32 bytes: the key of an upload's authentication tag."""
        ...


class Cipher(Protocol):
    """Adds the integers of many clients without anybody seeing one client's.

    Attributes:
        name: as in ``conf/cipher``; the Array's stype is ``fedhive.<name>/1``.
        fixed: how floats become integers.
        capacity: most clients whose sum is exact.
        fresh_keys: every upload has its own key, so a committee can hold shares of it.
        secret: an observer of the wire learns nothing of the values (False for ``plain`` only).
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fixed(self) -> FixedPoint: ...  # noqa: D102
    @property
    def capacity(self) -> int: ...  # noqa: D102
    @property
    def fresh_keys(self) -> bool: ...  # noqa: D102
    @property
    def secret(self) -> bool: ...  # noqa: D102

    @property
    def params_id(self) -> bytes:
        """16 bytes: digest of every parameter that both sides must share."""
        ...

    def new_secret(self, seed: bytes) -> Any:
        """Key material from 32 secret bytes, the same on every machine."""
        ...

    def encrypt(self, values: NDArray[Any], key: UploadKey, context: Context) -> Sealed:
        """Encrypt one client's values.

        Args:
            values: [m]; integers within the fixed point's levels, or float32, to which the fixed
                point is then applied block by block.
            key: for this upload only.
            context: bound into the ciphertext.

        Raises:
            NotFinite: for NaN or infinity.
            KeyReused: if a fresh key has sealed something before.
        """
        ...

    def parse(self, data: bytes, context: Context, keys: Verifier) -> Ciphertext:
        """Check bytes from the network and take them apart.

        Raises:
            SealError: by name, before anything of the announced size is allocated.
        """
        ...

    def add(self, ciphertexts: Sequence[Ciphertext]) -> Ciphertext:
        """Their sum.

        Raises:
            Replayed: for a sender or nonce that appears twice.
            TooManyClients: beyond the capacity.
            SealError: for summands of different contexts.
        """
        ...

    def decrypt(self, total: Ciphertext, opening: Any) -> Ints:
        """The sum of the integers, int64 [m], exact.

        Args:
            total: a sum.
            opening: what the keys found: the sum of the summands' short keys (int64 [N]) for
                ciphers with fresh keys, the secret key for others.

        Raises:
            Overflowed: if a sum is outside what honest clients can reach.
        """
        ...


class FreshCipher(Cipher, Protocol):
    """A cipher every upload of which has a key of its own; what opens a sum is short."""

    def short_keys(self, secrets: Iterable[Any]) -> Ints:
        """The sum of some uploads' short keys, int64 [N]."""
        ...


class StandingCipher(Cipher, Protocol):
    """A cipher with one key for everybody; what opens a sum is that key, so sums must travel."""

    def pack(self, total: Ciphertext) -> bytes:
        """A sum as bytes, for the holder of the key."""
        ...

    def unpack(self, data: bytes, context: Context, uploads: tuple[Upload, ...]) -> Ciphertext:
        """A sum from bytes of the network; refuses others as `parse` does."""
        ...


class Member(Protocol):
    """One holder of key material, on its own machine."""

    def answer(self, question: bytes) -> bytes:
        """The answer to the round's one question.

        Raises:
            SealError: `TooFewClients`, `OverlappingBuckets`, `AlreadyAnswered`, `BadShare`, ...;
                whoever carries messages turns it into an error reply.
        """
        ...

    def state(self) -> bytes:
        """What must survive a restart: the rounds that have been answered."""
        ...


class Keys(Verifier, Protocol):
    """Who holds which key.

    Attributes:
        name: as in ``conf/keys``.
        insecure_simulation: keys were derived from the run's seed; artefacts must say so.
        members: nodes that are asked to open sums; empty if this process does it itself.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def insecure_simulation(self) -> bool: ...  # noqa: D102
    @property
    def members(self) -> tuple[int, ...]: ...  # noqa: D102

    def check(self, cipher: Cipher) -> None:
        """Refuse ciphers that these keys cannot serve.

        Raises:
            UserError: naming the reason, before the run.
        """
        ...

    def for_upload(self, cipher: Cipher, context: Context) -> UploadKey:
        """On a client: the key of one upload."""
        ...

    def member(self, node: int, cipher: Cipher, state: bytes | None = None) -> Member:
        """On a holder's machine: the one who answers, with what `Member.state` gave before."""
        ...

    def screen(
        self, cipher: Cipher, ciphertexts: Sequence[Ciphertext], ask: Ask | None = None
    ) -> dict[int, str]:
        """Before the sums: which uploads cannot be opened, and why, by sender; leave them out."""
        ...

    def open(
        self, cipher: Cipher, totals: Sequence[Ciphertext], ask: Ask | None = None
    ) -> list[Ints]:
        """On the server: the sums, opened with the help of the holders; int64 [m] each.

        Args:
            cipher: that made them.
            totals: disjoint sums of one round.
            ask: carries questions to ``members``; None where there are none.

        Raises:
            TooFewAnswers: if fewer holders answered than needed: the round is lost, never reused.
            SealError: as the holders', if this process is the holder.
        """
        ...
