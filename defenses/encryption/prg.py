"""Pseudo-random bytes from 32-byte keys, and how keys are derived from keys.

The stream is AES-256 in counter mode under a key that HMAC-SHA256 derives for one purpose. Two
purposes never share a key, so no part of a stream is used twice.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher as StreamCipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from numpy.typing import NDArray

BLOCK = 1 << 20
_ZEROS = memoryview(bytes(BLOCK))


def derive(key: bytes, purpose: str, *parts: bytes | int) -> bytes:
    """A 32-byte key for one purpose.

    Args:
        key: 32 secret bytes.
        purpose: what the derived key is for.
        *parts: what it depends on besides; each part's length is bound too.
    """
    return hmac.digest(key, encode(purpose, *parts), "sha256")


def digest(purpose: str, *parts: bytes | int, size: int = 16) -> bytes:
    """A public digest of some parts, ``size`` bytes of BLAKE2b."""
    return hashlib.blake2b(encode(purpose, *parts), digest_size=size).digest()


def encode(purpose: str, *parts: bytes | int) -> bytes:
    """The parts as bytes that no other parts give: each with its length before it."""
    out = [b"fedhive/1"]
    for part in (purpose.encode(), *parts):
        raw = part if isinstance(part, bytes) else part.to_bytes(16, "little")
        out.append(len(raw).to_bytes(8, "little") + raw)
    return b"".join(out)


class Stream:
    """The AES-CTR key stream of one key, read piece by piece.

    Args:
        key: 32 bytes; used for this stream only.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = StreamCipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def read(self, size: int) -> NDArray[np.uint8]:
        """The next ``size`` bytes, in memory of their own."""
        # The backend wants room for one block more.
        out = np.empty(size + 15, dtype=np.uint8)
        view = out.data
        for start in range(0, size, BLOCK):
            piece = min(BLOCK, size - start)
            self._cipher.update_into(_ZEROS[:piece], view[start : start + piece + 15])
        return out[:size]
