"""Recovering a CKKS key from published results (IND-CPA-D).

A CKKS ciphertext (c0, c1) decrypts to m = c0 + c1 s: the message and a small error that depends on
the key. Whoever knows m exactly knows s = (m - c0) / c1 (Li and Micciancio, "On the security of
homomorphic encryption on approximate numbers", EUROCRYPT 2021). Federated learning with CKKS
publishes the decrypted average as floats, and a server has the ciphertexts.

TenSEAL gives the real parts of the slots only, which are the slots of m(x) + m(1/x). Modulo the
ciphertext's first prime q and in the transformed domain, where x -> 1/x maps index i to
N - 1 - i, that is one equation in two unknowns, s_i and s_(N-1-i)::

    c1_i s_i + c1_(N-1-i) s_(N-1-i) = M_i - c0_i - c0_(N-1-i)

A second ciphertext gives a second equation. Models need more than one ciphertext, so an attacker
has it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.cryptanalysis.rings import Numbers, centred, inverse, transform


@dataclass(frozen=True)
class Parameters:
    """A set of CKKS parameters.

    Args:
        degree: N.
        bits: of the primes of q, the key-switching prime last.
        scale_bits: log2 of the scale.
    """

    degree: int
    bits: tuple[int, ...]
    scale_bits: int


PEERS = {
    "nvflare": Parameters(8192, (60, 40, 40), 40),
    "plato": Parameters(8192, (60, 40, 40, 60), 40),
    "add-only": Parameters(4096, (60, 49), 40),
    "small-scale": Parameters(4096, (30, 30, 40), 25),
}
"""NVFlare's and Plato's (also TenSEAL's tutorials') parameters; the least that sums need; and a
scale so small that even results in float32 are exact."""


@dataclass(frozen=True)
class Exposure:
    """What a server has after a round: an aggregate's ciphertexts and its published values.

    Args:
        prime: the first of q's.
        scale: the ciphertexts'.
        c0: of each ciphertext modulo the prime, transformed as SEAL keeps it, object [n, N].
        c1: likewise.
        published: the real slots of each, float64 [n, N / 2].
    """

    prime: int
    scale: float
    c0: Numbers
    c1: Numbers
    published: NDArray[np.float64]


def exposure_of(
    ciphertexts: Sequence[Any], published: NDArray[np.floating], parameters: Parameters
) -> Exposure:
    """The exposure of TenSEAL's or SEAL's ciphertexts.

    Args:
        ciphertexts: SEAL ciphertexts in CKKS, of two polynomials.
        published: float [n, N / 2].
        parameters: they were made with.
    """
    degree = parameters.degree
    prime, halves = first_prime(degree, parameters.bits), []
    for ciphertext in _copies(ciphertexts, parameters):
        words, start = ciphertext.dyn_array(), degree * ciphertext.coeff_modulus_size()
        halves.append([[words.at(at + i) for i in range(degree)] for at in (0, start)])
    both = np.array(halves, dtype=object)
    scale = 2.0**parameters.scale_bits
    return Exposure(prime, scale, both[:, 0], both[:, 1], np.asarray(published, dtype=np.float64))


def first_prime(degree: int, bits: Sequence[int]) -> int:
    """The first prime that SEAL takes for these bits."""
    from tenseal import sealapi

    return int(sealapi.CoeffModulus.Create(degree, list(bits))[0].value())


def recover_key(exposure: Exposure) -> NDArray[np.int64]:
    """The secret key if the published values determine m, else nothing like it.

    Args:
        exposure: at least two ciphertexts; the first two are used.

    Returns:
        int64 [N]; a recovered key has coefficients -1, 0 and 1 only.

    Raises:
        ValueError: for fewer than two ciphertexts.
    """
    if len(exposure.c0) < 2:
        raise ValueError("one ciphertext has too few equations: its imaginary slots are unknown")
    prime = exposure.prime
    right, left = [], []
    for c0, c1, values in zip(exposure.c0[:2], exposure.c1, exposure.published, strict=False):
        doubled = transform(symmetric_message(values, exposure.scale), prime)
        right.append((doubled - c0 - c0[::-1]) % prime)
        left.append(c1)
    (a, b), (u, v) = left, right
    # Cramer's rule for [a_i a_j; b_i b_j] [s_i; s_j] = [u_i; v_i] with j = N - 1 - i.
    determinant = (a * b[::-1] - a[::-1] * b) % prime
    key = (u * b[::-1] - v * a[::-1]) * _inverses(determinant, prime) % prime
    return centred(inverse(key, prime), prime)


def symmetric_message(values: NDArray[np.float64], scale: float) -> Numbers:
    """Coefficients of m(x) + m(1/x) from the real parts of m's slots, object [N].

    Slot j is m at the 3^j-th power of exp(i pi / N).
    """
    degree = 2 * len(values)
    at_odd = np.empty(degree)
    exponent = 1
    for value in values:
        at_odd[exponent // 2] = at_odd[(2 * degree - exponent) // 2] = 2.0 * value
        exponent = exponent * 3 % (2 * degree)
    spectrum = np.fft.fft(at_odd * scale) / degree
    coefficients = spectrum * np.exp(-1j * np.pi * np.arange(degree) / degree)
    return np.array([int(c) for c in np.rint(coefficients.real)], dtype=object)


def true_key(secret: Any, degree: int, prime: int) -> NDArray[np.int64]:
    """The coefficients of a SEAL secret key, int64 [N], to compare with."""
    words = secret.data()
    values = np.array([words.data(i) for i in range(degree)], dtype=object)
    return centred(inverse(values, prime), prime)


def _copies(ciphertexts: Sequence[Any], parameters: Parameters) -> Iterator[Any]:
    """The ciphertexts in the bindings that let one look inside; by way of a file."""
    from tenseal import sealapi

    made = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    made.set_poly_modulus_degree(parameters.degree)
    made.set_coeff_modulus(sealapi.CoeffModulus.Create(parameters.degree, list(parameters.bits)))
    context = sealapi.SEALContext(made, True, sealapi.SEC_LEVEL_TYPE.TC128)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "ciphertext")
        for ciphertext in ciphertexts:
            ciphertext.save(path)
            copy = sealapi.Ciphertext()
            copy.load(context, path)
            yield copy


def _inverses(values: Numbers, prime: int) -> Numbers:
    return np.array([pow(int(value), -1, prime) if value else 0 for value in values], dtype=object)
