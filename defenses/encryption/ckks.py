"""CKKS by TenSEAL, with parameters chosen for sums: for comparison with what others do.

Clients scale before they encrypt, so there is nothing to multiply and one prime is enough: N =
4096 with primes of 60 and 49 bits (the second is TenSEAL's key-switching prime), all that the
Homomorphic Encryption Standard allows at 128 bits and N = 4096. Others carry two to four primes at
N = 8192 for a multiplication that they could have avoided, at two to three times the bytes.

CKKS is approximate, and its error depends on the secret key: who publishes decrypted floats
gives the key away (Li and Micciancio, EUROCRYPT 2021; ``attacks.cryptanalysis`` does it). Here
slots hold integers, and what is decrypted is rounded to integers before anybody sees it. The scale
leaves the error below a hundredth of a unit: rounding is exact and nothing of the error is left.
"""

from __future__ import annotations

import math
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
SLOTS = N // 2
BITS = (60, 49)
STANDARD = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Most bits of q by N for 128 bits of security, classical, ternary secrets: Homomorphic Encryption
Standard (Albrecht and others, 2018), table 1."""
SIGMA = math.sqrt(21 / 2)


def check_standard(degree: int, bits: Sequence[int]) -> None:
    """Refuse what the standard does not hold for 128-bit secure.

    Raises:
        ValueError: naming the bound.
    """
    most = STANDARD.get(degree, 0)
    if sum(bits) > most:
        raise ValueError(f"N={degree} with {sum(bits)} bits of q is below 128-bit security "
                         f"(at most {most} bits)")  # fmt: skip


@dataclass(frozen=True)
class Tenseal:
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
    name: str = field(default="tenseal", init=False)
    fresh_keys: bool = field(default=False, init=False)
    secret: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        sealapi.require(self.name)
        check_standard(N, BITS)
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
    def error_bits(self) -> float:
        """log2 of a slot's largest error before it is divided by the scale.

        A slot is a sum of N errors times roots of unity: deviation sqrt(N) sigma a client, half a
        unit of rounding in each coefficient included, twelve of them for the tail.
        """
        deviation = math.sqrt(N * self.clients * (SIGMA**2 + 1 / 12))
        return math.log2(12 * deviation)

    @cached_property
    def scale_bits(self) -> int:
        """log2 of the scale: the error is below a hundredth of a unit."""
        return math.ceil(self.error_bits + math.log2(100))

    @cached_property
    def packing(self) -> Packing:
        """Values as digits of slots; the largest scaled slot keeps five bits below the prime."""
        return Packing(self.fixed.levels, self.clients, 1 << (55 - self.scale_bits), SLOTS)

    @cached_property
    def params_id(self) -> bytes:
        """Digest of everything above."""
        parts = (N, *BITS, self.scale_bits, self.packing.base, self.packing.k, self.bits)
        return digest("tenseal", *parts, repr(float(self.clip)).encode())

    def new_secret(self, seed: bytes) -> Any:
        """The secret key of a seed, the same on every machine: a context of TenSEAL."""
        return _secret(self.scale_bits, seed)

    def encrypt(self, values: NDArray[Any], key: UploadKey, context: Context) -> Sealed:
        """See `defenses.encryption.base.Cipher.encrypt`."""
        if values.shape != (context.count,):
            raise errors.WrongCount(f"{values.shape} values for a context of {context.count}")
        import tenseal

        saturated = 0

        def pieces() -> Iterator[bytes]:
            nonlocal saturated
            step = SLOTS * self.packing.k
            for start in range(0, len(values), step):
                ints, cut = self.fixed.integers(values[start : start + step])
                saturated += cut
                packed = self.packing.pack(ints).astype(np.float64)
                yield tenseal.ckks_vector(key.secret, packed).serialize()

        data = wire.seal_pieces(self, context, key, pieces())
        return Sealed(data, saturated)

    def parse(self, data: bytes, context: Context, keys: Verifier) -> Ciphertext:
        """See `defenses.encryption.base.Cipher.parse`."""
        count = self.packing.coefficients(context.count) // SLOTS
        most = 2 * 8 * N + 1000
        body, nonce, shares = wire.unseal(data, self, context, keys, count * (4 + most), False)
        blocks = wire.pieces_of(body, count, N, most)
        for block in blocks:
            self._load(block)
        return Ciphertext(context, (Upload(context.sender, nonce, shares),), blocks)

    def add(self, ciphertexts: Sequence[Ciphertext]) -> Ciphertext:
        """See `defenses.encryption.base.Cipher.add`."""
        uploads = summing.summands(ciphertexts, self.capacity)
        total = []
        for blocks in zip(*(ciphertext.body for ciphertext in ciphertexts), strict=True):
            acc = None
            for block in blocks:
                part = self._load(block) if isinstance(block, bytes | memoryview) else block
                acc = part if acc is None else acc + part
            total.append(acc)
        return summing.total(ciphertexts, uploads, total)

    def decrypt(self, total: Ciphertext, opening: Any) -> Ints:
        """See `defenses.encryption.base.Cipher.decrypt`."""
        out = np.empty(total.context.count, dtype=np.int64)
        step = SLOTS * self.packing.k
        for i, block in enumerate(total.body):
            slots = np.rint(np.array(block.decrypt(opening.secret_key())))
            if float(np.abs(slots).max()) > self.packing.modulus:
                raise errors.Overflowed("a sum is none that its clients can have made")
            here = min(len(out) - i * step, step)
            out[i * step : i * step + here] = self.packing.sums(slots, here, len(total.uploads))
        return out

    def pack(self, total: Ciphertext) -> bytes:
        """A sum as bytes."""
        return join([block.serialize() for block in total.body])

    def unpack(self, data: bytes, context: Context, uploads: tuple[Upload, ...]) -> Ciphertext:
        """A sum from bytes of the network."""
        count = self.packing.coefficients(context.count) // SLOTS
        blocks = [self._load(block) for block in split(data, count)]
        return Ciphertext(context, uploads, blocks)

    def _load(self, block: bytes | memoryview) -> Any:
        import tenseal

        raw = bytes(block)
        parts = dict(fields(raw))
        # One size, one ciphertext, the scale as agreed; the frame bounds what it unpacks to.
        inside, size, scale = (parts.get(number, b"") for number in (2, 1, 3))
        agreed = np.array(2.0**self.scale_bits).tobytes()
        if set(parts) != {1, 2, 3} or scale != agreed or size != varint(SLOTS):
            raise errors.Malformed("not a ciphertext of these parameters")
        sealapi.check_frame(inside)
        try:
            loaded = tenseal.ckks_vector_from(_public(self.scale_bits), raw)
        except (RuntimeError, ValueError) as error:
            raise errors.Malformed(f"TenSEAL refuses the ciphertext: {error}") from error
        return loaded


def varint(number: int) -> bytes:
    """A number as Protocol Buffers write it."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The top-level fields of a message of Protocol Buffers, their numbers and raw contents.

    Raises:
        Malformed: for what is none, or a field that appears twice.
    """
    at, seen = 0, set()
    while at < len(data):
        tag = data[at]
        number, kind = tag >> 3, tag & 7
        if tag > 127 or number in seen or kind not in (0, 1, 2):
            raise errors.Malformed("not a message of TenSEAL")
        seen.add(number)
        at, size = at + 1, 8
        if kind != 1:
            shift = size = 0
            start = at
            while True:
                if at >= len(data) or shift > 28:
                    raise errors.Malformed("a message of TenSEAL is cut")
                size |= (data[at] & 127) << shift
                at, shift = at + 1, shift + 7
                if data[at - 1] < 128:
                    break
            if kind == 0:
                yield number, data[start:at]
                continue
        if at + size > len(data):
            raise errors.Malformed("a message of TenSEAL is cut")
        yield number, data[at : at + size]
        at += size


@lru_cache(maxsize=8)
def _fresh(scale_bits: int) -> Any:
    import tenseal

    made = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, N, coeff_mod_bit_sizes=list(BITS),
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )  # fmt: skip
    made.global_scale = 2.0**scale_bits
    return made


@lru_cache(maxsize=8)
def _secret(scale_bits: int, seed: bytes) -> Any:
    """TenSEAL's context with the secret key of a seed.

    TenSEAL draws a key of its own; the serialised context's third field holds it.
    """
    import tenseal

    long_seed = derive(seed, "tenseal", 0) + derive(seed, "tenseal", 1)
    key = sealapi.Scratch().save(sealapi.secret_key("CKKS", N, BITS, 0, long_seed))
    raw = _fresh(scale_bits).serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    holder = b"\x0a" + varint(len(key)) + key
    parts = []
    for number, content in fields(raw):
        parts.append((number, holder if number == 3 else content))
    made = b"".join(
        bytes([number << 3]) + content if number == 4
        else bytes([number << 3 | 2]) + varint(len(content)) + content
        for number, content in parts
    )  # fmt: skip
    return tenseal.context_from(made)


@lru_cache(maxsize=8)
def _public(scale_bits: int) -> Any:
    """A context that adds and decrypts nothing of interest: its key is nobody's."""
    return _fresh(scale_bits)
