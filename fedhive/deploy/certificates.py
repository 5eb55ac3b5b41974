"""A hive's own certificate authority, its server's certificate, and the keys of its machines.

Volunteers trust one certificate, the authority's, and nothing else: no public authority can vouch
for somebody who sits between them and the hive. Private keys are readable by their owner only.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhive.errors import UserError

CURVE = ec.SECP384R1
AUTHORITY_DAYS = 3650
SERVER_DAYS = 825  # the longest that all common TLS libraries accept
SKEW = timedelta(hours=1)
"""Volunteers' clocks are wrong by minutes, and a certificate of a moment ago must not fail."""


def now() -> datetime:
    """The present, with its time zone."""
    return datetime.now(UTC)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def make_authority(name: str, days: float = AUTHORITY_DAYS) -> tuple[bytes, bytes]:
    """A new authority that can sign servers' certificates and nothing below them.

    Args:
        name: of the hive, for people.
        days: how long it is valid.

    Returns:
        (certificate, private key), both PEM.
    """
    key = ec.generate_private_key(CURVE())
    subject = _name(f"{name} (fedhive authority)")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA384())
    )
    return _pem(certificate), _private(key)


def make_server(
    authority: bytes, authority_key: bytes, names: Sequence[str], days: float = SERVER_DAYS
) -> tuple[bytes, bytes]:
    """A server's certificate for the names and addresses under which machines will dial it.

    Args:
        authority: the authority's certificate, PEM.
        authority_key: its private key, PEM.
        names: host names and IP addresses; at least one.
        days: how long it is valid, cut to the authority's own validity.

    Returns:
        (certificate, private key), both PEM.

    Raises:
        UserError: for a name that is neither.
    """
    if not names:
        raise UserError("name at least one host name or address under which the hive is reached")
    issuer = x509.load_pem_x509_certificate(authority)
    signer = serialization.load_pem_private_key(authority_key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(CURVE())
    days = min(days, (issuer.not_valid_after_utc - now()) / timedelta(days=1))
    certificate = (
        _builder(_name(names[0]), issuer.subject, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
        .sign(signer, hashes.SHA384())
    )
    return _pem(certificate), _private(key)


def problems(authority: bytes, server: bytes, names: Sequence[str]) -> list[str]:
    """What machines that dial ``names`` would find wrong with a server's certificate, for people.

    Raises:
        UserError: if either is no certificate at all.
    """
    issuer, leaf = _load(authority, "the authority's"), _load(server, "the server's")
    found = [_expiry(which, c) for which, c in (("authority", issuer), ("server", leaf))]
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        found.append(
            "the server's certificate was not signed by this authority; run `fedhive deploy "
            "certify` to make a new one, or put back the authority that signed it"
        )
    try:
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        known = {str(name) for name in san.get_values_for_type(x509.DNSName)}
        known |= {str(address) for address in san.get_values_for_type(x509.IPAddress)}
    except x509.ExtensionNotFound:
        known = set()
    found += [
        f"the server's certificate does not name {name} (it names "
        f"{', '.join(sorted(known)) or 'nothing'}); run `fedhive deploy certify --also {name}`"
        for name in names
        if name not in known
    ]
    return [line for line in found if line]


def _expiry(which: str, certificate: x509.Certificate) -> str:
    day = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if certificate.not_valid_after_utc <= now():
        return f"the {which}'s certificate expired on {day}; run `fedhive deploy certify`" + (
            " --new-authority and invite everybody again" if which == "authority" else ""
        )
    if certificate.not_valid_before_utc > now():
        return f"the {which}'s certificate is not valid yet; is this machine's clock right?"
    return ""


def days_left(certificate: bytes) -> float:
    """Days until a PEM certificate expires."""
    left = _load(certificate, "the").not_valid_after_utc - now()
    return left / timedelta(days=1)


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 of a PEM certificate, as people compare it over the telephone."""
    digest = _load(certificate, "the").fingerprint(hashes.SHA256()).hex().upper()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


# ---- machines' keys ------------------------------------------------------------------------


def make_node_key() -> tuple[bytes, bytes]:
    """A machine's new key: (private, public), in OpenSSH's formats as Flower wants them."""
    key = ec.generate_private_key(CURVE())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private, public + b"\n"


def read_public_key(text: bytes, where: str) -> bytes:
    """A machine's public key, checked and without its comment.

    Raises:
        UserError: for anything else, a private key above all.
    """
    if b"PRIVATE KEY" in text:
        raise UserError(
            f"{where} holds a PRIVATE key: never send or register that one, but the file beside "
            "it that ends in .pub"
        )
    try:
        key = serialization.load_ssh_public_key(text.strip())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError(type(key).__name__)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(
            f"{where} is no public key of the kind `fedhive join` makes (ecdsa-sha2-nistp384); "
            "ask for the volunteer's node.pub"
        ) from error
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def key_name(public: bytes) -> str:
    """A short name of a public key, the same on both sides: 16 hexadecimal digits."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b" ".join(public.split()[:2]))
    return digest.finalize().hex()[:16]


# ---- inside --------------------------------------------------------------------------------


def _load(pem: bytes, which: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise UserError(f"{which} certificate cannot be read: it is no PEM certificate") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - SKEW + timedelta(days=min(days, 0.0)))
        .not_valid_after(now() + timedelta(days=days))
    )


def _usage(**granted: bool) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: granted.get(name, False) for name in every})


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise UserError(f"{name!r} is neither a host name nor an IP address") from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
