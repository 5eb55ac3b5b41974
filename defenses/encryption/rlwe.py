"""An additive cipher with small ciphertexts: BFV without multiplication, coefficient-packed.

Research-grade: the construction is standard, this implementation has had no outside review and
does not run in constant time. ``seal`` is the choice for those who want vetted code.

With R = Z[x]/(x^2048 + 1), q = 2^54, and a public polynomial a per run, round and block that both
sides derive by themselves, a client draws a fresh small key s and small errors e and sends::

    c = a s + e + D m   (mod q)

(Fan and Vercauteren 2012/144 without its second component; a common a for many keys as in
Peikert, Vaikuntanathan and Waters 2008). A coefficient m holds k values in base B = 2 n L + 1,
where n clients may be summed and values lie in [-L, L]. The sum over clients decrypts under the
sum of their keys, which are 2048 small numbers however large the model is.

D = floor(q / B^k) leaves room for the sum of n errors: k is the largest for which a coefficient
fails with probability below 2^-100 (the errors are sub-Gaussian). With ``word=6`` the lowest six
bits of every coefficient are rounded away, which costs noise and saves a seventh of the bytes;
it is a public function of the ciphertext, so it gives nothing away.

Security: dimension 2048 and log2 q = 54 are a row of the Homomorphic Encryption Standard's table
(128 bits classical, ternary secrets, errors of deviation 3.19); keys and errors here are wider,
4.9, so that 3.4 remain to each of two honest clients once the sum of their keys is known. By the
standard's cost model that makes 139 and 136 bits (`defenses.encryption.security`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.encryption import errors, summing, wire
from defenses.encryption.base import Ciphertext, Context, Ints, Sealed, Upload, UploadKey, Verifier
from defenses.encryption.fixed_point import FixedPoint
from defenses.encryption.packing import Packing
from defenses.encryption.prg import Stream, derive, digest
from defenses.encryption.ring import ETA, SIGMA, Multiplier, small, uniform

N = 2048
Q_BITS = 54
MASK = (1 << Q_BITS) - 1
FAILURE_BITS = 100
BLOCK = 16  # polynomials that are worked on together: half a MB of complex numbers


class Secret:
    """The seed of one upload's key and errors; seals once."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._used = False

    def short_key(self) -> NDArray[np.int64]:
        """The key s, int64 [2048], small."""
        return small(Stream(derive(self._seed, "rlwe key")), N).astype(np.int64)

    def errors(self) -> Stream:
        """The stream of errors, once.

        Raises:
            KeyReused: the second time: two messages under one key give away their difference.
        """
        if self._used:
            raise errors.KeyReused("this key has sealed an upload before")
        self._used = True
        return Stream(derive(self._seed, "rlwe errors"))


@dataclass(frozen=True)
class Rlwe:
    """The cipher.

    Args:
        clip: largest magnitude of a value.
        bits: of a value, sign included.
        clients: most clients in a sum (the capacity).
        word: bytes of a coefficient on the wire, 7 or 6.

    Raises:
        ValueError: if so many clients and bits do not fit.
    """

    clip: float
    bits: int = 14
    clients: int = 200
    word: int = 7
    name: str = field(default="rlwe", init=False)
    fresh_keys: bool = field(default=True, init=False)
    secret: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if self.word not in (6, 7):
            raise ValueError(f"word must be 6 or 7 bytes, got {self.word}")
        if not 1 <= self.clients <= 600:
            # The sum of their keys must stay below half of the shares' prime.
            raise ValueError(f"clients must be between 1 and 600, got {self.clients}")
        _ = self.packing  # says so if so many clients and bits do not fit

    @cached_property
    def fixed(self) -> FixedPoint:
        """How floats become integers."""
        return FixedPoint(self.clip, self.bits)

    @property
    def capacity(self) -> int:
        """Most clients whose sum is exact."""
        return self.clients

    @property
    def dropped(self) -> int:
        """Lowest bits of a coefficient that are rounded away."""
        return Q_BITS - 48 if self.word == 6 else 0

    @cached_property
    def noise_bound(self) -> int:
        """Most that the summed errors reach but with probability 2^-100 a coefficient."""
        variance = self.clients * (SIGMA**2 + (4.0**self.dropped - 1) / 12)
        # Rounding half up is off by a half on average.
        bias = self.clients / 2 if self.dropped else 0.0
        return math.ceil(bias + math.sqrt(2 * math.log(2) * (FAILURE_BITS + 1) * variance))

    @cached_property
    def packing(self) -> Packing:
        """Values as digits of coefficients."""
        room = (1 << Q_BITS) // (2 * self.noise_bound + 1)
        return Packing(self.fixed.levels, self.clients, room, N)

    @cached_property
    def delta(self) -> int:
        """D: what a coefficient is multiplied by to stand above the errors."""
        return (1 << Q_BITS) // self.packing.modulus

    @cached_property
    def params_id(self) -> bytes:
        """Digest of everything above."""
        parts = (N, Q_BITS, ETA, self.packing.base, self.packing.k, self.delta, self.word)
        return digest("rlwe", *parts, self.bits, repr(float(self.clip)).encode())

    def new_secret(self, seed: bytes) -> Secret:
        """Key material of one upload."""
        return Secret(seed)

    def short_keys(self, secrets: Iterable[Secret]) -> NDArray[np.int64]:
        """The sum of some uploads' short keys, int64 [2048]: what opens the sum of the uploads."""
        total = np.zeros(N, dtype=np.int64)
        for secret in secrets:
            total += secret.short_key()
        return total

    def size(self, count: int) -> int:
        """Bytes of ciphertext of ``count`` values."""
        return self.word * self.packing.coefficients(count)

    def encrypt(self, values: NDArray[Any], key: UploadKey, context: Context) -> Sealed:
        """See `defenses.encryption.base.Cipher.encrypt`."""
        if values.shape != (context.count,):
            raise errors.WrongCount(f"{values.shape} values for a context of {context.count}")
        secret: Secret = key.secret
        stream, public = secret.errors(), self._public(context)
        times = Multiplier(secret.short_key())
        saturated = 0

        def write(body: memoryview) -> None:
            nonlocal saturated
            planes = self._planes(body)
            per_block = BLOCK * N * self.packing.k
            for start in range(0, context.count, per_block):
                ints, cut = self.fixed.integers(values[start : start + per_block])
                saturated += cut
                packed = self.packing.pack(ints)
                packed *= self.delta
                packed += small(stream, len(packed))
                packed += times(uniform(public, len(packed) // N, N)).reshape(-1)
                self._store(packed, planes, start // self.packing.k)

        data = wire.seal(self, context, key, self.size(context.count), write)
        return Sealed(data, saturated)

    def parse(self, data: bytes, context: Context, keys: Verifier) -> Ciphertext:
        """See `defenses.encryption.base.Cipher.parse`."""
        body, nonce, shares = wire.unseal(data, self, context, keys, self.size(context.count))
        return Ciphertext(context, (Upload(context.sender, nonce, shares),), body)

    def add(self, ciphertexts: Sequence[Ciphertext]) -> Ciphertext:
        """See `defenses.encryption.base.Cipher.add`."""
        uploads = summing.summands(ciphertexts, self.capacity)
        size = self.size(ciphertexts[0].context.count) // self.word
        acc = np.zeros(size, dtype=np.int64)
        for ciphertext in ciphertexts:
            body = ciphertext.body
            if isinstance(body, np.ndarray):
                acc += body
                continue
            planes = self._planes(body)
            for start in range(0, size, BLOCK * N):
                block = acc[start : start + BLOCK * N]
                for plane, shift in planes:
                    wide = plane[start : start + BLOCK * N].astype(np.int64)
                    wide <<= shift
                    block += wide
        acc &= MASK
        return summing.total(ciphertexts, uploads, acc)

    def decrypt(self, total: Ciphertext, opening: NDArray[np.int64]) -> Ints:
        """See `defenses.encryption.base.Cipher.decrypt`.

        Args:
            total: a sum of `add`.
            opening: the sum of the summands' short keys, int64 [2048].
        """
        if opening.shape != (N,) or int(np.abs(opening).max()) > ETA * len(total.uploads):
            raise errors.BadShare("what should open the sum is no sum of so many keys")
        try:
            times = Multiplier(opening)
        except ValueError as error:
            raise errors.BadShare("what should open the sum is too large") from error
        count, k = total.context.count, self.packing.k
        public = self._public(total.context)
        out = np.empty(count, dtype=np.int64)
        clients = len(total.uploads)
        for start in range(0, len(total.body), BLOCK * N):
            block = total.body[start : start + BLOCK * N]
            masked = times(uniform(public, len(block) // N, N)).reshape(-1)
            # Centred modulo q: shift the sign bit of 54 bits up and back.
            plain = ((block - masked) << (64 - Q_BITS)) >> (64 - Q_BITS)
            here = min(count - start * k, len(block) * k)
            packed = np.rint(plain / self.delta)
            out[start * k : start * k + here] = self.packing.sums(packed, here, clients)
        return out

    def _public(self, context: Context) -> Stream:
        """The stream of public polynomials; nobody sends them."""
        key = digest(
            "rlwe public", self.params_id, context.run, context.round, context.mask, size=32
        )
        return Stream(key)

    def _planes(self, body: memoryview) -> list[tuple[NDArray[Any], int]]:
        """A ciphertext's bytes: 32, then 16, then 8 bits of every coefficient, and their shift."""
        size = len(body) // self.word
        planes, at, shift = [], 0, self.dropped
        for dtype in ("<u4", "<u2", "u1")[: self.word - 4]:
            plane = np.frombuffer(body, dtype=dtype, count=size, offset=at)
            planes.append((plane, shift))
            at, shift = at + plane.nbytes, shift + 8 * plane.itemsize
        return planes

    def _store(
        self, coefficients: NDArray[np.int64], planes: list[tuple[NDArray[Any], int]], at: int
    ) -> None:
        """Coefficients modulo q, rounded if need be, into the planes."""
        if self.dropped:
            coefficients += 1 << (self.dropped - 1)
        coefficients &= MASK
        coefficients >>= self.dropped
        for plane, shift in planes:
            parts = coefficients.view(plane.dtype)
            width = 8 // plane.itemsize
            first = (shift - self.dropped) // (8 * plane.itemsize)
            plane[at : at + len(coefficients)] = parts[first::width]
