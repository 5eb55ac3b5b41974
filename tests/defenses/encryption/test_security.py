from __future__ import annotations

import math

import pytest

from defenses.encryption import ckks, ring, rlwe, seal
from defenses.encryption.security import primal_attack

TERNARY = math.sqrt(2 / 3)


@pytest.mark.parametrize(("degree", "bits"), [(1024, 27), (2048, 54), (4096, 109), (8192, 218)])
def test_the_standards_rows_come_out_at_128_bits(degree: int, bits: int) -> None:
    """The estimate is calibrated: these are the standard's largest q at 128 bits."""
    assert 126 <= primal_attack(degree, bits, TERNARY, 3.19).standard_bits <= 134


def test_kyber_comes_out_as_published() -> None:
    """Kyber512's and Kyber768's core-SVP hardness, as their authors count it: 118 and 182 bits."""
    for degree, variance, published in ((512, 1.5, 118), (768, 1.0, 182)):
        sigma = math.sqrt(variance)
        found = primal_attack(degree, math.log2(3329), sigma, sigma, samples=degree + 256)
        assert abs(found.core_svp_bits - published) <= 1


def test_more_modulus_is_easier_and_more_noise_is_harder() -> None:
    base = primal_attack(1024, 30, 3.2, 3.2).block
    assert primal_attack(1024, 40, 3.2, 3.2).block < base
    assert primal_attack(2048, 30, 3.2, 3.2).block > base
    assert primal_attack(1024, 30, 3.2, 9.0).block > base
    assert primal_attack(1024, 30, 3.2, 3.2, samples=600).block >= base


def test_the_number_of_samples_is_the_best_one() -> None:
    base = primal_attack(1024, 30, 3.2, 3.2)
    used = base.dimension - 1025
    for samples in (used - 200, used // 2):
        assert primal_attack(1024, 30, 3.2, 3.2, samples).block >= base.block


def test_rlwe_has_128_bits_also_after_sums_were_opened() -> None:
    fresh = primal_attack(rlwe.N, rlwe.Q_BITS, ring.SIGMA, ring.SIGMA)
    # An opened sum tells the sum of the keys and of the errors. If two of its clients are honest,
    # an attacker knows the sum of theirs; half of the variance of each is left.
    left = ring.SIGMA / math.sqrt(2)
    opened = primal_attack(rlwe.N, rlwe.Q_BITS, left, left)
    assert left >= 3.2
    assert fresh.standard_bits > opened.standard_bits >= 128
    assert (round(fresh.standard_bits), round(opened.standard_bits)) == (139, 136)
    assert (round(fresh.core_svp_bits), round(opened.core_svp_bits)) == (107, 104)


def test_the_others_have_128_bits() -> None:
    assert primal_attack(seal.N, seal.Q_BITS, TERNARY, seal.SIGMA).standard_bits >= 250
    for degree, bits in ((seal.N, seal.BITS), (rlwe.N, (rlwe.Q_BITS,)), (ckks.N, ckks.BITS)):
        ckks.check_standard(degree, bits)
