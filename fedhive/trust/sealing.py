"""Secrets that open only on one TPM, and only after the same boot.

A TPM seals at most 128 bytes, so it seals a key of AES-256-GCM, and that key the secret. The key
crosses the bus to the chip in an encrypted session, salted with the storage key.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedhive.trust.tpm import TpmError, explained, pack, unpack

if TYPE_CHECKING:
    from fedhive.trust.tpm import Tpm

FIELDS = ("pcrs", "public", "private", "nonce", "secret")


def seal(tpm: Tpm, secret: bytes, pcrs: tuple[int, ...]) -> bytes:
    """Lock a secret to a TPM and to the present values of registers.

    Args:
        tpm: which.
        secret: of any length.
        pcrs: registers; 7 alone is secure boot's policy, which survives updates of the system.

    Returns:
        A text that may be stored anywhere.

    Raises:
        TpmError: if the TPM refuses.
    """
    lib, key, nonce = tpm.lib, os.urandom(32), os.urandom(12)
    bits = lib.TPMA_OBJECT
    with explained("sealing"):
        public = lib.TPM2B_PUBLIC.parse(
            "keyedhash",
            objectAttributes=bits.FIXEDTPM | bits.FIXEDPARENT | bits.ADMINWITHPOLICY | bits.NODA,
            authPolicy=_policy(tpm, pcrs),
        )
        sensitive = lib.TPM2B_SENSITIVE_CREATE(
            lib.TPMS_SENSITIVE_CREATE(data=lib.TPM2B_SENSITIVE_DATA(key))
        )
        with _storage(tpm) as parent, _hidden(tpm, parent) as session:
            private, made, *_ = tpm.esapi.create(
                parent, sensitive, public, session1=lib.ESYS_TR.PASSWORD, session2=session
            )
    locked = AESGCM(key).encrypt(nonce, secret, bytes(pcrs))
    values = (bytes(pcrs), made.marshal(), private.marshal(), nonce, locked)
    return pack(dict(zip(FIELDS, values, strict=True))).encode()


def unseal(tpm: Tpm, blob: bytes) -> bytes:
    """The secret of `seal`.

    Raises:
        TpmError: on another TPM, after another boot, or if the text was changed.
    """
    lib, part = tpm.lib, unpack(blob, FIELDS)
    pcrs = tuple(part["pcrs"])
    with explained("unsealing: another TPM, or it was booted in another way"):
        public, _ = lib.TPM2B_PUBLIC.unmarshal(part["public"])
        private, _ = lib.TPM2B_PRIVATE.unmarshal(part["private"])
        with _storage(tpm) as parent:
            handle = tpm.esapi.load(parent, private, public)
            with handle, _hidden(tpm, parent, policy=True) as session:
                tpm.esapi.policy_pcr(session, lib.TPM2B_DIGEST(), _chosen(tpm, pcrs))
                key = bytes(tpm.esapi.unseal(handle, session1=session))
    try:
        return AESGCM(key).decrypt(part["nonce"], part["secret"], part["pcrs"])
    except InvalidTag as error:
        raise TpmError("a sealed secret was changed since it was sealed") from error


def _chosen(tpm: Tpm, pcrs: tuple[int, ...]) -> Any:
    text = "sha256:" + ",".join(map(str, pcrs))
    return tpm.lib.TPML_PCR_SELECTION.parse(text)


def _policy(tpm: Tpm, pcrs: tuple[int, ...]) -> bytes:
    """The digest of the policy "these registers have the values that they have now"."""
    lib, esapi = tpm.lib, tpm.esapi
    session = esapi.start_auth_session(
        lib.ESYS_TR.NONE, lib.ESYS_TR.NONE, lib.TPM2_SE.TRIAL,
        lib.TPMT_SYM_DEF(algorithm=lib.TPM2_ALG.NULL), lib.TPM2_ALG.SHA256,
    )  # fmt: skip
    try:
        esapi.policy_pcr(session, lib.TPM2B_DIGEST(), _chosen(tpm, pcrs))
        return bytes(esapi.policy_get_digest(session))
    finally:
        esapi.flush_context(session)


@contextlib.contextmanager
def _storage(tpm: Tpm) -> Iterator[Any]:
    """A storage key, derived from the TPM's own seed: the same each time."""
    lib = tpm.lib
    bits = lib.TPMA_OBJECT
    inside = bits.FIXEDTPM | bits.FIXEDPARENT | bits.SENSITIVEDATAORIGIN
    use = bits.USERWITHAUTH | bits.NODA | bits.RESTRICTED | bits.DECRYPT
    template = lib.TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=inside | use)
    handle, *_ = tpm.esapi.create_primary(
        lib.TPM2B_SENSITIVE_CREATE(), template, lib.ESYS_TR.OWNER
    )
    with handle:
        yield handle


@contextlib.contextmanager
def _hidden(tpm: Tpm, parent: Any, policy: bool = False) -> Iterator[Any]:
    """A session in which secrets cross the bus encrypted."""
    lib, esapi = tpm.lib, tpm.esapi
    kind = lib.TPM2_SE.POLICY if policy else lib.TPM2_SE.HMAC
    cipher = lib.TPMT_SYM_DEF(
        algorithm=lib.TPM2_ALG.AES,
        keyBits=lib.TPMU_SYM_KEY_BITS(sym=128),
        mode=lib.TPMU_SYM_MODE(sym=lib.TPM2_ALG.CFB),
    )
    session = esapi.start_auth_session(parent, lib.ESYS_TR.NONE, kind, cipher, lib.TPM2_ALG.SHA256)
    bits = lib.TPMA_SESSION
    wanted = bits.CONTINUESESSION | bits.ENCRYPT | (bits(0) if policy else bits.DECRYPT)
    esapi.trsess_set_attributes(session, wanted)
    try:
        yield session
    finally:
        esapi.flush_context(session)
