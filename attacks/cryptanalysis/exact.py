"""The same attack on exact schemes: what an attacker can solve for if it takes sums for messages.

An exact scheme's ciphertext is D m + e plus a mask that the key gives. The published sum is m,
without the error e, which stays unknown; solving as if it were zero gives something else than the
key. If ever the unrounded D m + e got out, the same algebra would give the whole key: the
regression tests check both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.cryptanalysis.rings import Numbers, centred, inverse, multiply, reciprocal, transform


def recover_bfv_key(c0: Numbers, c1: Numbers, noisy: Numbers, prime: int) -> NDArray[np.int64]:
    """The key from c0 + c1 s = noisy modulo a prime, int64 [N].

    Args:
        c0: coefficients, object [N].
        c1: likewise.
        noisy: what the attacker takes D m + e for.
        prime: q.
    """
    left = transform(c1, prime)
    right = (transform(noisy, prime) - transform(c0, prime)) % prime
    inverses = np.array([pow(int(v), -1, prime) if v else 0 for v in left], dtype=object)
    return centred(inverse(right * inverses % prime, prime), prime)


def recover_ring_key(public: Numbers, masked: Numbers, bits: int) -> NDArray[np.int64]:
    """The key from public s = masked modulo 2^bits, int64 [N].

    Args:
        public: the public polynomial, object [N]; its coefficients' sum must be odd.
        masked: what the attacker takes c - D m - e for.
        bits: of q.

    Raises:
        ZeroDivisionError: for a polynomial without an inverse; another one will do.
    """
    return centred(multiply(masked, reciprocal(public, bits), bits), 1 << bits)


def bfv_halves(ciphertext: Any, degree: int) -> tuple[Numbers, Numbers]:
    """Both polynomials of a SEAL ciphertext in BFV with one prime, object [N] each."""
    words = ciphertext.dyn_array()
    c0, c1 = ([words.at(at + i) for i in range(degree)] for at in (0, degree))
    return np.array(c0, dtype=object), np.array(c1, dtype=object)
