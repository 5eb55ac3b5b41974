"""Exact arithmetic in Z[x] / (x^N + 1) and the small polynomials that keys and errors are.

A public polynomial a has coefficients lo + 2^27 hi with lo, hi in [-2^26, 2^26), uniform modulo
q = 2^54. Its product with a small integer polynomial s comes from one complex FFT: multiplying by
powers of exp(i pi / N) turns the negacyclic product into a cyclic one, and as s is real, the
products of s with lo and hi are the real and imaginary parts of the product with lo + i hi.

That is exact if rounding to the nearest integer mends the FFT's error. For a product by FFT of
length 2^n with unit roundoff eps the error of every coefficient is at most, in first order,
(12 n + 12) eps ||lo + i hi|| ||s|| (Brent, Percival and Zimmermann, "Error bounds on complex
floating-point multiplication", Math. Comp. 2007, section 5, with correctly rounded roots; 9 of the
last 12 are for the three multiplications by powers of exp(i pi / N)). `Multiplier` splits an s
that is too large for this to stay below a quarter, and refuses what is not small even then.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.encryption.prg import Stream

LIMB = 27
ETA = 48
"""Keys and errors are differences of two sums of 48 fair bits: standard deviation 4.9, at most
48. Two honest summands that an attacker cannot tell apart still hide each other behind 3.4."""

SIGMA = float(np.sqrt(ETA / 2))
_EPS = 2.0**-53
# Adding 1.5 * 2^52 to a smaller double rounds it to an integer and leaves that in the lower bits
# of the mantissa; most processors have no faster way from doubles to 64-bit integers.
_MAGIC = 1.5 * 2.0**52
_OFFSET = np.array([_MAGIC]).view(np.uint64) * np.uint64(1 + 2**LIMB)
_OFFSET = _OFFSET.view(np.int64)[0]


def uniform(stream: Stream, polynomials: int, degree: int) -> torch.Tensor:
    """Uniform public polynomials, complex128 [polynomials, degree]: lo + i hi."""
    words = stream.read(8 * polynomials * degree).view(np.int32)
    # The upper 27 of 32 uniform bits, with sign.
    limbs = torch.from_numpy(words).bitwise_right_shift_(32 - LIMB).to(torch.float64)
    return torch.view_as_complex(limbs.view(polynomials, degree, 2))


def small(stream: Stream, size: int) -> NDArray[np.int8]:
    """Small integers, int8 [size]: the bits set among 2 ETA fair ones, minus ETA."""
    raw = stream.read(12 * size)
    ones = np.bitwise_count(raw[: 8 * size].view(np.uint64))
    ones += np.bitwise_count(raw[8 * size :].view(np.uint32))
    ones -= ETA  # wraps around below zero, as signed bytes do
    return ones.view(np.int8)


class Multiplier:
    """Multiplies public polynomials by one small polynomial, exactly.

    Args:
        factor: int64 [N], N a power of two, small.

    Raises:
        ValueError: for a factor whose products could not be exact.
    """

    def __init__(self, factor: NDArray[np.int64]) -> None:
        degree = len(factor)
        self._twist, self._untwist = _twists(degree)
        pieces = [(factor, 1)]
        if error_bound(factor) >= 0.25:
            high = (factor + 16) >> 5
            pieces = [(factor - (high << 5), 1), (high, 1 << 5)]
        if any(error_bound(piece) >= 0.25 for piece, _ in pieces):
            raise ValueError("the factor is too large for an exact product")
        self._spectrum = self._product = torch.empty(0, dtype=torch.complex128)
        self._spectra = [
            (torch.fft.fft(torch.from_numpy(piece).to(torch.float64) * self._twist), by)
            for piece, by in pieces
        ]

    def __call__(self, public: torch.Tensor) -> NDArray[np.int64]:
        """The products modulo 2^64, int64 [polynomials, N] (two's complement).

        Args:
            public: complex128 [polynomials, N] from `uniform`; changed in place.
        """
        if public.shape != self._spectrum.shape:
            # Kept from block to block: fresh memory costs more than the arithmetic.
            self._spectrum, self._product = torch.empty_like(public), torch.empty_like(public)
        torch.fft.fft(public.mul_(self._twist), out=self._spectrum)
        total: NDArray[np.int64] | None = None
        for factor, by in self._spectra:
            torch.mul(self._spectrum, factor, out=public)
            torch.fft.ifft(public, out=self._product)
            limbs = torch.view_as_real(self._product.mul_(self._untwist)).add_(_MAGIC)
            words = limbs.numpy().view(np.int64)
            part = words[..., 1] << LIMB
            part += words[..., 0]
            part -= _OFFSET
            if by != 1:
                part *= by
            total = part if total is None else total + part
        assert total is not None
        return total


@lru_cache(maxsize=4)
def _twists(degree: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Powers of exp(i pi / N) and of its inverse."""
    angle = torch.arange(degree, dtype=torch.float64) * (torch.pi / degree)
    twist = torch.polar(torch.ones_like(angle), angle)
    return twist, twist.conj().resolve_conj()


def error_bound(factor: NDArray[np.int64]) -> float:
    """Most that a coefficient of a product can be off before it is rounded."""
    degree = len(factor)
    public = np.sqrt(2.0 * degree) * 2.0 ** (LIMB - 1)
    norm = float(np.linalg.norm(factor.astype(np.float64)))
    return float((12 * np.log2(degree) + 12) * _EPS * public * norm)
