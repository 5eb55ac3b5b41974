from __future__ import annotations

import os
import struct
from dataclasses import replace

import numpy as np
import pytest

from defenses.encryption import errors, sealapi
from defenses.encryption.base import Ciphertext, Context, UploadKey
from defenses.encryption.keys_shared import Shared
from defenses.encryption.seal import BITS, GROUP, N, Seal

HERE = Context(b"r" * 16, 1, b"m" * 16, 1, 5000)
KEYS = Shared(seed=3)


def upload(cipher: Seal, ints: np.ndarray, sender: int) -> Ciphertext:
    here = replace(HERE, sender=sender, count=len(ints))
    sealed = cipher.encrypt(ints, KEYS.for_upload(cipher, here), here)
    return cipher.parse(sealed.data, here, KEYS)


@pytest.mark.parametrize("clients", [2, 3, 50, 200])
def test_sums_are_those_of_the_integers(clients: int) -> None:
    cipher, keys = Seal(0.5, 14, clients), Shared(seed=3)
    rng = np.random.default_rng(clients)
    levels = cipher.fixed.levels
    rows = rng.integers(-levels, levels + 1, (clients, 5000))
    rows[:, :50], rows[:, 50:100] = levels, -levels
    total = cipher.add([upload(cipher, row, i) for i, row in enumerate(rows)])
    [opened] = keys.open(cipher, [total])
    assert opened.tolist() == rows.sum(0).tolist()


def test_several_groups_come_back() -> None:
    cipher = Seal(1.0, 14, 2)
    count = GROUP * N * cipher.packing.k + 777
    ints = np.random.default_rng(0).integers(-8191, 8192, count)
    [opened] = Shared(seed=3, least=1).open(cipher, [cipher.add([upload(cipher, ints, 1)])])
    assert (opened == ints).all()


def test_sums_of_sums_and_sums_that_travelled() -> None:
    cipher = Seal(0.5, 14, 5)
    rows = np.random.default_rng(0).integers(-8191, 8192, (5, 3000))
    parts = [upload(cipher, row, i) for i, row in enumerate(rows)]
    first = cipher.add(parts[:2])
    before = cipher.pack(first)
    total = cipher.add([first, *parts[2:]])
    assert cipher.pack(first) == before  # a sum is not changed by being added
    back = cipher.unpack(cipher.pack(total), total.context, total.uploads)
    for one in (total, back):
        [opened] = Shared(seed=3).open(cipher, [one])
        assert opened.tolist() == rows.sum(0).tolist()
    with pytest.raises(errors.SealError):
        cipher.unpack(cipher.pack(total)[:-5], total.context, total.uploads)


def test_it_costs_less_than_float32() -> None:
    cipher = Seal(1.0)
    here = replace(HERE, count=98_000)
    values = np.random.default_rng(0).standard_normal(98_000).astype(np.float32)
    sealed = cipher.encrypt(values, KEYS.for_upload(cipher, here), here)
    assert len(sealed.data) < 0.98 * values.nbytes


def test_equal_seeds_give_equal_keys_and_fresh_ciphertexts() -> None:
    cipher = Seal(1.0)
    seed, other = os.urandom(32), os.urandom(32)
    key = sealapi.secret_key("BFV", N, BITS, cipher.packing.modulus, seed + other)
    scratch = sealapi.Scratch()
    same = sealapi.secret_key("BFV", N, BITS, cipher.packing.modulus, seed + other)
    assert scratch.save(key) == scratch.save(same)
    different = sealapi.secret_key("BFV", N, BITS, cipher.packing.modulus, other + seed)
    assert scratch.save(key) != scratch.save(different)
    secret = cipher.new_secret(seed)
    zeros = np.zeros(N, dtype=np.uint64)
    assert secret.encrypt(zeros) != secret.encrypt(zeros)
    total = cipher.add([upload(cipher, np.full(5000, 5), 1)])
    with pytest.raises(errors.Overflowed):
        cipher.decrypt(total, cipher.new_secret(seed))


def test_parameters_of_seal_are_checked_by_seal() -> None:
    with pytest.raises(ValueError, match="SEAL refuses"):
        sealapi.context("BFV", N, (54, 60), 12345)
    with pytest.raises(ValueError, match="do not fit"):
        Seal(1.0, 31, 10_000)


def test_polynomials_go_in_and_come_out() -> None:
    cipher = Seal(1.0)
    secret = cipher.new_secret(bytes(32))
    numbers = np.random.default_rng(0).integers(0, cipher.packing.modulus, N).astype(np.uint64)
    for case in (numbers, np.zeros(N, np.uint64), np.eye(1, N, 7, dtype=np.uint64)[0]):
        block = cipher._load(sealapi.Scratch(), secret.encrypt(case))
        assert (secret.decrypt(block) == case).all()
    with pytest.raises(errors.Malformed):
        secret.encrypt(np.full(N, cipher.packing.modulus, dtype=np.uint64))


class TestFrames:
    """What SEAL would have to unpack, from clients that hold the keys and lie."""

    def block(self) -> bytes:
        return Seal(1.0).new_secret(bytes(32)).encrypt(np.ones(N, np.uint64))

    def refused(self, block: bytes) -> None:
        with pytest.raises(errors.Malformed):
            Seal(1.0)._load(sealapi.Scratch(), block)

    def test_bombs(self) -> None:
        # A run of 128 KiB of zeros takes four bytes; many of them would fill the memory.
        run = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
        last = ((128 << 10) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
        for blocks in (run * 1000 + last, last):
            frame = b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", 33_000) + blocks
            head = self.block()[:8] + struct.pack("<Q", 16 + len(frame))
            self.refused(head + frame)

    def test_other_packings(self) -> None:
        good = self.block()
        sealapi.check_frame(good)
        for at, value in ((5, 0), (5, 1), (2, 8), (3, 3), (20, 0x64), (20, 0x40), (16, 0)):
            bad = bytearray(good)
            bad[at] = value
            self.refused(bytes(bad))
        self.refused(good + b"\0")
        self.refused(good[:-1])
        self.refused(good[:20])

    def test_damaged_content(self) -> None:
        good = self.block()
        rng = np.random.default_rng(0)
        cipher, refused = Seal(1.0), 0
        for place in rng.integers(24, len(good), 100):
            bad = bytearray(good)
            bad[place] ^= 0xFF
            try:
                cipher._load(sealapi.Scratch(), bytes(bad))
            except errors.Malformed:
                refused += 1
        assert refused > 0  # and nothing else is raised, and nothing crashes

    def test_other_parameters(self) -> None:
        other = Seal(1.0, 12, 50)
        self.refused(other.new_secret(bytes(32)).encrypt(np.ones(N, np.uint64)))


def test_lying_about_the_number_of_pieces() -> None:
    cipher = Seal(1.0)
    here = replace(HERE, count=5000)
    key = KEYS.for_upload(cipher, here)

    class Liar:
        """Encrypts fewer blocks, more blocks, or blocks of the wrong size."""

        def __init__(self, change: object) -> None:
            self.change = change

        def encrypt(self, coefficients: np.ndarray) -> bytes:
            return self.change(key.secret.encrypt(coefficients))  # type: ignore[operator, no-any-return]

    for change in (lambda b: b[:100], lambda b: b + bytes(40_000), lambda b: bytes(len(b))):
        forged = UploadKey(Liar(change), key.nonce, key.tag_key, key.key_id)
        data = cipher.encrypt(np.zeros(5000, np.int64), forged, here).data
        with pytest.raises(errors.SealError):
            cipher.parse(data, here, KEYS)
