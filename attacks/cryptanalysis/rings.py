"""Arithmetic an attacker needs: transforms modulo a prime, inverses modulo a power of two.

Numbers have 54 to 60 bits, so products do not fit into machine words; Python's integers in NumPy
arrays are fast enough for a key.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
"""Python integers, object [N]."""


@lru_cache(maxsize=8)
def root(degree: int, prime: int) -> int:
    """The smallest primitive 2N-th root of unity modulo a prime, as SEAL takes it."""
    order, base = 2 * degree, 2
    while pow(power := pow(base, (prime - 1) // order, prime), degree, prime) != prime - 1:
        base += 1
    square, best, candidate = power * power % prime, power, power
    for _ in range(degree - 1):
        candidate = candidate * square % prime
        best = min(best, candidate)
    return best


@lru_cache(maxsize=8)
def _powers(degree: int, prime: int) -> tuple[Numbers, Numbers]:
    """Powers of the root and of its inverse, in bit-reversed order."""
    unit, bits = root(degree, prime), degree.bit_length() - 1
    order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(degree)]
    tables = []
    for base in (unit, pow(unit, -1, prime)):
        powers = [1]
        for _ in range(degree - 1):
            powers.append(powers[-1] * base % prime)
        tables.append(np.array([powers[i] for i in order], dtype=object))
    return tables[0], tables[1]


def transform(values: Numbers, prime: int) -> Numbers:
    """Values at all odd powers of the root, in SEAL's bit-reversed order.

    Args:
        values: coefficients, object [N], N a power of two.
        prime: one that is 1 modulo 2N.
    """
    out, degree = values.copy() % prime, len(values)
    powers, groups = _powers(degree, prime)[0], 1
    while groups < degree:
        block = out.reshape(groups, 2, degree // (2 * groups))
        twisted = block[:, 1] * powers[groups : 2 * groups, None] % prime
        block[:, 0], block[:, 1] = (
            (block[:, 0] + twisted) % prime,
            (block[:, 0] - twisted) % prime,
        )
        groups *= 2
    return out


def inverse(values: Numbers, prime: int) -> Numbers:
    """Coefficients in [0, prime) from what `transform` gave."""
    out, degree = values.copy() % prime, len(values)
    powers, groups = _powers(degree, prime)[1], degree // 2
    while groups >= 1:
        block = out.reshape(groups, 2, degree // (2 * groups))
        low, high = block[:, 0].copy(), block[:, 1].copy()
        block[:, 0] = (low + high) % prime
        block[:, 1] = (low - high) * powers[groups : 2 * groups, None] % prime
        groups //= 2
    return out * pow(degree, -1, prime) % prime


def centred(values: Numbers, modulus: int) -> NDArray[np.int64]:
    """Residues nearest to zero, int64."""
    values = values % modulus
    small = np.where(values > modulus // 2, values - modulus, values)
    result: NDArray[np.int64] = small.astype(np.int64)
    return result


def multiply(a: Numbers, b: Numbers, bits: int) -> Numbers:
    """The product in Z[x] / (x^N + 1) modulo 2^bits, by one product of two long numbers."""
    degree, width = len(a), 2 * bits + len(a).bit_length() + 1
    width += -width % 8
    mask, size = (1 << bits) - 1, width // 8
    joined = [
        int.from_bytes(
            b"".join((int(v) & mask).to_bytes(size, "little") for v in values), "little"
        )
        for values in (a, b)
    ]
    raw = (joined[0] * joined[1]).to_bytes(2 * degree * size, "little")
    digits = [int.from_bytes(raw[i * size : (i + 1) * size], "little") for i in range(2 * degree)]
    product = np.array(digits, dtype=object)
    result: Numbers = (product[:degree] - product[degree:]) & mask
    return result


def reciprocal(a: Numbers, bits: int) -> Numbers:
    """The inverse in Z[x] / (x^N + 1) modulo 2^bits.

    Modulo 2 the ring's elements satisfy a^N = a(1), as squaring is linear there; so a^(N - 1) is
    the inverse if the coefficients' sum is odd. Newton's b (2 - a b) doubles the bits.

    Raises:
        ZeroDivisionError: if there is no inverse.
    """
    if int(a.sum()) % 2 == 0:
        raise ZeroDivisionError("a polynomial with an even sum has no inverse")
    power, inverse_ = a & 1, np.array([1] + [0] * (len(a) - 1), dtype=object)
    for _ in range(len(a).bit_length() - 1):
        inverse_ = multiply(inverse_, power, 1)
        power = multiply(power, power, 1)
    known = 1
    while known < bits:
        known = min(2 * known, bits)
        rest = -multiply(a, inverse_, known)
        rest[0] += 2
        inverse_ = multiply(inverse_, rest, known)
    return inverse_
