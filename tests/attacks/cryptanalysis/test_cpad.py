"""Published CKKS results give the key away; what our ciphers publish does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attacks.cryptanalysis import cpad, exact, rings
from attacks.cryptanalysis.cpad import PEERS, Parameters
from defenses.encryption import rlwe, seal
from defenses.encryption.base import Ciphertext, Context
from defenses.encryption.ckks import BITS, SLOTS, Tenseal
from defenses.encryption.keys_committee import Committee
from defenses.encryption.keys_shared import Shared
from defenses.encryption.ring import Multiplier, uniform
from defenses.encryption.rlwe import Rlwe
from defenses.encryption.seal import Seal

tenseal = pytest.importorskip("tenseal")
CLIENTS = 5


def average(parameters: Parameters, symmetric: bool):  # type: ignore[no-untyped-def]
    """Two ciphertexts of a sum over clients, as peers make them, and the context with the key."""
    kind = tenseal.ENCRYPTION_TYPE
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, parameters.degree, coeff_mod_bit_sizes=list(parameters.bits),
        encryption_type=kind.SYMMETRIC if symmetric else kind.ASYMMETRIC,
    )  # fmt: skip
    context.global_scale = 2.0**parameters.scale_bits
    rng, sums = np.random.default_rng(0), []
    for _ in range(2):
        vectors = [tenseal.ckks_vector(context, rng.normal(0, 0.05, parameters.degree // 2))
                   for _ in range(CLIENTS)]  # fmt: skip
        sums.append(sum(vectors[1:], vectors[0]))
    return context, sums


def recovered(parameters: Parameters, context, sums, published: np.ndarray) -> int:  # type: ignore[no-untyped-def]
    """How many coefficients of the key are found."""
    ciphertexts = [vector.ciphertext()[0] for vector in sums]
    exposure = cpad.exposure_of(ciphertexts, published, parameters)
    true = cpad.true_key(context.secret_key().data, parameters.degree, exposure.prime)
    assert set(np.unique(true)) == {-1, 0, 1}
    return int((cpad.recover_key(exposure) == true).sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", PEERS)
def test_published_float64_gives_the_whole_key(name: str, symmetric: bool) -> None:
    parameters = PEERS[name]
    context, sums = average(parameters, symmetric)
    published = np.array([vector.decrypt() for vector in sums])
    assert recovered(parameters, context, sums, published) == parameters.degree
    # float32 is no protection by itself: it depends on the scale.
    rounded = published.astype(np.float32).astype(np.float64)
    expected = parameters.degree if name == "small-scale" else 0
    assert recovered(parameters, context, sums, rounded) == expected


def uploads(cipher, keys, rows: np.ndarray) -> Ciphertext:  # type: ignore[no-untyped-def]
    here = Context(b"r" * 16, 1, b"m" * 16, 0, rows.shape[1])
    parsed = []
    for sender, row in enumerate(rows):
        there = replace(here, sender=sender)
        data = cipher.encrypt(row, keys.for_upload(cipher, there), there).data
        parsed.append(cipher.parse(data, there, keys))
    return cipher.add(parsed)  # type: ignore[no-any-return]


def rows_of(count: int, levels: int = 8191) -> np.ndarray:
    return np.random.default_rng(1).integers(-levels, levels + 1, (CLIENTS, count))


def test_our_ckks_gives_nothing() -> None:
    cipher, keys = Tenseal(0.25), Shared(seed=1)
    total = uploads(cipher, keys, rows_of(2 * SLOTS))
    [opened] = keys.open(cipher, [total])
    # What is published, in the slots' own unit: whole numbers.
    published = opened.reshape(2, SLOTS).astype(np.float64)
    assert (cipher.fixed.decode(opened) / cipher.fixed.step).round(6).tolist() == opened.tolist()
    parameters = Parameters(4096, BITS, cipher.scale_bits)
    context = cipher.new_secret(keys._secret(cipher, b"", total.context))
    assert recovered(parameters, context, total.body, published) == 0
    # The attack itself works here: with the unrounded slots it finds the key.
    leaked = np.array([vector.decrypt(context.secret_key()) for vector in total.body])
    assert recovered(parameters, context, total.body, leaked) == 4096


def test_our_seal_gives_nothing() -> None:
    cipher, keys = Seal(0.25), Shared(seed=1)
    count = seal.N * cipher.packing.k
    total = uploads(cipher, keys, rows_of(count))
    [opened] = keys.open(cipher, [total])
    prime = cpad.first_prime(seal.N, seal.BITS)
    c0, c1 = exact.bfv_halves(total.body[0], seal.N)
    packed = [int(v) % cipher.packing.modulus for v in cipher.packing.pack(opened)]
    scaled = [(prime * v + cipher.packing.modulus // 2) // cipher.packing.modulus for v in packed]
    noisy = np.array(scaled, dtype=object)
    from defenses.encryption import sealapi
    from defenses.encryption.prg import derive

    seed = keys._secret(cipher, b"", total.context)
    long_seed = derive(seed, "seal", 0) + derive(seed, "seal", 1)
    secret = sealapi.secret_key("BFV", seal.N, seal.BITS, cipher.packing.modulus, long_seed)
    true = cpad.true_key(secret, seal.N, prime)
    assert set(np.unique(true)) == {-1, 0, 1}
    assert int((exact.recover_bfv_key(c0, c1, noisy, prime) == true).sum()) == 0
    # With the error known, the same algebra gives the whole key.
    product = rings.inverse(rings.transform(c1, prime) * rings.transform(
        true.astype(object), prime), prime)  # fmt: skip
    leaked = (c0 + product) % prime
    assert np.abs(rings.centred(leaked - noisy, prime)).max() < 200
    assert (exact.recover_bfv_key(c0, c1, leaked, prime) == true).all()


@pytest.mark.parametrize("keys", [Shared(seed=1), Committee(size=3, threshold=2, seed=1)],
                         ids=lambda keys: keys.name)  # fmt: skip
@pytest.mark.parametrize("word", [7, 6])
def test_our_rlwe_gives_nothing(keys: Shared | Committee, word: int) -> None:
    keys = replace(keys)  # rounds are answered once
    cipher = Rlwe(0.25, 14, 100, word)
    blocks = 4
    total = uploads(cipher, keys, rows_of(blocks * rlwe.N * cipher.packing.k))
    seen: list[np.ndarray] = []
    real = Rlwe.decrypt

    def spy(self: Rlwe, total: Ciphertext, opening: np.ndarray) -> np.ndarray:
        seen.append(opening)
        return real(self, total, opening)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rlwe, "decrypt", spy)
        [opened] = keys.open(cipher, [total])
    true = seen[-1]
    public = uniform(cipher._public(total.context), blocks, rlwe.N).numpy()
    packed = cipher.packing.pack(opened).reshape(blocks, rlwe.N) * cipher.delta
    body = np.asarray(total.body).reshape(blocks, rlwe.N)
    attacked = 0
    for a, c, message in zip(public, body, packed, strict=True):
        row = a.real.astype(np.int64) + (a.imag.astype(np.int64) << 27)
        if row.sum() % 2 == 0:
            continue
        attacked += 1
        numbers = row.astype(object)
        masked = (c - message).astype(object)
        assert int((exact.recover_ring_key(numbers, masked, 54) == true).sum()) == 0
        # With the errors known, the same algebra gives the whole sum of keys.
        leaked = Multiplier(true)(np_to_torch(a))[0].astype(object)
        assert (exact.recover_ring_key(numbers, leaked, 54) == true).all()
        break
    assert attacked == 1


def np_to_torch(row: np.ndarray):  # type: ignore[no-untyped-def]
    import torch

    return torch.from_numpy(row[None].copy())


class TestRings:
    def test_transforms_are_inverse_and_multiply(self) -> None:
        prime, degree = 97, 16
        rng = np.random.default_rng(0)
        a, b = (rng.integers(0, prime, degree).astype(object) for _ in range(2))
        assert (rings.inverse(rings.transform(a, prime), prime) == a).all()
        product = [0] * degree
        for i in range(degree):
            for j in range(degree):
                sign = 1 if i + j < degree else -1
                product[(i + j) % degree] += sign * a[i] * b[j]
        both = rings.transform(a, prime) * rings.transform(b, prime)
        assert rings.inverse(both, prime).tolist() == [v % prime for v in product]
        assert rings.multiply(a, b, 20).tolist() == [v % 2**20 for v in product]

    def test_turning_around_reverses_the_transform(self) -> None:
        """x -> 1/x maps index i to N - 1 - i in SEAL's order."""
        prime, degree = 97, 16
        a = np.arange(degree).astype(object)
        turned = np.concatenate([a[:1], -a[:0:-1]])
        assert (rings.transform(turned, prime) == rings.transform(a, prime)[::-1]).all()

    def test_reciprocals(self) -> None:
        rng = np.random.default_rng(3)
        a = rng.integers(0, 2**54, 64).astype(object)
        a[0] += 1 - a.sum() % 2
        one = rings.multiply(a, rings.reciprocal(a, 54), 54)
        assert one.tolist() == [1] + [0] * 63
        a[0] += 1
        with pytest.raises(ZeroDivisionError):
            rings.reciprocal(a, 54)

    def test_one_ciphertext_is_too_little(self) -> None:
        one = np.zeros((1, 8), dtype=object)
        with pytest.raises(ValueError, match="too few equations"):
            cpad.recover_key(cpad.Exposure(97, 1.0, one, one, np.zeros((1, 4))))
