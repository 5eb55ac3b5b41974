from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.encryption import errors, ring, rlwe, wire
from defenses.encryption.base import Context, UploadKey
from defenses.encryption.keys_shared import Shared
from defenses.encryption.prg import Stream
from defenses.encryption.rlwe import N, Rlwe

RUN, MASK = b"r" * 16, b"m" * 16


def context(sender: int = 1, count: int = 5000, round: int = 1) -> Context:
    return Context(RUN, round, MASK, sender, count)


def key(cipher: Rlwe, seed: bytes | None = None) -> UploadKey:
    nonce = os.urandom(32)
    return UploadKey(cipher.new_secret(seed or nonce), nonce, bytes(32), bytes(16))


def schoolbook(a: list[int], s: list[int], modulus: int) -> list[int]:
    """The negacyclic product with Python's integers."""
    degree = len(a)
    out = [0] * degree
    for i, x in enumerate(a):
        for j, y in enumerate(s):
            at, sign = (i + j, 1) if i + j < degree else (i + j - degree, -1)
            out[at] += sign * x * y
    return [value % modulus for value in out]


@pytest.mark.parametrize("size", [1, 48, 3000])
def test_the_product_is_that_of_the_integers(size: int) -> None:
    degree, q = 64, 2**54
    rng = np.random.default_rng(size)
    factor = rng.integers(-size, size + 1, degree)
    public = ring.uniform(Stream(bytes(32)), 3, degree)
    limbs = public.numpy()
    coefficients = limbs.real.astype(np.int64) + (limbs.imag.astype(np.int64) << 27)
    product = ring.Multiplier(factor)(public.clone()) % q
    expected = [schoolbook(row.tolist(), factor.tolist(), q) for row in coefficients]
    assert product.tolist() == expected


@pytest.mark.parametrize("size", [48, 500, 2500])
def test_the_product_is_exact_where_errors_are_largest(size: int) -> None:
    """Limbs and keys of extreme magnitude and equal sign: every product adds up."""
    factor = np.full(N, size, dtype=np.int64)
    extreme = np.full((1, N), -(2.0**26), dtype=np.complex128) * (1 + 1j)
    product = ring.Multiplier(factor)(torch.from_numpy(extreme)) % 2**54
    # Coefficient i is (i + 1) - (N - 1 - i) equal terms.
    signs = 2 * np.arange(N, dtype=object) + 2 - N
    assert product[0].tolist() == [int(s) * size * (-(2**26) - 2**53) % 2**54 for s in signs]


def test_factors_that_are_not_small_are_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        ring.Multiplier(np.full(N, 2**20, dtype=np.int64))


def test_errors_have_the_promised_distribution() -> None:
    draws = ring.small(Stream(b"k" * 32), 1 << 18)
    assert abs(draws.mean()) < 0.05
    assert abs(draws.std() - ring.SIGMA) < 0.02
    assert np.abs(draws).max() <= ring.ETA
    lo_hi = ring.uniform(Stream(b"u" * 32), 8, N).numpy()
    for limb in (lo_hi.real, lo_hi.imag):
        assert limb.min() >= -(2**26)
        assert limb.max() < 2**26
        assert abs(limb.mean()) < 2**26 / 50


@pytest.mark.parametrize(
    ("bits", "clients", "word"),
    [(14, 200, 7), (14, 100, 6), (12, 100, 7), (9, 8, 7), (20, 200, 7), (30, 600, 7), (2, 2, 6)],
)
def test_parameters_leave_room_for_values_and_errors(bits: int, clients: int, word: int) -> None:
    cipher = Rlwe(1.0, bits, clients, word)
    assert cipher.packing.k >= 1
    assert cipher.delta >= 2 * cipher.noise_bound + 1
    assert cipher.delta * cipher.packing.modulus <= 2**54
    assert (cipher.packing.base - 1) // 2 > clients * cipher.fixed.levels


def test_the_default_costs_less_than_float32() -> None:
    cipher = Rlwe(1.0)
    assert cipher.size(1_000_000) + 200 <= 0.9 * 4_000_000
    assert Rlwe(1.0, 14, 100, word=6).size(1_000_000) + 200 <= 0.76 * 4_000_000


@pytest.mark.parametrize("clients", [2, 3, 50, 200])
@pytest.mark.parametrize("word", [7, 6])
def test_sums_are_those_of_the_integers(clients: int, word: int) -> None:
    cipher, keys = Rlwe(0.5, 13 if word == 6 else 14, clients, word), Shared(seed=3)
    rng = np.random.default_rng(clients)
    levels = cipher.fixed.levels
    parsed, expected = [], np.zeros(5000, dtype=np.int64)
    for sender in range(clients):
        ints = rng.integers(-levels, levels + 1, 5000)
        # The extremes meet in the same coefficients.
        ints[:50], ints[50:100] = levels, -levels
        expected += ints
        here = context(sender)
        sealed = cipher.encrypt(ints, keys.for_upload(cipher, here), here)
        parsed.append(cipher.parse(sealed.data, here, keys))
    [opened] = keys.open(cipher, [cipher.add(parsed)])
    assert opened.tolist() == expected.tolist()


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 3 * rlwe.BLOCK * N // 8),
    bits=st.integers(2, 24),
    clients=st.integers(2, 5),
    seed=st.integers(0, 2**32),
)
def test_any_shape_comes_back(count: int, bits: int, clients: int, seed: int) -> None:
    cipher, keys = Rlwe(0.1, bits, clients), Shared(seed=seed)
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((clients, count)).astype(np.float32)
    parsed, expected = [], np.zeros(count, dtype=np.int64)
    for sender in range(clients):
        here = context(sender, count)
        sealed = cipher.encrypt(values[sender], keys.for_upload(cipher, here), here)
        ints, saturated = cipher.fixed.encode(values[sender])
        assert sealed.saturated == saturated
        parsed.append(cipher.parse(sealed.data, here, keys))
        expected += ints
    # In any grouping: sums of sums.
    partial = cipher.add(parsed[1:])
    [opened] = keys.open(cipher, [cipher.add([partial, parsed[0]])])
    assert opened.tolist() == expected.tolist()


def test_several_blocks_come_back() -> None:
    cipher = Rlwe(1.0, 14, 2)
    count = rlwe.BLOCK * N * cipher.packing.k * 2 + 777
    ints = np.random.default_rng(0).integers(-8191, 8192, count)
    upload, here = key(cipher), context(1, count)
    sealed = cipher.encrypt(ints, upload, here)
    total = cipher.add([cipher.parse(sealed.data, here, _Open())])
    assert (cipher.decrypt(total, upload.secret.short_key()) == ints).all()


class _Open:
    key_id = bytes(16)

    def tag_key(self, nonce: bytes, context: Context) -> bytes:
        return bytes(32)


def test_a_key_seals_once() -> None:
    cipher = Rlwe(1.0)
    upload, ints = key(cipher), np.zeros(5000, dtype=np.int64)
    cipher.encrypt(ints, upload, context())
    with pytest.raises(errors.KeyReused):
        cipher.encrypt(ints, upload, context())


def test_another_key_opens_nothing() -> None:
    cipher = Rlwe(1.0)
    sealed = cipher.encrypt(np.zeros(5000, dtype=np.int64), key(cipher), context())
    total = cipher.add([cipher.parse(sealed.data, context(), _Open())])
    with pytest.raises(errors.Overflowed):
        cipher.decrypt(total, key(cipher).secret.short_key())
    for wrong in (np.zeros(7, dtype=np.int64), np.full(N, 49, dtype=np.int64)):
        with pytest.raises(errors.BadShare):
            cipher.decrypt(total, wrong)


def test_a_ciphertext_looks_uniform_and_differs_every_time() -> None:
    cipher = Rlwe(1.0)
    zeros = np.zeros(200_000, dtype=np.int64)
    here = context(1, 200_000)
    first, second = (cipher.encrypt(zeros, key(cipher), here).data for _ in range(2))
    a, b = (np.frombuffer(data, dtype=np.uint8)[136:-16] for data in (first, second))
    # The lower 48 bits of the coefficients fill six sevenths; the last holds the upper 6.
    full = len(a) // 7 * 6
    assert np.mean(a[:full] == b[:full]) < 0.006
    assert a[full:].max() < 64
    for part in (a[:full:2], a[1:full:2], a[full:]):
        counts = np.bincount(part)
        chi2 = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        freedom = len(counts) - 1
        assert freedom in (255, 63)
        assert chi2 < freedom + 6 * np.sqrt(2 * freedom)


def test_the_public_polynomials_depend_on_all_that_they_are_bound_to() -> None:
    cipher = Rlwe(1.0)
    contexts = [context(), replace(context(), round=2), replace(context(), run=b"x" * 16),
                replace(context(), mask=b"x" * 16)]  # fmt: skip
    first = {cipher._public(here).read(32).tobytes() for here in contexts}
    first.add(Rlwe(1.0, bits=13)._public(context()).read(32).tobytes())
    assert len(first) == 5
    # Senders share them: that is what makes the sum one ciphertext.
    assert cipher._public(context(1)).read(32).tobytes() in first
    assert cipher._public(context(9)).read(32).tobytes() in first


def test_sums_beyond_what_clients_can_have_made_are_refused() -> None:
    """A liar that encrypts more than the clip is noticed once the sum shows it."""
    cipher = Rlwe(1.0, 10, 4)
    forged = Rlwe(1.0, 10, 4)
    object.__setattr__(forged, "fixed", Rlwe(1.0, 13, 4).fixed)  # lies about its levels
    for name in ("packing", "delta", "params_id"):
        object.__setattr__(forged, name, getattr(cipher, name))
    upload, here = key(cipher), context()
    sealed = forged.encrypt(np.full(5000, 2000), upload, here)
    total = cipher.add([cipher.parse(sealed.data, here, _Open())])
    with pytest.raises(errors.Overflowed):
        cipher.decrypt(total, upload.secret.short_key())


@pytest.mark.parametrize("count", [5000, 2 * 2 * N])
def test_garbage_shows_in_a_sum_over_as_many_clients_as_there_may_be(count: int) -> None:
    cipher = Rlwe(1.0, 14, 2)
    here, other = context(1, count), context(2, count)
    uploads = [key(cipher), key(cipher)]
    good = cipher.encrypt(np.zeros(count, np.int64), uploads[0], here)
    bad = bytearray(cipher.encrypt(np.zeros(count, np.int64), uploads[1], other).data)
    bad[136:-16] = os.urandom(len(bad) - 152)  # a client that has the keys, and no manners
    bad[-16:] = wire._tag(bytes(32), bytes(bad[:136]), memoryview(bad)[136:-16])
    parsed = [cipher.parse(good.data, here, _Open()), cipher.parse(bytes(bad), other, _Open())]
    opening = cipher.short_keys([upload.secret for upload in uploads])
    with pytest.raises(errors.Overflowed):
        cipher.decrypt(cipher.add(parsed), opening)


@pytest.mark.parametrize("options", [{"bits": 30, "clients": 601}, {"word": 5}, {"clip": -1.0}])
def test_impossible_parameters_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"clients|word|clip"):
        Rlwe(**{"clip": 1.0, **options})  # type: ignore[arg-type]
