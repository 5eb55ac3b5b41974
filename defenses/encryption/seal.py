"""BFV by Microsoft SEAL: exact sums by vetted code, symmetric, seeded, no multiplication.

What Rlwe does, done by a library that many have looked at: dimension 4096 and one prime of 54 bits
for ciphertexts, well within what SEAL itself checks against the Homomorphic Encryption Standard's
128 bits (half the dimension would do, but costs more per value). Values are packed as digits of
coefficients, which go into SEAL's plaintext directly; encryption under the secret key lets the
second half of a ciphertext be a seed. That makes about 3.8 bytes a value.

One secret key serves all clients and rounds (SEAL cannot be given a common public polynomial), so
``keys=committee`` cannot be had. The noise of a sum is bounded as in `Rlwe`, with SEAL's errors
(centred binomial, deviation 3.24) and half a unit of rounding for each client.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.encryption import errors, sealapi, summing, wire
from defenses.encryption.base import Ciphertext, Context, Ints, Sealed, Upload, UploadKey, Verifier
from defenses.encryption.fixed_point import FixedPoint
from defenses.encryption.messages import join, split
from defenses.encryption.packing import Packing
from defenses.encryption.prg import derive, digest

N = 4096
Q_BITS = 54
BITS = (Q_BITS, 55)  # the second prime is for keys that are never made
GROUP = 8  # polynomials that are packed together
SIGMA = math.sqrt(21 / 2)
FAILURE_BITS = 100


@dataclass(frozen=True)
class Seal:
    """The cipher.

    Args:
        clip: largest magnitude of a value.
        bits: of a value, sign included.
        clients: most clients in a sum (the capacity).

    Raises:
        UserError: where TenSEAL is not installed, or not on Linux.
        ValueError: if so many clients and bits do not fit.
    """

    clip: float
    bits: int = 14
    clients: int = 200
    name: str = field(default="seal", init=False)
    fresh_keys: bool = field(default=False, init=False)
    secret: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        sealapi.require(self.name)
        if not 1 <= self.clients <= 10_000:
            raise ValueError(f"clients must be between 1 and 10000, got {self.clients}")
        _ = self.packing  # says so if so many clients and bits do not fit

    @cached_property
    def fixed(self) -> FixedPoint:
        """How floats become integers."""
        return FixedPoint(self.clip, self.bits)

    @property
    def capacity(self) -> int:
        """Most clients whose sum is exact."""
        return self.clients

    @cached_property
    def packing(self) -> Packing:
        """Values as digits of coefficients."""
        tail = math.sqrt(2 * math.log(2) * (FAILURE_BITS + 1) * self.clients) * SIGMA
        bound = math.ceil(tail + self.clients / 2)
        # Of the primes below 2^54 that suit N, SEAL takes one within a thousandth of it.
        room = math.floor(2**Q_BITS * 0.999) // (2 * bound + 1)
        return Packing(self.fixed.levels, self.clients, room, N)

    @cached_property
    def params_id(self) -> bytes:
        """Digest of everything above."""
        parts = (N, *BITS, self.packing.base, self.packing.k, self.bits)
        return digest("seal", *parts, repr(float(self.clip)).encode())

    def new_secret(self, seed: bytes) -> _Secret:
        """The secret key of a seed, the same on every machine."""
        return _secret(self.packing.modulus, seed)

    def encrypt(self, values: NDArray[Any], key: UploadKey, context: Context) -> Sealed:
        """See `defenses.encryption.base.Cipher.encrypt`."""
        if values.shape != (context.count,):
            raise errors.WrongCount(f"{values.shape} values for a context of {context.count}")
        saturated = 0

        def pieces() -> Iterator[bytes]:
            nonlocal saturated
            step = GROUP * N * self.packing.k
            for start in range(0, len(values), step):
                ints, cut = self.fixed.integers(values[start : start + step])
                saturated += cut
                packed = self.packing.pack(ints)
                packed += (packed >> 63) & self.packing.modulus  # residues: none is negative
                for polynomial in packed.view(np.uint64).reshape(-1, N):
                    yield key.secret.encrypt(polynomial)

        data = wire.seal_pieces(self, context, key, pieces())
        return Sealed(data, saturated)

    def parse(self, data: bytes, context: Context, keys: Verifier) -> Ciphertext:
        """See `defenses.encryption.base.Cipher.parse`."""
        count = self.packing.coefficients(context.count) // N
        least, most = N * Q_BITS // 8, 8 * N + 400
        body, nonce, shares = wire.unseal(data, self, context, keys, count * (4 + most), False)
        blocks = wire.pieces_of(body, count, least, most)
        scratch = sealapi.Scratch()
        for block in blocks:
            # Loaded twice, here to know whose fault it is, rather than kept unpacked.
            self._load(scratch, block)
        return Ciphertext(context, (Upload(context.sender, nonce, shares),), blocks)

    def add(self, ciphertexts: Sequence[Ciphertext]) -> Ciphertext:
        """See `defenses.encryption.base.Cipher.add`."""
        uploads = summing.summands(ciphertexts, self.capacity)
        from tenseal import sealapi as bindings

        evaluator = bindings.Evaluator(self._context())
        scratch, total = sealapi.Scratch(), []
        for blocks in zip(*(ciphertext.body for ciphertext in ciphertexts), strict=True):
            acc = None
            for block in blocks:
                part = self._load(scratch, block) if _packed(block) else block
                if acc is None:
                    acc, own = part, _packed(block)
                elif own:
                    evaluator.add_inplace(acc, part)
                else:  # a sum that somebody holds is not changed
                    fresh = bindings.Ciphertext()
                    evaluator.add(acc, part, fresh)
                    acc, own = fresh, True
            total.append(acc)
        return summing.total(ciphertexts, uploads, total)

    def decrypt(self, total: Ciphertext, opening: _Secret) -> Ints:
        """See `defenses.encryption.base.Cipher.decrypt`."""
        modulus = self.packing.modulus
        out = np.empty(total.context.count, dtype=np.int64)
        step = GROUP * N * self.packing.k
        for i, start in enumerate(range(0, len(out), step)):
            group = total.body[i * GROUP : (i + 1) * GROUP]
            numbers = np.concatenate([opening.decrypt(block) for block in group]).astype(np.int64)
            numbers[numbers > modulus // 2] -= modulus
            here = min(len(out) - start, len(group) * N * self.packing.k)
            piece = self.packing.sums(numbers.astype(np.float64), here, len(total.uploads))
            out[start : start + here] = piece
        return out

    def pack(self, total: Ciphertext) -> bytes:
        """A sum as bytes."""
        scratch = sealapi.Scratch()
        return join([scratch.save(block) for block in total.body])

    def unpack(self, data: bytes, context: Context, uploads: tuple[Upload, ...]) -> Ciphertext:
        """A sum from bytes of the network."""
        count, scratch = self.packing.coefficients(context.count) // N, sealapi.Scratch()
        blocks = [self._load(scratch, block) for block in split(data, count)]
        return Ciphertext(context, uploads, blocks)

    def _context(self) -> Any:
        return sealapi.context("BFV", N, BITS, self.packing.modulus)

    def _load(self, scratch: sealapi.Scratch, block: bytes | memoryview) -> Any:
        from tenseal import sealapi as bindings

        sealapi.check_frame(block)
        loaded = scratch.load(bindings.Ciphertext(), self._context(), block)
        if loaded.size() != 2 or loaded.is_ntt_form():
            raise errors.Malformed("a ciphertext of SEAL is not a fresh one")
        return loaded


class _Secret:
    """A secret key with what encrypts and decrypts under it."""

    def __init__(self, plain: int, seed: bytes) -> None:
        from tenseal import sealapi as bindings

        long_seed = derive(seed, "seal", 0) + derive(seed, "seal", 1)
        key = sealapi.secret_key("BFV", N, BITS, plain, long_seed)
        self._context = sealapi.context("BFV", N, BITS, plain)
        self._encryptor = bindings.Encryptor(self._context, key)
        self._decryptor = bindings.Decryptor(self._context, key)
        self._plaintext, self._scratch = bindings.Plaintext, threading.local()

    def encrypt(self, coefficients: NDArray[np.uint64]) -> bytes:
        if not hasattr(self._scratch, "file"):
            self._scratch.file = sealapi.Scratch()
        scratch: sealapi.Scratch = self._scratch.file
        raw = sealapi.polynomial(coefficients)
        plaintext = scratch.load(self._plaintext(), self._context, raw)
        return scratch.save(self._encryptor.encrypt_symmetric(plaintext))

    def decrypt(self, ciphertext: Any) -> NDArray[np.uint64]:
        plaintext = self._plaintext()
        self._decryptor.decrypt(ciphertext, plaintext)
        # Leading zeros are not kept.
        out, kept = np.zeros(N, dtype=np.uint64), plaintext.coeff_count()
        out[:kept] = np.fromiter(map(plaintext.dyn_array().at, range(kept)), np.uint64, kept)
        return out


@lru_cache(maxsize=8)
def _secret(plain: int, seed: bytes) -> _Secret:
    return _Secret(plain, seed)


def _packed(block: Any) -> bool:
    return isinstance(block, bytes | memoryview)
