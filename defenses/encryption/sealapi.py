"""Microsoft SEAL through TenSEAL's bindings: objects as bytes, keys from a seed, checked input.

The bindings read and write files only; an anonymous file in memory serves (Linux). SEAL packs what
it writes with Zstandard, whose decoder believes what a few bytes promise: input from the network
must be one frame of one last block, which cannot become more than 128 KiB.
"""

from __future__ import annotations

import importlib.util
import os
import struct
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.encryption import errors
from fedhive.errors import UserError

_HEADER = struct.Struct("<HB2sBHQ")  # magic, size of this header, version, packing, -, total size
_MAGIC, _NONE, _ZSTD = 0xA15E, 0, 2


def require(name: str) -> None:
    """Refuse where the bindings are missing.

    Raises:
        UserError: naming what to install.
    """
    if importlib.util.find_spec("tenseal") is None:
        raise UserError(f"cipher={name} needs TenSEAL: pip install 'fedhive[he]'")
    if not sys.platform.startswith("linux"):
        raise UserError(f"cipher={name} needs Linux; cipher=rlwe runs anywhere")


class Scratch:
    """An anonymous file in memory through which objects become bytes and come back."""

    def __init__(self) -> None:
        self._file = os.memfd_create("fedhive")
        self._path = f"/proc/self/fd/{self._file}"

    def __del__(self) -> None:
        os.close(self._file)

    def save(self, thing: Any) -> bytes:
        """A SEAL object as bytes."""
        thing.save(self._path)  # which truncates the file first
        return os.pread(self._file, os.lseek(self._file, 0, os.SEEK_END), 0)

    def load(self, thing: Any, context: Any, data: bytes | memoryview) -> Any:
        """Bytes into a SEAL object, which is returned.

        Raises:
            Malformed: if SEAL refuses them.
        """
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))
        try:
            thing.load(context, self._path)
        except (RuntimeError, ValueError) as error:
            raise errors.Malformed(f"SEAL refuses the ciphertext: {error}") from error
        return thing


@lru_cache(maxsize=16)
def context(scheme: str, degree: int, bits: tuple[int, ...], plain: int, seed: bytes = b"") -> Any:
    """A SEAL context at 128 bits of security.

    Args:
        scheme: ``"BFV"`` or ``"CKKS"``.
        degree: N.
        bits: of the primes of q.
        plain: BFV's plaintext modulus, 0 for CKKS.
        seed: 64 bytes that all randomness of this context comes from; empty: the operating
            system's. For drawing keys only: never encrypt with a seeded context.

    Raises:
        ValueError: for parameters that SEAL does not hold for 128-bit secure.
    """
    from tenseal import sealapi

    parameters = sealapi.EncryptionParameters(getattr(sealapi.SCHEME_TYPE, scheme))
    parameters.set_poly_modulus_degree(degree)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(degree, list(bits)))
    if plain:
        parameters.set_plain_modulus(plain)
    if seed:
        words = np.frombuffer(seed, dtype="<u8").tolist()
        parameters.set_random_generator(sealapi.Blake2xbPRNGFactory(words))
    made = sealapi.SEALContext(parameters, False, sealapi.SEC_LEVEL_TYPE.TC128)
    if not made.parameters_set():
        raise ValueError(f"SEAL refuses the parameters: {made.parameters_error_message()}")
    return made


def secret_key(scheme: str, degree: int, bits: tuple[int, ...], plain: int, seed: bytes) -> Any:
    """The secret key of a 64-byte seed, the same in every process."""
    from tenseal import sealapi

    # Not from the cache: a generator that has been used is in another state.
    fresh = context.__wrapped__(scheme, degree, bits, plain, seed)
    return sealapi.KeyGenerator(fresh).secret_key()


@lru_cache(maxsize=1)
def _version() -> bytes:
    from tenseal import sealapi

    return Scratch().save(sealapi.Plaintext(1))[3:5]


def polynomial(coefficients: NDArray[np.uint64]) -> bytes:
    """A plaintext polynomial in SEAL's own format: no encoder, no list of Python integers."""
    size, inner = coefficients.nbytes, _HEADER.size + 8
    return b"".join([
        _HEADER.pack(_MAGIC, 16, _version(), _NONE, 0, _HEADER.size + 48 + inner + size),
        bytes(32),  # the id of no parameters: coefficients, not yet transformed
        struct.pack("<Qd", len(coefficients), 1.0),
        _HEADER.pack(_MAGIC, 16, _version(), _NONE, 0, inner + size),
        struct.pack("<Q", len(coefficients)),
        coefficients.astype("<u8", copy=False).tobytes(),
    ])  # fmt: skip


def check_frame(data: bytes | memoryview) -> None:
    """Refuse what SEAL would unpack to more than a ciphertext can be.

    Raises:
        Malformed: unless this is a SEAL object packed as one Zstandard frame with one block.
    """
    if len(data) < _HEADER.size + 12:
        raise errors.Malformed("a ciphertext of SEAL is cut")
    magic, size, version, packing, _, total = _HEADER.unpack_from(data)
    if (magic, size, version, packing) != (_MAGIC, 16, _version(), _ZSTD) or total != len(data):
        raise errors.Malformed("not a ciphertext of this version of SEAL")
    frame = data[_HEADER.size :]
    descriptor = frame[4]
    # The length of the content is announced, no checksum, no dictionary (RFC 8878, 3.1.1.1).
    single, rest = descriptor & 0x20, descriptor & 0x1F
    length = {0: 1, 1: 2, 2: 4, 3: 8}[descriptor >> 6]
    if bytes(frame[:4]) != b"\x28\xb5\x2f\xfd" or not single or rest:
        raise errors.Malformed("the ciphertext is packed in an unknown way")
    block = int.from_bytes(frame[5 + length : 8 + length], "little")
    last, kind, block_size = block & 1, block >> 1 & 3, block >> 3
    if not last or kind not in (0, 2) or 8 + length + block_size != len(frame):
        raise errors.Malformed("the ciphertext is packed in more than one block")
