"""How hard a lattice is: the cost of the primal attack.

An estimate to choose and to guard parameters by, not a proof. The primal attack (Alkim, Ducas,
Poeppelmann and Schwabe, USENIX Security 2016, section 6.3; with Bai and Galbraith's scaling for
secrets that are smaller than errors) embeds m samples of dimension n into a lattice of dimension
d = n + m + 1 and volume q^m w^n, w the ratio of the errors' to the secrets' deviation, and finds
the short vector with block size b if::

    sigma sqrt(b) <= delta(b)^(2 b - d - 1) (q^m w^n)^(1 / d)

What that costs is counted in two ways. Core-SVP counts a single call to a sieve in dimension b,
2^(0.292 b) operations: what Kyber's authors quote. The Homomorphic Encryption Standard, by which
CKKS and BFV parameters are chosen, counts 8 d calls at 2^(0.292 b + 16.4), some 30 bits more. Say
which one a number is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardness:
    """The cheapest primal attack.

    Args:
        block: block size b of its lattice reduction.
        dimension: d.
    """

    block: int
    dimension: int

    @property
    def core_svp_bits(self) -> float:
        """log2 of its cost in the core-SVP model."""
        return 0.292 * self.block

    @property
    def standard_bits(self) -> float:
        """log2 of its cost as the Homomorphic Encryption Standard counts it."""
        return 0.292 * self.block + 16.4 + math.log2(8 * self.dimension)


def primal_attack(
    degree: int, log2_q: float, secret: float, error: float, samples: int | None = None
) -> Hardness:
    """The cheapest primal attack on a secret of (ring) learning with errors.

    Args:
        degree: n.
        log2_q: of the modulus.
        secret: standard deviation of the secret's coefficients.
        error: standard deviation of the errors.
        samples: most samples m that an attacker has; None for as many as help.
    """
    ratio = degree * math.log2(error / secret)
    low, high = 50, 4 * degree
    while low < high:
        block = (low + high) // 2
        root = _log2_delta(block)
        # Where the bound has its maximum in d.
        best = math.sqrt(max((degree + 1) * log2_q - ratio, 1.0) / root)
        most = best if samples is None else min(best, degree + samples + 1)
        dimension = max(round(most), degree + 2)
        volume = ((dimension - degree - 1) * log2_q + ratio) / dimension
        found = (2 * block - dimension - 1) * root + volume
        if found >= math.log2(error * math.sqrt(block)):
            high, result = block, dimension
        else:
            low = block + 1
    return Hardness(low, result)


def _log2_delta(block: int) -> float:
    """log2 of the root Hermite factor of BKZ with a block size (Chen's thesis, 2013)."""
    value = (math.pi * block) ** (1 / block) * block / (2 * math.pi * math.e)
    return math.log2(value) / (2 * (block - 1))
