"""Keys, statements and sealed secrets on real software TPMs."""

from __future__ import annotations

import stat

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from fedhive.errors import UserError
from fedhive.trust import tpm as tpms
from fedhive.trust import verify
from fedhive.trust.tpm import PCRS, Keys, Signed, Tpm, TpmError
from fedhive.trust.verify import Refused
from tests.fedhive.trust.conftest import extend

NONCE = bytes(range(32))


@pytest.fixture
def tpm(soft_tpm):
    with soft_tpm("alice").boot() as tpm:
        yield tpm


@pytest.fixture
def keys(tpm):
    return tpm.new_keys()


def public(tpm, pem):
    return verify.public_key(tpm.public(pem))


def test_what_it_is(tpm):
    assert tpm.manufacturer() == "IBM"  # which is how swtpm calls itself
    certificate, endorsement = tpm.endorsement()
    assert certificate is not None
    verify.check_endorsement_key(verify.public_key(endorsement))


def test_keys_have_the_right_kinds(tpm, keys):
    attestation, node = public(tpm, keys.attestation), public(tpm, keys.node)
    verify.check_attestation_key(attestation)
    verify.check_node_key(node)
    for check, wrong in (
        (verify.check_attestation_key, node),
        (verify.check_node_key, attestation),
        (verify.check_endorsement_key, attestation),
        (verify.check_attestation_key, verify.public_key(tpm.endorsement()[1])),
    ):
        with pytest.raises(Refused):
            check(wrong)


@pytest.mark.parametrize("bit", ["FIXEDTPM", "FIXEDPARENT", "SENSITIVEDATAORIGIN"])
def test_keys_that_could_leave_the_tpm(tpm, keys, bit):
    for check, data in (
        (verify.check_attestation_key, tpm.public(keys.attestation)),
        (verify.check_node_key, tpm.public(keys.node)),
        (verify.check_endorsement_key, tpm.endorsement()[1]),
    ):
        key = verify.public_key(data)
        key.publicArea.objectAttributes &= ~getattr(tpm.lib.TPMA_OBJECT, bit)
        with pytest.raises(Refused, match="could leave the TPM"):
            check(key)


def test_keys_are_files_of_their_owner_only(tpm, keys, tmp_path):
    keys.save(tmp_path / "keys")
    assert Keys.load(tmp_path / "keys") == keys
    for file in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_bytes().startswith(b"-----BEGIN TSS2 PRIVATE KEY-----")
    with pytest.raises(UserError, match="there already"):
        keys.save(tmp_path / "keys")
    with pytest.raises(UserError, match="No such file"):
        Keys.load(tmp_path / "nowhere")


def test_keys_survive_a_restart_and_no_other_tpm_can_load_them(soft_tpm):
    with soft_tpm("alice").boot() as tpm:
        keys = tpm.new_keys()
    with soft_tpm("alice").boot() as tpm, tpm.loaded(keys.node):
        pass
    with soft_tpm("bob").boot() as tpm:
        copied = tpm.loaded(keys.node)
        with pytest.raises(TpmError, match="another TPM"):
            copied.__enter__()


def test_a_derived_parent_where_the_owner_has_made_none_persistent(tpm, monkeypatch):
    monkeypatch.setattr(tpms, "SRK", 0x81000099)
    keys = tpm.new_keys()
    verify.check_quote(tpm.quote(keys, NONCE), public(tpm, keys.attestation), NONCE,
                       tpm.registers())  # fmt: skip


# ---- statements -------------------------------------------------------------------------------


def test_a_quote(tpm, keys):
    key, values = public(tpm, keys.attestation), tpm.registers()
    quote = tpm.quote(keys, NONCE)
    verify.check_quote(quote, key, NONCE, values)
    for bad in (
        {**values, 3: bytes(31) + b"\1"},
        {pcr: values[pcr] for pcr in range(7)},
        {**values, 8: bytes(32)},
    ):
        with pytest.raises(Refused, match="registers"):
            verify.check_quote(quote, key, NONCE, bad)
    with pytest.raises(Refused, match="old statement"):
        verify.check_quote(quote, key, bytes(32), values)


def test_a_quote_of_other_registers_of_the_same_value(tpm, keys):
    """After a start PCR 0 to 7 and 8 to 15 are all 0, so that their digests are equal."""
    key, values = public(tpm, keys.attestation), tpm.registers()
    assert set(values.values()) == {bytes(32)}
    with pytest.raises(Refused, match="other registers"):
        verify.check_quote(tpm.quote(keys, NONCE, range(8, 16)), key, NONCE, values)


def test_a_statement_that_no_tpm_made(tpm, keys):
    """What a key signs that is not restricted may look like a statement, but for its beginning."""
    from tpm2_pytss.cryptography import tpm_ecc_private_key

    quote = tpm.quote(keys, NONCE)
    forged = b"\xffTCH" + quote.attest[4:]
    with tpm.loaded(keys.node) as handle:
        raw = tpm_ecc_private_key(tpm.esapi, handle).sign(forged, ec.ECDSA(hashes.SHA256()))
    signature = tpm.lib.TPMT_SIGNATURE.unmarshal(quote.signature)[0]
    r, s = utils.decode_dss_signature(raw)
    signature.signature.ecdsa.signatureR = r.to_bytes(32, "big")
    signature.signature.ecdsa.signatureS = s.to_bytes(32, "big")
    with pytest.raises(Refused, match="no TPM made"):
        verify.check_quote(
            Signed(forged, signature.marshal()), public(tpm, keys.node), NONCE, tpm.registers()
        )


def test_a_quote_tells_what_was_measured(tpm, keys):
    before = tpm.registers()
    extend(tpm, 4, b"x" * 32)
    quote, key = tpm.quote(keys, NONCE), public(tpm, keys.attestation)
    with pytest.raises(Refused, match="not those that the TPM signed"):
        verify.check_quote(quote, key, NONCE, before)
    verify.check_quote(quote, key, NONCE, tpm.registers())


@pytest.mark.parametrize("at", [0, 5, 40, -1])
def test_a_changed_statement_is_refused(tpm, keys, at):
    quote, key = tpm.quote(keys, NONCE), public(tpm, keys.attestation)
    attest = bytearray(quote.attest)
    attest[at] ^= 1
    with pytest.raises(Refused, match="signature"):
        verify.check_quote(Signed(bytes(attest), quote.signature), key, NONCE, tpm.registers())


def test_another_keys_statement_is_refused(tpm, keys):
    other = public(tpm, tpm.new_keys().attestation)
    with pytest.raises(Refused, match="signature"):
        verify.check_quote(tpm.quote(keys, NONCE), other, NONCE, tpm.registers())


def test_a_statement_of_another_kind_is_refused(tpm, keys):
    key, node = public(tpm, keys.attestation), public(tpm, keys.node)
    certified = tpm.certify(keys, NONCE)
    with pytest.raises(Refused, match="another kind"):
        verify.check_quote(certified, key, NONCE, tpm.registers())
    verify.check_certified(certified, key, NONCE, node)
    with pytest.raises(Refused, match="another key"):
        verify.check_certified(certified, key, NONCE, key)


def test_a_restricted_key_does_not_sign_what_a_program_made_up(tpm, keys):
    """Why the attestation key must be restricted: it refuses what begins like a statement."""
    lib = tpm.lib
    forged = bytes.fromhex("ff544347") + b"anything"
    ticket_of = tpm.esapi.hash(forged, lib.TPM2_ALG.SHA256, lib.ESYS_TR.OWNER)
    with tpm.loaded(keys.attestation) as key, pytest.raises(lib.TSS2_Exception):
        tpm.esapi.sign(key, ticket_of[0], lib.TPMT_SIG_SCHEME(scheme=lib.TPM2_ALG.NULL),
                       ticket_of[1])  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 40, bytes(5000)])
def test_nonsense_for_structures_is_refused(tpm, keys, data):
    key = public(tpm, keys.attestation)
    with pytest.raises(Refused):
        verify.public_key(data)
    with pytest.raises(Refused):
        verify.check_quote(Signed(data, data), key, NONCE, tpm.registers())
    with pytest.raises(Refused):
        verify.check_quote(Signed(data, tpm.quote(keys, NONCE).signature), key, NONCE,
                           tpm.registers())  # fmt: skip


def test_trailing_bytes_are_refused(tpm, keys):
    with pytest.raises(Refused, match="too many"):
        verify.public_key(tpm.public(keys.node) + b"\0")


# ---- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 128, 129, 100_000])
def test_secrets_of_any_size(tpm, size):
    secret = bytes(size)
    assert tpm.unseal(tpm.seal(secret)) == secret


def test_a_secret_after_another_boot(soft_tpm):
    machine = soft_tpm("alice")
    with machine.boot() as tpm:
        extend(tpm, 7, b"k" * 32)
        blob = tpm.seal(b"secret", pcrs=(0, 7))
        extend(tpm, 7, b"l" * 32)
        with pytest.raises(TpmError, match="a policy check failed"):
            tpm.unseal(blob)
    with machine.boot() as tpm:
        with pytest.raises(TpmError, match="a policy check failed"):
            tpm.unseal(blob)
        extend(tpm, 7, b"k" * 32)
        assert tpm.unseal(blob) == b"secret"
    with soft_tpm("bob").boot() as tpm:
        extend(tpm, 7, b"k" * 32)
        with pytest.raises(TpmError, match="another TPM"):
            tpm.unseal(blob)


def test_a_changed_secret(tpm):
    blob = tpm.seal(b"secret")
    parts = tpms.unpack(blob, ("pcrs", "public", "private", "nonce", "secret"))
    parts["secret"] = parts["secret"][:-1] + bytes([parts["secret"][-1] ^ 1])
    with pytest.raises(TpmError, match="was changed"):
        tpm.unseal(tpms.pack(parts).encode())
    with pytest.raises(UserError, match="not what"):
        tpm.unseal(b"{}")


# ---- what is missing ---------------------------------------------------------------------------


def test_without_the_library_it_says_what_to_install(monkeypatch):
    import builtins

    real = builtins.__import__

    def absent(name, *rest):
        if name.startswith("tpm2_pytss"):
            raise ImportError("libtss2-esys.so.0: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(TpmError, match="apt install libtss2-dev"):
        tpms.library()


def test_without_a_tpm_it_points_to_the_doctor(soft_tpm):
    with pytest.raises(TpmError, match="fedhive doctor"):
        Tpm("device:/nonexistent")


def test_the_node_key_signs_as_flower_wants_it(tpm, keys):
    from tpm2_pytss.cryptography import tpm_ecc_private_key

    with tpm.loaded(keys.node) as handle:
        key = tpm_ecc_private_key(tpm.esapi, handle)
        signature = key.sign(b"2026-11-21T21:00:00", ec.ECDSA(hashes.SHA256()))
    known = serialization.load_pem_public_key(verify.pem(public(tpm, keys.node)))
    known.verify(signature, b"2026-11-21T21:00:00", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        known.verify(signature, b"another time", ec.ECDSA(hashes.SHA256()))
    assert len(PCRS) == 8
