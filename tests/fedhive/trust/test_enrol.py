"""Enrolment by TPM: who is let in, and the eleven ways of being refused."""

from __future__ import annotations

import copy
import csv
import json
import stat
import time
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from defenses.enrolment import Enrolled
from fedhive.errors import UserError
from fedhive.trust import verify
from fedhive.trust.enrol import CHALLENGE_S, FRESH_S, Registrar, answer, hello
from fedhive.trust.facts import Fact
from fedhive.trust.levels import Level, standing
from fedhive.trust.tpm import TpmError
from fedhive.trust.verify import Refused
from tests.fedhive.trust import logs
from tests.fedhive.trust.conftest import extend

SANDBOX = [Fact("system.kernel", "Linux", "test"), Fact("sandbox.active", True, "test")]


class Clock:
    def __init__(self) -> None:
        self.now = time.time() + 3600.0  # makers made during the test are valid by then

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registrar(soft_tpm, tmp_path, clock):
    roots = verify.roots_in(soft_tpm("alice").roots)
    return Registrar(tmp_path / "ledger", roots, clock=clock)


def told(wire):
    """Through a file and back, as between two machines."""
    return json.loads(json.dumps(wire))


def boot(tpm, on=True):
    """Measure a boot into the TPM; its log."""
    events = logs.boot(on)
    for pcr, kind, _, digest in events:
        if kind != logs.NO_ACTION:
            extend(tpm, pcr, digest)
    return logs.written(events)


def enrol(registrar, tpm, name="node-1", log=None, keys=None):
    keys = keys or tpm.new_keys()
    challenge = told(registrar.challenge(told(hello(tpm, keys, SANDBOX)), name, "ann"))
    return registrar.admit(told(answer(tpm, keys, challenge, log))), keys


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def level(registrar, known, now=None):
    return standing(registrar.facts(known), registrar.clock() if now is None else now).level


# ---- let in ------------------------------------------------------------------------------------


def test_a_machine_is_let_in_with_its_level(soft_tpm, registrar, tmp_path):
    with soft_tpm("alice").boot() as tpm:
        known, keys = enrol(registrar, tpm)
        certificate = tpm.endorsement()[0]
        public = verify.pem(verify.public_key(tpm.public(keys.node)))
    assert (known.name, known.owner) == ("node-1", "ann")
    assert known.key == public.decode()
    assert "swtpm-localca" in known.vouched
    assert level(registrar, known) == Level.IDENTITY  # no log, so no measured boot
    assert registrar.ledger.enrolments() == [known]
    written = (tmp_path / "ledger/enrolments.json").read_text()
    assert b64encode(certificate).decode()[:40] not in written  # no permanent identifier is kept
    assert stat.S_IMODE((tmp_path / "ledger").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "ledger/secret.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(("on", "expected"), [(True, Level.MEASURED), (False, Level.IDENTITY)])
def test_a_measured_boot(soft_tpm, registrar, clock, on, expected):
    with soft_tpm("alice").boot() as tpm:
        known, _ = enrol(registrar, tpm, log=boot(tpm, on))
    assert (known.measured, known.secure_boot) == (True, on)
    assert level(registrar, known) == expected
    assert level(registrar, known, clock.now + FRESH_S + 1) == Level.IDENTITY  # it grows stale


def test_a_later_quote_renews_it(soft_tpm, registrar, clock):
    machine = soft_tpm("alice")
    with machine.boot() as tpm:
        known, keys = enrol(registrar, tpm, log=boot(tpm))
    clock.now += FRESH_S + 1
    assert level(registrar, known) == Level.IDENTITY
    with machine.boot() as tpm:
        log = boot(tpm)
        known = registrar.confirm(told(answer(tpm, keys, told(registrar.question("node-1")), log)))
    assert level(registrar, known) == Level.MEASURED
    assert registrar.ledger.enrolments() == [known]


def test_two_machines_and_a_table_for_sybil_defences(soft_tpm, registrar, tmp_path):
    more = verify.roots_in(soft_tpm("bob").roots)
    registrar.roots = [*registrar.roots, *more]
    for name in ("alice", "bob"):
        with soft_tpm(name).boot() as tpm:
            enrol(registrar, tpm, name)
    assert registrar.ledger.export(tmp_path / "identities.csv") == 2
    rows = table(tmp_path / "identities.csv")
    assert [row["name"] for row in rows] == ["alice", "bob"]
    assert len({row["device"] for row in rows}) == 2
    listed = Enrolled(str(tmp_path / "identities.csv"))

    class Info:
        public_key = bytes.fromhex(rows[1]["key"])
        owner_aid = ""
        name = "?"

    assert Info.public_key.startswith(b"-----BEGIN PUBLIC KEY-----")
    assert listed.of(7, Info, 1).device == rows[1]["device"]


# ---- refused -----------------------------------------------------------------------------------


def test_a_second_identity_on_one_tpm(soft_tpm, registrar):
    with soft_tpm("alice").boot() as tpm:
        enrol(registrar, tpm)
        with pytest.raises(Refused, match=r"enrolled already, as 'node-1'; one identity a TPM"):
            enrol(registrar, tpm, "node-2")
        registrar.remove("node-1")
        enrol(registrar, tpm, "node-2")


def test_two_identities_at_the_same_time(soft_tpm, registrar):
    """Both challenges are open before either is answered: still only one is let in."""
    with soft_tpm("alice").boot() as tpm:
        both = [tpm.new_keys(), tpm.new_keys()]
        challenges = [registrar.challenge(hello(tpm, keys), f"node-{i}")
                      for i, keys in enumerate(both)]  # fmt: skip
        answers = [answer(tpm, keys, c) for keys, c in zip(both, challenges, strict=True)]
        registrar.admit(answers[0])
        with pytest.raises(Refused, match="one identity a TPM"):
            registrar.admit(answers[1])


def test_a_name_that_is_taken(soft_tpm, registrar):
    registrar.roots = [*registrar.roots, *verify.roots_in(soft_tpm("bob").roots)]
    with soft_tpm("alice").boot() as tpm:
        enrol(registrar, tpm)
    with soft_tpm("bob").boot() as tpm, pytest.raises(Refused, match="with another TPM"):
        enrol(registrar, tpm)


def test_an_answer_counts_once_and_for_ten_minutes(soft_tpm, registrar, clock):
    with soft_tpm("alice").boot() as tpm:
        keys = tpm.new_keys()
        said = answer(tpm, keys, registrar.challenge(hello(tpm, keys), "node-1"))
        registrar.admit(said)
        registrar.remove("node-1")
        with pytest.raises(Refused, match="answered before"):
            registrar.admit(said)
        late = answer(tpm, keys, registrar.challenge(hello(tpm, keys), "node-1"))
        clock.now += CHALLENGE_S
        with pytest.raises(Refused, match="too old"):
            registrar.admit(late)


def test_a_replayed_nonce(soft_tpm, registrar):
    """Statements that were good for one challenge are worth nothing for the next."""
    with soft_tpm("alice").boot() as tpm:
        keys = tpm.new_keys()
        said = hello(tpm, keys)
        first = answer(tpm, keys, registrar.challenge(said, "node-1"))
        second = answer(tpm, keys, registrar.challenge(said, "node-1"))
        for part in ("quote", "certified"):
            mixed = {**second, part: first[part]}
            with pytest.raises(Refused, match="old statement"):
                registrar.admit(mixed)
            second = answer(tpm, keys, registrar.challenge(said, "node-1"))


def test_a_replayed_quote_later(soft_tpm, registrar):
    with soft_tpm("alice").boot() as tpm:
        _, keys = enrol(registrar, tpm)
        old = answer(tpm, keys, registrar.question("node-1"))
        registrar.confirm(old)
        new = registrar.question("node-1")
        with pytest.raises(Refused, match="old statement"):
            registrar.confirm({**old, "id": new["id"]})
        with pytest.raises(Refused, match="no such challenge"):
            registrar.confirm({**old, "id": new["id"]})  # a wrong answer uses it up


def test_wrong_registers(soft_tpm, registrar):
    with soft_tpm("alice").boot() as tpm:
        keys = tpm.new_keys()
        said = answer(tpm, keys, registrar.challenge(hello(tpm, keys), "node-1"))
        said["registers"]["7"] = "11" * 32
        with pytest.raises(Refused, match="not those that the TPM signed"):
            registrar.admit(said)


def test_another_boot_than_at_enrolment(soft_tpm, registrar):
    machine = soft_tpm("alice")
    with machine.boot() as tpm:
        _, keys = enrol(registrar, tpm, log=boot(tpm))
    with machine.boot() as tpm:
        log = boot(tpm, on=False)
        with pytest.raises(Refused, match="PCR 7 is not what it was at enrolment"):
            registrar.confirm(answer(tpm, keys, registrar.question("node-1"), log))
    with machine.boot() as tpm:
        log = boot(tpm)
        extend(tpm, 4, logs.sha(b"another kernel"))  # which the log says nothing of
        with pytest.raises(UserError, match="another PCR 4"):
            registrar.confirm(answer(tpm, keys, registrar.question("node-1"), log))


def test_a_copied_identity(soft_tpm, registrar):
    """Mallory has all of Alice's files and her certificate, but not her TPM."""
    with soft_tpm("alice").boot() as tpm:
        known, keys = enrol(registrar, tpm)
        said = hello(tpm, keys)
        registrar.remove(known.name)
        challenge = registrar.challenge(said, "node-1")
    with soft_tpm("bob").boot() as tpm:
        with pytest.raises(TpmError, match="another TPM"):
            answer(tpm, keys, challenge)
        own = tpm.new_keys()
        with pytest.raises(TpmError, match="activating a credential"):
            answer(tpm, own, challenge)
        claimed = {**hello(tpm, own), "certificate": said["certificate"]}
        with pytest.raises(Refused, match="that of another key"):
            registrar.challenge(claimed, "node-1")
        claimed["endorsement_key"] = said["endorsement_key"]
        challenge = registrar.challenge(claimed, "node-1")  # a promise that it cannot keep
        with pytest.raises(TpmError, match="activating a credential"):
            answer(tpm, own, challenge)


def test_a_software_key_beside_a_genuine_chip(soft_tpm, registrar):
    """The credential is bound to the attestation key: another one cannot be slipped in."""
    with soft_tpm("alice").boot() as tpm:
        keys, other = tpm.new_keys(), tpm.new_keys()
        challenge = registrar.challenge(hello(tpm, keys), "node-1")
        with pytest.raises(TpmError, match="activating a credential"):
            answer(tpm, other, challenge)


def test_a_wrong_secret(soft_tpm, registrar):
    with soft_tpm("alice").boot() as tpm:
        keys = tpm.new_keys()
        said = answer(tpm, keys, registrar.challenge(hello(tpm, keys), "node-1"))
        said["opened"] = b64encode(bytes(32)).decode()
        with pytest.raises(Refused, match="was not opened"):
            registrar.admit(said)


def test_a_node_key_of_somebody_else(soft_tpm, registrar):
    with soft_tpm("alice").boot() as tpm:
        keys, other = tpm.new_keys(), tpm.new_keys()
        said = hello(tpm, keys)
        said["node_key"] = hello(tpm, other)["node_key"]
        with pytest.raises(Refused, match="another key than the node's"):
            registrar.admit(answer(tpm, keys, registrar.challenge(said, "node-1")))


def test_a_maker_whom_nobody_trusts(soft_tpm, registrar, tmp_path, clock):
    with soft_tpm("bob").boot() as tpm:
        keys = tpm.new_keys()
        with pytest.raises(Refused, match="whom nobody here trusts"):
            registrar.challenge(hello(tpm, keys), "node-1")
        with pytest.raises(Refused, match="no certificate of a maker"):
            registrar.challenge({**hello(tpm, keys), "certificate": None}, "node-1")
        lenient = Registrar(tmp_path / "other", registrar.roots, unvouched=True, clock=clock)
        known, _ = enrol(lenient, tpm, log=boot(tpm))
    assert known.vouched == ""
    assert level(lenient, known) == Level.DECLARED  # a program could have done the same
    lenient.ledger.export(tmp_path / "identities.csv")
    assert table(tmp_path / "identities.csv")[0]["device"] == ""


def test_a_certificate_that_is_not_valid_now(soft_tpm, registrar, clock):
    clock.now -= 10 * 366 * 86_400
    with soft_tpm("alice").boot() as tpm, pytest.raises(Refused, match="not valid at this time"):
        registrar.challenge(hello(tpm, tpm.new_keys()), "node-1")


def issued(key, authority=True, signs=True, usage="2.23.133.8.1"):
    """A self-signed maker, and its certificate for a public key; arguments say what is wrong."""
    maker, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maker")])

    def begun(subject, public):
        return (
            x509.CertificateBuilder().issuer_name(name).subject_name(subject).public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        )  # fmt: skip

    flags = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
         "key_agreement", "crl_sign", "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    root = (
        begun(name, maker.public_key())
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=signs, **flags), critical=True)
        .sign(maker, hashes.SHA256())
    )
    leaf = (
        begun(x509.Name([]), key)
        .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(usage)]), critical=False)
        .sign(maker, hashes.SHA256())
    )
    return root, leaf.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({}, None),
        ({"authority": False}, "whom nobody here trusts"),
        ({"signs": False}, "whom nobody here trusts"),
        ({"usage": "1.3.6.1.5.5.7.3.1"}, "not one of an endorsement key"),
    ],
)
def test_only_an_authority_makes_certificates_of_chips(soft_tpm, registrar, clock, wrong, reason):
    with soft_tpm("alice").boot() as tpm:
        said = hello(tpm, tpm.new_keys())
    public = verify.public_key(b64decode(said["endorsement_key"]))
    root, leaf = issued(serialization.load_der_public_key(verify.spki(public)), **wrong)
    registrar.roots = [root]
    said["certificate"] = b64encode(leaf).decode()
    if reason is None:
        registrar.challenge(said, "node-1")
        return
    with pytest.raises(Refused, match=reason):
        registrar.challenge(said, "node-1")


def test_an_answer_to_something_else(soft_tpm, registrar):
    with soft_tpm("alice").boot() as tpm:
        _, keys = enrol(registrar, tpm)
        later = answer(tpm, keys, registrar.question("node-1"))
        with pytest.raises(Refused, match="no such challenge"):
            registrar.admit(later)


def test_any_missing_or_broken_part_is_a_reason(soft_tpm, registrar):
    with soft_tpm("alice").boot() as tpm:
        keys = tpm.new_keys()
        said = hello(tpm, keys)
        for part in ("certificate", "endorsement_key", "attestation_key", "node_key"):
            for bad in ("", "!!", "AAAA", 7):
                with pytest.raises(Refused):
                    registrar.challenge({**said, part: bad}, "node-1")
        for part in ("opened", "certified", "quote", "registers"):
            for bad in (None, {"attest": "AAAA", "signature": "AAAA"}):
                good = answer(tpm, keys, registrar.challenge(said, "node-1"))
                with pytest.raises(Refused):
                    registrar.admit({**copy.deepcopy(good), part: bad})
        good = answer(tpm, keys, registrar.challenge(said, "node-1"))
        with pytest.raises(UserError, match="event log"):
            registrar.admit({**good, "log": "AAAA"})
    assert registrar.ledger.enrolments() == []


def test_keys_of_a_wrong_kind(soft_tpm, registrar, tmp_path):
    """A node's key could sign a made-up quote; an attestation key signs no call of Flower's."""
    with soft_tpm("alice").boot() as tpm:
        keys = tpm.new_keys()
        said = hello(tpm, keys)
        node, attestation = said["node_key"], said["attestation_key"]
        with pytest.raises(Refused, match="the attestation key could leave"):
            registrar.challenge({**said, "attestation_key": node}, "node-1")
        with pytest.raises(Refused, match="the node's key is of another kind"):
            registrar.challenge({**said, "node_key": attestation}, "node-1")
        lenient = Registrar(tmp_path / "other", [], unvouched=True)
        with pytest.raises(Refused, match="the endorsement key could leave"):
            lenient.challenge({**said, "endorsement_key": node}, "node-1")


# ---- the ledger --------------------------------------------------------------------------------


def test_a_device_has_another_name_in_every_ledger(tmp_path):
    from fedhive.trust.ledger import Ledger

    here, there = Ledger(tmp_path / "a"), Ledger(tmp_path / "b")
    assert here.device(b"ek") == Ledger(tmp_path / "a").device(b"ek")
    assert here.device(b"ek") != there.device(b"ek")


def test_a_broken_ledger_is_not_overwritten(tmp_path):
    from fedhive.trust.ledger import Ledger

    ledger = Ledger(tmp_path)
    (tmp_path / "enrolments.json").write_text("{")
    with pytest.raises(UserError, match="not a ledger"), ledger.open():
        pass
    assert (tmp_path / "enrolments.json").read_text() == "{"


def test_nothing_is_written_if_something_goes_wrong(tmp_path):
    from fedhive.trust.ledger import Ledger

    ledger = Ledger(tmp_path)
    with pytest.raises(TypeError), ledger.open() as book:
        book.open["x"] = {"a": object()}  # which JSON cannot hold
    assert not (tmp_path / "enrolments.json").exists()


def test_roots_must_be_there(tmp_path):
    with pytest.raises(UserError, match=r"no \*.pem"):
        verify.roots_in(tmp_path)
    Path(tmp_path / "a.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n")
    with pytest.raises(UserError, match="not a PEM certificate"):
        verify.roots_in(tmp_path)
