from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from defenses.encryption import errors
from defenses.encryption.base import Ciphertext, Context
from defenses.encryption.ckks import SLOTS, Tenseal, check_standard, fields, varint
from defenses.encryption.keys_shared import Shared

HERE = Context(b"r" * 16, 1, b"m" * 16, 1, 3000)
KEYS = Shared(seed=3)


def upload(cipher: Tenseal, values: np.ndarray, sender: int) -> Ciphertext:
    here = replace(HERE, sender=sender, count=len(values))
    sealed = cipher.encrypt(values, KEYS.for_upload(cipher, here), here)
    return cipher.parse(sealed.data, here, KEYS)


@pytest.mark.parametrize(("clients", "bits"), [(2, 14), (3, 10), (100, 14), (200, 14)])
def test_sums_are_exact_once_rounded(clients: int, bits: int) -> None:
    cipher = Tenseal(0.5, bits, clients)
    rng = np.random.default_rng(clients)
    levels = cipher.fixed.levels
    rows = rng.integers(-levels, levels + 1, (clients, 2500))
    rows[:, :50], rows[:, 50:100] = levels, -levels
    total = cipher.add([upload(cipher, row, i) for i, row in enumerate(rows)])
    [opened] = Shared(seed=3).open(cipher, [total])
    assert opened.tolist() == rows.sum(0).tolist()
    # The slots themselves are within the promised error of the integers.
    context = cipher.new_secret(KEYS._secret(cipher, b"", HERE))
    slots = np.array(total.body[0].decrypt(context.secret_key()))
    assert np.abs(slots - np.rint(slots)).max() < 2 ** (cipher.error_bits - cipher.scale_bits)
    assert 2 ** (cipher.error_bits - cipher.scale_bits) <= 0.01


def test_floats_come_back_within_the_fixed_points_step() -> None:
    """Rounded to 20 bits, the error at 100 clients is below 5e-6 of the clip range."""
    cipher = Tenseal(0.5, 20, 100)
    rows = np.random.default_rng(0).uniform(-0.5, 0.5, (100, 1000)).astype(np.float32)
    total = cipher.add([upload(cipher, row, i) for i, row in enumerate(rows)])
    [opened] = Shared(seed=3).open(cipher, [total])
    mean = cipher.fixed.decode(opened) / 100
    assert np.abs(mean - rows.astype(np.float64).mean(0)).max() < 5e-6 * 2 * cipher.clip


def test_sums_of_sums_and_sums_that_travelled() -> None:
    cipher = Tenseal(0.5, 14, 5)
    rows = np.random.default_rng(0).integers(-8191, 8192, (5, 2100))
    parts = [upload(cipher, row, i) for i, row in enumerate(rows)]
    total = cipher.add([cipher.add(parts[:2]), *parts[2:]])
    back = cipher.unpack(cipher.pack(total), total.context, total.uploads)
    for one in (total, back):
        [opened] = Shared(seed=3).open(cipher, [one])
        assert opened.tolist() == rows.sum(0).tolist()
    with pytest.raises(errors.SealError):
        cipher.unpack(cipher.pack(total)[:-5], total.context, total.uploads)


def test_another_key_opens_nothing() -> None:
    cipher = Tenseal(1.0)
    total = cipher.add([upload(cipher, np.ones(2500, np.int64), 1)])
    with pytest.raises(errors.Overflowed):
        cipher.decrypt(total, cipher.new_secret(b"x" * 32))


def test_keys_come_from_the_seed() -> None:
    cipher = Tenseal(1.0)
    one, two = cipher.new_secret(b"a" * 32), cipher.new_secret(b"b" * 32)
    block = upload(cipher, np.full(10, 7), 1).body[0]
    loaded = cipher._load(block)
    mine = cipher.new_secret(KEYS._secret(cipher, b"", HERE))
    assert np.rint(loaded.decrypt(mine.secret_key()))[:10].tolist() == [7] * 10
    for other in (one, two):
        assert np.abs(loaded.decrypt(other.secret_key())).max() > 1e3


@pytest.mark.parametrize(
    ("degree", "bits", "fits"),
    [(4096, (60, 49), True), (4096, (60, 60), False), (8192, (60, 40, 40, 60), True),
     (1024, (40, 40), False), (2048, (54,), True), (2048, (55,), False), (3000, (10,), False)],
)  # fmt: skip
def test_the_standards_table(degree: int, bits: tuple[int, ...], fits: bool) -> None:
    if fits:
        check_standard(degree, bits)
    else:
        with pytest.raises(ValueError, match="128-bit"):
            check_standard(degree, bits)


def test_damaged_messages_are_malformed() -> None:
    cipher = Tenseal(1.0)
    good = bytes(upload(cipher, np.ones(2500, np.int64), 1).body[0])
    assert dict(fields(good))[1] == varint(SLOTS)
    cipher._load(good)
    rng, refused = np.random.default_rng(0), 0
    for place in [*range(40), *rng.integers(40, len(good), 40).tolist()]:
        bad = bytearray(good)
        bad[place] ^= 0xFF
        try:
            cipher._load(bytes(bad))
        except errors.Malformed:
            refused += 1
    assert refused > 30  # and nothing else is raised, and nothing crashes
    other = Tenseal(1.0, 10, 10)  # another scale
    for bad_bytes in (good + good, good[:-1], b"", b"\xff" * 100,
                      bytes(upload(other, np.ones(9, np.int64), 1).body[0])):  # fmt: skip
        with pytest.raises(errors.Malformed):
            cipher._load(bad_bytes)


def test_impossible_parameters() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Tenseal(1.0, 31, 10_000)
