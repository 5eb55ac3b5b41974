"""Hostile and damaged input: each kind is refused by its name, whatever the cipher."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.encryption import errors, messages, wire
from defenses.encryption.base import Cipher, Context, Upload
from defenses.encryption.ckks import Tenseal
from defenses.encryption.keys_shared import Shared, make_keys
from defenses.encryption.plain import Plain
from defenses.encryption.rlwe import Rlwe
from defenses.encryption.seal import Seal
from fedhive.errors import UserError

COUNT = 1000
HERE = Context(b"r" * 16, 7, b"m" * 16, 11, COUNT)
KEYS = Shared(seed=1)
VALUES = np.linspace(-1, 1, COUNT, dtype=np.float32)


def ciphers() -> list[Cipher]:
    return [Plain(1.0), Rlwe(1.0), Seal(1.0), Tenseal(1.0)]


def sealed(cipher: Cipher, context: Context = HERE, keys: Shared = KEYS) -> bytes:
    return cipher.encrypt(VALUES, keys.for_upload(cipher, context), context).data


def retagged(data: bytes, offset: int, fmt: str, value: int) -> bytes:
    """A header changed by somebody who can make tags: a client that lies."""
    out = bytearray(data)
    struct.pack_into(fmt, out, offset, value)
    nonce = bytes(out[92:124])
    tag = wire._tag(KEYS.tag_key(nonce, HERE), bytes(out[:136]), memoryview(out)[136:-16])
    out[-16:] = tag
    return bytes(out)


@pytest.mark.parametrize("cipher", ciphers(), ids=lambda c: c.name)
class TestRefusals:
    def test_nothing_is_wrong_with_an_honest_upload(self, cipher: Cipher) -> None:
        assert cipher.parse(sealed(cipher), HERE, KEYS).senders == (11,)

    @pytest.mark.parametrize("kept", [0, 1, 100, 151, 152, 1000, -1])
    def test_truncated(self, cipher: Cipher, kept: int) -> None:
        with pytest.raises(errors.Truncated):
            cipher.parse(sealed(cipher)[:kept], HERE, KEYS)

    def test_oversized(self, cipher: Cipher) -> None:
        with pytest.raises(errors.Oversized):
            cipher.parse(sealed(cipher) + b"\0", HERE, KEYS)

    @pytest.mark.parametrize(
        ("offset", "fmt", "value", "error"),
        [
            (124, "<Q", 2**63, errors.Oversized), (124, "<Q", 4, errors.Truncated),
            (132, "<I", 2**32 - 1, errors.Oversized), (132, "<I", 16, errors.Truncated),
            (68, "<Q", 2**63, errors.WrongCount), (68, "<Q", COUNT - 1, errors.WrongCount),
        ],
    )  # fmt: skip
    def test_announced_sizes_are_not_believed(
        self, cipher: Cipher, offset: int, fmt: str, value: int, error: type[Exception]
    ) -> None:
        if cipher.name in ("seal", "tenseal") and value == 4:
            error = errors.Oversized  # its size varies: too many bytes follow
        with pytest.raises(error):
            cipher.parse(retagged(sealed(cipher), offset, fmt, value), HERE, KEYS)

    def test_every_flipped_bit(self, cipher: Cipher) -> None:
        data = sealed(cipher)
        rng = np.random.default_rng(0)
        places = [*range(8 * 152), *rng.integers(0, 8 * len(data), 200).tolist()]
        for place in places:
            bad = bytearray(data)
            bad[place // 8] ^= 1 << place % 8
            with pytest.raises(errors.SealError):
                cipher.parse(bytes(bad), HERE, KEYS)
            if place >= 136 * 8:
                with pytest.raises(errors.Tampered):
                    cipher.parse(bytes(bad), HERE, KEYS)

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"run": b"x" * 16}, errors.WrongRun), ({"round": 8}, errors.WrongRound),
            ({"mask": b"x" * 16}, errors.WrongMask), ({"sender": 12}, errors.WrongSender),
        ],
    )  # fmt: skip
    def test_made_for_something_else(
        self, cipher: Cipher, change: dict[str, object], error: type[Exception]
    ) -> None:
        """Also what a replay of another round, run or client's upload is."""
        with pytest.raises(error):
            cipher.parse(sealed(cipher), replace(HERE, **change), KEYS)  # type: ignore[arg-type]

    def test_other_parameters(self, cipher: Cipher) -> None:
        for changed in ({"clip": 2.0}, {"bits": 12}, {"clients": 100}):
            with pytest.raises(errors.WrongParameters):
                replace(cipher, **changed).parse(sealed(cipher), HERE, KEYS)  # type: ignore[type-var]

    def test_another_cipher(self, cipher: Cipher) -> None:
        other = Plain(1.0) if cipher.name != "plain" else Rlwe(1.0)
        with pytest.raises(errors.WrongCipher):
            other.parse(sealed(cipher), HERE, KEYS)

    def test_foreign_key(self, cipher: Cipher) -> None:
        with pytest.raises(errors.ForeignKey):
            cipher.parse(sealed(cipher, keys=Shared(seed=2)), HERE, KEYS)

    def test_not_sealed_and_wrong_version(self, cipher: Cipher) -> None:
        with pytest.raises(errors.NotSealed):
            cipher.parse(os.urandom(5000), HERE, KEYS)
        with pytest.raises(errors.NotSealed):
            cipher.parse(b"\x80\x04" + bytes(5000), HERE, KEYS)  # a pickle
        with pytest.raises(errors.WrongVersion):
            cipher.parse(retagged(sealed(cipher), 4, "<H", 2), HERE, KEYS)

    def test_replayed_within_a_round(self, cipher: Cipher) -> None:
        one = cipher.parse(sealed(cipher), HERE, KEYS)
        with pytest.raises(errors.Replayed):
            cipher.add([one, one])
        # Under another name, with the same nonce: a copy.
        copy = replace(one, uploads=(replace(one.uploads[0], sender=12),))
        with pytest.raises(errors.Replayed):
            cipher.add([one, copy])

    def test_different_contexts_and_too_many(self, cipher: Cipher) -> None:
        one = cipher.parse(sealed(cipher), HERE, KEYS)
        for change, error in (({"round": 8}, errors.WrongRound), ({"run": b"x" * 16},
                errors.WrongRun), ({"mask": b"x" * 16}, errors.WrongMask)):  # fmt: skip
            there = replace(HERE, sender=12, **change)  # type: ignore[arg-type]
            other = cipher.parse(sealed(cipher, there), there, KEYS)
            with pytest.raises(error):
                cipher.add([one, other])
        small = replace(cipher, clients=1)  # type: ignore[type-var]
        with pytest.raises(errors.TooManyClients):
            small.add([one, replace(one, uploads=(Upload(12, b"n" * 32),))])
        with pytest.raises(errors.TooFewClients):
            cipher.add([])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, cipher: Cipher, bad: float) -> None:
        values = VALUES.copy()
        values[-1] = bad
        with pytest.raises(errors.NotFinite):
            cipher.encrypt(values, KEYS.for_upload(cipher, HERE), HERE)

    def test_out_of_range_saturates_and_is_counted(self, cipher: Cipher) -> None:
        values = VALUES.copy()
        values[:3] = [5.0, -1e30, 1.01]
        upload = cipher.encrypt(values, KEYS.for_upload(cipher, HERE), HERE)
        assert upload.saturated == 3
        there = replace(HERE, sender=12)
        other = cipher.encrypt(np.zeros(COUNT, np.int64), KEYS.for_upload(cipher, there), there)
        total = cipher.add([cipher.parse(upload.data, HERE, KEYS),
                            cipher.parse(other.data, there, KEYS)])  # fmt: skip
        [opened] = Shared(seed=1).open(cipher, [total])
        levels = cipher.fixed.levels
        assert opened[:3].tolist() == [levels, -levels, levels]
        with pytest.raises(ValueError, match="within"):
            cipher.encrypt(np.full(COUNT, levels + 1), KEYS.for_upload(cipher, HERE), HERE)

    def test_wrong_number_of_values(self, cipher: Cipher) -> None:
        with pytest.raises(errors.WrongCount):
            cipher.encrypt(VALUES[:-1], KEYS.for_upload(cipher, HERE), HERE)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(errors.SealError):
        Rlwe(1.0).parse(data, HERE, KEYS)
    with pytest.raises(errors.SealError):
        messages.Question.unpack(data)


def test_a_lying_plaintext_is_refused() -> None:
    cipher = Plain(1.0)
    data = bytearray(sealed(cipher))
    data[136:140] = (2**30).to_bytes(4, "little")
    with pytest.raises(errors.Malformed):
        cipher.parse(retagged(bytes(data), 68, "<Q", COUNT), HERE, KEYS)


class TestSharedKeys:
    def total(self, keys: Shared, cipher: Cipher, senders: range, round: int = 7):  # type: ignore[no-untyped-def]
        parsed = []
        for sender in senders:
            here = replace(HERE, sender=sender, round=round)
            parsed.append(cipher.parse(sealed(cipher, here, keys), here, keys))
        return cipher.add(parsed)

    def test_few_clients_overlaps_and_second_questions_are_refused(self) -> None:
        cipher, keys = Rlwe(1.0), Shared(least=3, seed=5)
        with pytest.raises(errors.TooFewClients):
            keys.open(cipher, [self.total(keys, cipher, range(2))])
        buckets = [self.total(keys, cipher, range(0, 4)), self.total(keys, cipher, range(3, 7))]
        with pytest.raises(errors.OverlappingBuckets):
            keys.open(cipher, buckets)
        buckets[1] = self.total(keys, cipher, range(4, 7))
        one, two = keys.open(cipher, buckets)
        ints = cipher.fixed.encode(VALUES)[0]
        assert (one == 4 * ints.astype(np.int64)).all()
        assert (two == 3 * ints.astype(np.int64)).all()
        with pytest.raises(errors.AlreadyAnswered):
            keys.open(cipher, buckets)
        keys.open(cipher, [self.total(keys, cipher, range(4), round=8)])
        with pytest.raises(errors.AlreadyAnswered):
            keys.open(cipher, [self.total(keys, cipher, range(4), round=6)])
        with pytest.raises(errors.TooFewClients):
            keys.open(cipher, [])

    def test_simulated_keys_come_from_the_seed_and_say_so(self) -> None:
        cipher = Rlwe(1.0)
        assert Shared(seed=1).insecure_simulation
        assert sealed(cipher, keys=Shared(seed=1)) == sealed(cipher, keys=Shared(seed=1))
        assert Shared(seed=1).key_id != Shared(seed=2).key_id

    def test_a_deployment_opens_outside_the_server(self, tmp_path: Path) -> None:
        key, verification = str(tmp_path / "key.json"), str(tmp_path / "verification.json")
        make_keys(key, verification)
        assert (tmp_path / "key.json").stat().st_mode & 0o077 == 0
        clients, server = Shared(key, holder=3, least=2), Shared(verification, holder=3, least=2)
        assert not server.insecure_simulation
        assert server.members == (3,)
        for cipher in (Rlwe(1.0), Seal(1.0), Tenseal(1.0)):
            here = replace(HERE, sender=1)
            first = sealed(cipher, here, clients)
            assert first != sealed(cipher, here, clients)
            total = self.total(clients, cipher, range(5))
            # The server's own material checks tags and opens nothing.
            assert cipher.parse(first, here, server).senders == (1,)
            with pytest.raises(errors.ForeignKey):
                server.for_upload(cipher, here)
            with pytest.raises(errors.ForeignKey):
                server.member(3, cipher)
            with pytest.raises(UserError, match="verification key only"):
                clients.open(cipher, [total], lambda asked: {})
            holder = clients.member(3, cipher)
            [opened] = server.open(
                cipher, [total], lambda asked, h=holder: {3: h.answer(asked[3])}
            )
            assert (opened == 5 * cipher.fixed.encode(VALUES)[0].astype(np.int64)).all()
            # Restarted from its state, the holder still refuses the round.
            again = clients.member(3, cipher, holder.state())
            with pytest.raises(errors.AlreadyAnswered):
                server.open(cipher, [total], lambda asked, h=again: {3: h.answer(asked[3])})
            with pytest.raises(errors.TooFewAnswers):
                server.open(cipher, [total], lambda asked: {})
            with pytest.raises(errors.SealError):
                server.open(cipher, [total], lambda asked: {3: messages.join([b"\1\0\0\0" * 3])})

    def test_bad_key_files_are_user_errors(self, tmp_path: Path) -> None:
        path = tmp_path / "key.json"
        with pytest.raises(UserError, match="cannot be read"):
            Shared(str(path), holder=1)
        for text in ("", "[]", '{"kind": "x", "key": "00"}', '{"kind": "fedhive-shared-key"}'):
            path.write_text(text)
            with pytest.raises(UserError, match="no key file"):
                Shared(str(path), holder=1)
        with pytest.raises(UserError, match="holder"):
            Shared(str(path))
        with pytest.raises(UserError, match="cannot be written"):
            make_keys(str(path), str(tmp_path / "v.json"))


def test_fixed_point() -> None:
    fixed = Rlwe(0.25, 10).fixed
    assert fixed.levels == 511
    ints, cut = fixed.encode(np.array([0.25, -0.25, 0.3, 0.0, fixed.step * 0.6], np.float32))
    assert ints.tolist() == [511, -511, 511, 0, 1]
    assert cut == 1
    assert np.allclose(fixed.decode(ints), [0.25, -0.25, 0.25, 0, fixed.step])
    rounded = fixed.encode(np.full(20_000, 0.3 * fixed.step), np.random.default_rng(0))[0]
    assert abs(rounded.mean() - 0.3) < 0.02  # stochastic rounding is right on average
    assert set(rounded.tolist()) == {0, 1}
