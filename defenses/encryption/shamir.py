"""Shamir's secret sharing of short keys (Shamir, "How to share a secret", CACM 1979).

A secret vector becomes the constant terms of random polynomials of degree t - 1 over the prime
field of 65521 elements; member x gets their values at x. Any t shares give the secret, t - 1
give nothing, and the sum of shares is a share of the sum. A share is two bytes a number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from defenses.encryption.prg import Stream

PRIME = 65521  # the largest below 2^16


def share(
    secret: NDArray[np.int64], threshold: int, members: int, stream: Stream
) -> NDArray[np.uint16]:
    """Shares of a secret.

    Args:
        secret: int64 [N], magnitudes below PRIME / 2.
        threshold: t, how many shares give the secret.
        members: c, how many shares there are.
        stream: of randomness that nobody else knows.

    Returns:
        uint16 [c, N]: row x - 1 is the share of member x.

    Raises:
        ValueError: unless 1 <= t <= c < PRIME and the secret is small.
    """
    if not 1 <= threshold <= members < PRIME:
        raise ValueError("a threshold must lie between 1 and the number of members")
    if int(np.abs(secret).max(initial=0)) > PRIME // 2:
        raise ValueError("the secret does not fit into the field")
    coefficients = [_uniform(stream, len(secret)) for _ in range(threshold - 1)]
    shares = np.empty((members, len(secret)), dtype=np.uint16)
    for x in range(1, members + 1):
        value = np.zeros(len(secret), dtype=np.int64)
        for coefficient in coefficients:
            value = (value + coefficient) * x % PRIME
        shares[x - 1] = (value + secret) % PRIME
    return shares


def combine(shares: Mapping[int, NDArray[np.integer]]) -> NDArray[np.int64]:
    """The secret, or the sum of secrets, from t shares, or sums of shares.

    Args:
        shares: by member x >= 1; all of them are used.

    Returns:
        int64 [N] in [-(PRIME - 1) / 2, (PRIME - 1) / 2].
    """
    total: NDArray[np.int64] = np.zeros(len(next(iter(shares.values()))), dtype=np.int64)
    for x, values in shares.items():
        numerator = denominator = 1
        for other in shares:
            if other != x:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - x) % PRIME
        weight = numerator * pow(denominator, -1, PRIME) % PRIME
        total = (total + weight * values.astype(np.int64)) % PRIME
    total[total > PRIME // 2] -= PRIME
    return total


def add(shares: NDArray[np.integer]) -> NDArray[np.uint16]:
    """The share of the sum, uint16 [N], from one member's shares of its terms [n, N]."""
    total: NDArray[np.int64] = shares.astype(np.int64).sum(axis=0) % PRIME
    return total.astype(np.uint16)


def _uniform(stream: Stream, size: int) -> NDArray[np.int64]:
    """Uniform elements of the field, by rejection."""
    kept = np.empty(0, dtype=np.uint16)
    while len(kept) < size:
        draws = stream.read(2 * size).view(np.uint16)
        kept = np.concatenate([kept, draws[draws < PRIME]])
    return kept[:size].astype(np.int64)
