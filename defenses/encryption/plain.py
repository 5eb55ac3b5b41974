"""No encryption: fixed-point integers in the clear, under the same format and checks.

The reference that exact ciphers are compared with, bit for bit, and the choice for those who want
only the summing and its bookkeeping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.encryption import errors, summing, wire
from defenses.encryption.base import Ciphertext, Context, Ints, Sealed, Upload, UploadKey, Verifier
from defenses.encryption.fixed_point import FixedPoint
from defenses.encryption.prg import digest

BLOCK = 1 << 16  # values that are worked on together


@dataclass(frozen=True)
class Plain:
    """The cipher that hides nothing.

    Args:
        clip: largest magnitude of a value.
        bits: of a value, sign included.
        clients: most clients in a sum.
    """

    clip: float
    bits: int = 14
    clients: int = 200
    name: str = field(default="plain", init=False)
    fresh_keys: bool = field(default=False, init=False)
    secret: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= 1_000_000:
            raise ValueError(f"clients must be between 1 and 1000000, got {self.clients}")

    @cached_property
    def fixed(self) -> FixedPoint:
        """How floats become integers."""
        return FixedPoint(self.clip, self.bits)

    @property
    def capacity(self) -> int:
        """Most clients in a sum."""
        return self.clients

    @cached_property
    def params_id(self) -> bytes:
        """Digest of the parameters."""
        return digest("plain", self.bits, self.clients, repr(float(self.clip)).encode())

    def new_secret(self, seed: bytes) -> None:
        """There is no secret."""

    def encrypt(self, values: NDArray[Any], key: UploadKey, context: Context) -> Sealed:
        """See `defenses.encryption.base.Cipher.encrypt`."""
        if values.shape != (context.count,):
            raise errors.WrongCount(f"{values.shape} values for a context of {context.count}")
        saturated = 0

        def write(body: memoryview) -> None:
            nonlocal saturated
            out = np.frombuffer(body, dtype="<i4")
            for start in range(0, context.count, BLOCK):
                ints, cut = self.fixed.integers(values[start : start + BLOCK])
                saturated += cut
                out[start : start + BLOCK] = ints

        data = wire.seal(self, context, key, 4 * context.count, write)
        return Sealed(data, saturated)

    def parse(self, data: bytes, context: Context, keys: Verifier) -> Ciphertext:
        """See `defenses.encryption.base.Cipher.parse`."""
        body, nonce, shares = wire.unseal(data, self, context, keys, 4 * context.count)
        ints = np.frombuffer(body, dtype="<i4")
        if int(ints.max()) > self.fixed.levels or int(ints.min()) < -self.fixed.levels:
            raise errors.Malformed("a value is outside the fixed point's levels")
        return Ciphertext(context, (Upload(context.sender, nonce, shares),), ints)

    def add(self, ciphertexts: Sequence[Ciphertext]) -> Ciphertext:
        """See `defenses.encryption.base.Cipher.add`."""
        uploads = summing.summands(ciphertexts, self.capacity)
        body = np.zeros(ciphertexts[0].context.count, dtype=np.int64)
        for ciphertext in ciphertexts:
            body += ciphertext.body
        return summing.total(ciphertexts, uploads, body)

    def decrypt(self, total: Ciphertext, opening: object) -> Ints:
        """The sum itself; whatever ``opening`` is."""
        ints: Ints = np.array(total.body, dtype=np.int64)
        return ints
