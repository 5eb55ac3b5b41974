"""Checking what a TPM says, from a server's side. Everything here comes from strangers.

Each function returns what was found or raises `Refused` with the reason. A signature under an
attestation key proves nothing by itself: a program can make up such a key and sign a perfect
quote. The key must have been shown, by a credential, to live beside a genuine endorsement key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from fedhive.errors import UserError
from fedhive.trust.tpm import Signed, library

MOST_BYTES = 4096
"""No structure of a TPM that is looked at here is larger."""
MAGIC = 0xFF544347
EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate: what an endorsement key's certificate is for."""
MOST_LINKS = 5


class Refused(UserError):
    """Evidence that does not hold."""


def roots_in(folder: Path) -> list[x509.Certificate]:
    """The certificates of TPM makers that an operator trusts: all ``*.pem`` in a folder.

    Raises:
        UserError: if there are none, or one cannot be read.
    """
    found: list[x509.Certificate] = []
    for file in sorted(folder.glob("*.pem")):
        try:
            found += x509.load_pem_x509_certificates(file.read_bytes())
        except (ValueError, OSError) as error:
            raise UserError(f"{file}: not a PEM certificate ({error})") from error
    if not found:
        raise UserError(f"{folder}: no *.pem; put the certificates of TPM makers there")
    return found


def public_key(data: bytes) -> Any:
    """A TPM2B_PUBLIC.

    Raises:
        Refused: if it is none.
    """
    return _parsed("TPM2B_PUBLIC", data)


def _parsed(kind: str, data: bytes) -> Any:
    if not 0 < len(data) <= MOST_BYTES:
        raise Refused(f"{kind}: {len(data)} bytes, expected 1 to {MOST_BYTES}")
    try:
        found, used = getattr(library(), kind).unmarshal(data)
    except UserError:
        raise
    except Exception as error:
        raise Refused(f"{kind}: malformed ({error})") from error
    if used != len(data):
        raise Refused(f"{kind}: {len(data) - used} bytes too many")
    return found


# ---- keys --------------------------------------------------------------------------------------


def check_attestation_key(public: Any) -> None:
    """An attestation key signs only what the TPM made up, and cannot leave it.

    Raises:
        Refused: otherwise.
    """
    bits = library().TPMA_OBJECT
    _has(public, "the attestation key", _inside() | bits.RESTRICTED | bits.SIGN_ENCRYPT)
    _lacks(public, "the attestation key", bits.DECRYPT)
    _is_p256(public, "the attestation key")


def check_node_key(public: Any) -> None:
    """A node's key signs anything, and cannot leave the TPM.

    Raises:
        Refused: otherwise.
    """
    bits = library().TPMA_OBJECT
    _has(public, "the node's key", _inside() | bits.SIGN_ENCRYPT)
    _lacks(public, "the node's key", bits.RESTRICTED)
    _is_p256(public, "the node's key")


def check_endorsement_key(public: Any) -> None:
    """An endorsement key only opens what is meant for its TPM.

    Raises:
        Refused: otherwise.
    """
    bits = library().TPMA_OBJECT
    _has(public, "the endorsement key", _inside() | bits.RESTRICTED | bits.DECRYPT)
    _lacks(public, "the endorsement key", bits.SIGN_ENCRYPT)


def _inside() -> Any:
    bits = library().TPMA_OBJECT
    return bits.FIXEDTPM | bits.FIXEDPARENT | bits.SENSITIVEDATAORIGIN


def _has(public: Any, what: str, wanted: Any) -> None:
    if public.publicArea.objectAttributes & wanted != wanted:
        raise Refused(f"{what} could leave the TPM, or is of another kind")


def _lacks(public: Any, what: str, unwanted: Any) -> None:
    if public.publicArea.objectAttributes & unwanted:
        raise Refused(f"{what} is of another kind")


def _is_p256(public: Any, what: str) -> None:
    lib = library()
    area = public.publicArea
    if (
        area.type != lib.TPM2_ALG.ECC
        or area.nameAlg != lib.TPM2_ALG.SHA256
        or area.parameters.eccDetail.curveID != lib.TPM2_ECC.NIST_P256
    ):
        raise Refused(f"{what} is not of P-256 with SHA-256")


def spki(public: Any) -> bytes:
    """A public key as SubjectPublicKeyInfo, DER."""
    try:
        key = serialization.load_pem_public_key(public.to_pem())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused(f"a public key that is none ({error})") from error
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def pem(public: Any) -> bytes:
    """A public key as Flower keeps it."""
    key = serialization.load_der_public_key(spki(public))
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# ---- certificates ------------------------------------------------------------------------------


def check_endorsement(
    certificate: bytes, public: Any, roots: Sequence[x509.Certificate], now: float
) -> str:
    """Make sure that a maker we trust vouches for this endorsement key.

    The chain is followed by issuer names among ``roots``, which may hold intermediates too. Not
    checked: revocation lists, which most makers do not offer for TPMs.

    Args:
        certificate: of the endorsement key, DER.
        public: the endorsement key.
        roots: certificates of makers.
        now: Unix time.

    Returns:
        The name of the root.

    Raises:
        Refused: otherwise.
    """
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        named = leaf.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused(f"the endorsement certificate is malformed ({error})") from error
    if named != spki(public):
        raise Refused("the endorsement certificate is that of another key")
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and EK_USAGE not in usage:
        raise Refused("the certificate is not one of an endorsement key")
    at, current = datetime.fromtimestamp(now, UTC), leaf
    for _ in range(MOST_LINKS):
        issuer = next((root for root in roots if _issued(current, root)), None)
        if issuer is None:
            name = current.issuer.rfc4514_string()
            raise Refused(f"the endorsement certificate is by {name!r}, whom nobody here trusts")
        if not issuer.not_valid_before_utc <= at <= issuer.not_valid_after_utc:
            raise Refused(f"the maker's certificate {_name(issuer)!r} is not valid at this time")
        if issuer.subject == issuer.issuer:
            return _name(issuer)
        current = issuer
    raise Refused(f"a chain of more than {MOST_LINKS} certificates")


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    basic = _extension(parent, x509.BasicConstraints)
    usage = _extension(parent, x509.KeyUsage)
    if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):
        return False
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _extension(certificate: x509.Certificate, kind: Any) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except ValueError as error:
        raise Refused(f"a certificate with malformed extensions ({error})") from error


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


# ---- statements --------------------------------------------------------------------------------


def check_certified(signed: Signed, key: Any, nonce: bytes, node: Any) -> None:
    """The TPM of ``key`` holds the node's key.

    Args:
        signed: what `fedhive.trust.tpm.Tpm.certify` gave.
        key: public part of an attestation key that is known to be genuine.
        nonce: that was asked for.
        node: public part of the node's key.

    Raises:
        Refused: otherwise.
    """
    attest = _statement(signed, key, "ATTEST_CERTIFY", nonce)
    if bytes(attest.attested.certify.name) != bytes(node.get_name()):
        raise Refused("the statement is about another key than the node's")


def check_quote(signed: Signed, key: Any, nonce: bytes, values: Mapping[int, bytes]) -> None:
    """These are the values of exactly these registers, signed now.

    Args:
        signed: what `fedhive.trust.tpm.Tpm.quote` gave.
        key: public part of an attestation key that is known to be genuine.
        nonce: that was asked for.
        values: SHA-256 by PCR, as the machine claims.

    Raises:
        Refused: otherwise.
    """
    attest = _statement(signed, key, "ATTEST_QUOTE", nonce)
    chosen = attest.attested.quote.pcrSelect
    mask = sum(1 << pcr for pcr in values)
    wanted = [(int(library().TPM2_ALG.SHA256), mask)]
    if [(int(one.hash), _mask(one)) for one in chosen] != wanted:
        raise Refused("the quote is about other registers than were asked for")
    digest = hashlib.sha256(b"".join(value for _, value in sorted(values.items()))).digest()
    if digest != bytes(attest.attested.quote.pcrDigest):
        raise Refused("the registers are not those that the TPM signed")


def _mask(selection: Any) -> int:
    return int.from_bytes(bytes(selection.pcrSelect)[: selection.sizeofSelect], "little")


def _statement(signed: Signed, key: Any, kind: str, nonce: bytes) -> Any:
    """A fresh statement of that kind, its signature checked."""
    lib = library()
    signature = _parsed("TPMT_SIGNATURE", signed.signature)
    if signature.sigAlg != lib.TPM2_ALG.ECDSA:
        raise Refused("a signature that is not ECDSA")
    if signature.signature.ecdsa.hash != lib.TPM2_ALG.SHA256:
        raise Refused("a signature that is not over SHA-256")
    if not 0 < len(signed.attest) <= MOST_BYTES:
        raise Refused(f"a statement of {len(signed.attest)} bytes")
    try:
        signature.verify_signature(key, signed.attest)
    except (InvalidSignature, ValueError) as error:
        raise Refused("the signature is not that of the attestation key") from error
    attest = _parsed("TPMS_ATTEST", signed.attest)
    if int(attest.magic) != MAGIC:
        raise Refused("a statement that no TPM made")
    if attest.type != getattr(lib.TPM2_ST, kind):
        raise Refused("a statement of another kind")
    if bytes(attest.extraData) != nonce:
        raise Refused("an old statement: it is not for this challenge")
    return attest
