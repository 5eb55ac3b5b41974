"""A TPM 2.0 from a volunteer's side: keys that cannot leave it, and what it signs about itself.

Needs the extra ``[tpm]`` (tpm2-pytss, and tpm2-tss from the system). Three kinds of keys:

- the endorsement key (EK), burnt in by the maker, whose certificate says that the chip is genuine;
- an attestation key (AK), which signs only what the TPM itself has made up;
- the node's key, P-256, with which the SuperNode signs its calls.

Keys are kept as TSS2 PEM files: encrypted by the TPM, worthless on any other machine.
"""

from __future__ import annotations

import contextlib
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhive.errors import UserError

DEVICE = "device:/dev/tpmrm0"
SRK = 0x81000001
PCRS = tuple(range(8))
"""Registers of the firmware's boot: 0 to 7."""
AK_NAME, NODE_NAME = "attestation.tss2.pem", "node.tss2.pem"


class TpmError(UserError):
    """The TPM, or the library to talk to it, is not there or refuses."""


def library() -> Any:
    """The package tpm2_pytss.

    Raises:
        TpmError: saying how to install it.
    """
    os.environ.setdefault("TSS2_LOG", "all+NONE")  # the reasons are in our own messages
    try:
        import tpm2_pytss
        import tpm2_pytss.tsskey
        import tpm2_pytss.utils
    except (ImportError, OSError) as error:
        raise TpmError(
            "talking to a TPM needs tpm2-pytss: on Debian, apt install libtss2-dev gcc "
            f"pkg-config python3-dev, then pip install 'fedhive[tpm]' ({error})"
        ) from error
    return tpm2_pytss


@dataclass(frozen=True)
class Keys:
    """A machine's attestation key and node key, as TSS2 PEM text.

    Args:
        attestation: signs statements of the TPM.
        node: signs for the node.
    """

    attestation: bytes
    node: bytes

    def save(self, folder: Path) -> None:
        """Write both into a folder, readable by nobody else.

        Raises:
            UserError: if there are keys already, so that no identity is lost by mistake.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, data in ((AK_NAME, self.attestation), (NODE_NAME, self.node)):
            try:
                number = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError as error:
                raise UserError(
                    f"{folder / name} is there already; choose another folder"
                ) from error
            with os.fdopen(number, "wb") as file:
                file.write(data)

    @staticmethod
    def load(folder: Path) -> Keys:
        """Read them back.

        Raises:
            UserError: if they are not there.
        """
        try:
            return Keys((folder / AK_NAME).read_bytes(), (folder / NODE_NAME).read_bytes())
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; fedhive trust hello") from error


@dataclass(frozen=True)
class Signed:
    """A statement of a TPM about itself, and its signature, both in the TPM's own format."""

    attest: bytes
    signature: bytes


class Tpm:
    """One TPM, opened for use by one thread.

    Args:
        tcti: how to reach it: a TSS2 connection string, or an object of tpm2_pytss.

    Raises:
        TpmError: if it cannot be opened.
    """

    def __init__(self, tcti: Any = DEVICE) -> None:
        self.lib = library()
        try:
            self.esapi = self.lib.ESAPI(tcti)
        except Exception as error:
            raise TpmError(
                f"cannot open the TPM ({tcti}): {error}; `fedhive doctor` tells whether there is "
                "one and whether you may use it"
            ) from error

    def __enter__(self) -> Tpm:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        self.esapi.close()

    # ---- what it is ---------------------------------------------------------------------------

    def manufacturer(self) -> str:
        """Four letters, as it says itself: ``INTC``, ``AMD``, ``IFX``, ``STM``, ``IBM``, ..."""
        lib = self.lib
        with _explained("reading its manufacturer"):
            _, data = self.esapi.get_capability(
                lib.TPM2_CAP.TPM_PROPERTIES, lib.TPM2_PT.MANUFACTURER, 1
            )
        value = int(data.data.tpmProperties[0].value)
        return value.to_bytes(4, "big").decode("ascii", "replace").strip("\0 ")

    def endorsement(self) -> tuple[bytes | None, bytes]:
        """The EK's certificate (DER; None if the maker left none) and public part."""
        with _explained("reading its endorsement key"):
            certificate, template = self._template()
            with self._primary(template) as (_, public):
                return (None if certificate is None else bytes(certificate)), public.marshal()

    def _template(self) -> tuple[bytes | None, Any]:
        utils = self.lib.utils
        return utils.create_ek_template("EK-RSA2048", utils.NVReadEK(self.esapi))  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _primary(self, template: Any) -> Iterator[tuple[Any, Any]]:
        lib = self.lib
        handle, public, *_ = self.esapi.create_primary(
            lib.TPM2B_SENSITIVE_CREATE(), template, lib.ESYS_TR.ENDORSEMENT
        )
        with handle:
            yield handle, public

    # ---- keys ---------------------------------------------------------------------------------

    def new_keys(self) -> Keys:
        """A new attestation key and a new node key, made inside."""
        lib = self.lib
        bits = lib.TPMA_OBJECT
        inside = bits.FIXEDTPM | bits.FIXEDPARENT | bits.SENSITIVEDATAORIGIN
        attributes = inside | bits.USERWITHAUTH | bits.NODA | bits.SIGN_ENCRYPT
        made = []
        with _explained("making keys"):
            for more in (bits.RESTRICTED, lib.TPMA_OBJECT(0)):
                scheme = "ecc256:ecdsa-sha256:null" if more else "ecc256:null:null"
                public = lib.TPM2B_PUBLIC.parse(scheme, objectAttributes=attributes | more)
                key = lib.tsskey.TSSPrivKey.create(self.esapi, public.publicArea, self._parent())
                made.append(key.to_pem())
        return Keys(*made)

    def _parent(self) -> int:
        """The usual storage key where the owner has made it persistent, else a derived one."""
        lib = self.lib
        _, data = self.esapi.get_capability(lib.TPM2_CAP.HANDLES, SRK, 1)
        handles = [int(handle) for handle in data.data.handles]
        return SRK if SRK in handles else int(lib.TPM2_RH.OWNER)

    @contextlib.contextmanager
    def loaded(self, pem: bytes) -> Iterator[Any]:
        """A key's handle, while it is needed."""
        with _explained("loading a key; was it made by another TPM?"):
            handle = self.lib.tsskey.TSSPrivKey.from_pem(pem).load(self.esapi)
        with handle:
            yield handle

    def public(self, pem: bytes) -> bytes:
        """A key's public part, in the TPM's format."""
        return bytes(self.lib.tsskey.TSSPrivKey.from_pem(pem).public.marshal())

    # ---- statements ---------------------------------------------------------------------------

    def activate(self, keys: Keys, blob: bytes, secret: bytes) -> bytes:
        """Open a credential, which only the TPM of both EK and AK can.

        Raises:
            TpmError: if it was made for another TPM or another key.
        """
        lib, esapi = self.lib, self.esapi
        with _explained("activating a credential"):
            identity, _ = lib.TPM2B_ID_OBJECT.unmarshal(blob)
            encrypted, _ = lib.TPM2B_ENCRYPTED_SECRET.unmarshal(secret)
            with (
                self._primary(self._template()[1]) as (ek, _),
                self.loaded(keys.attestation) as ak,
            ):
                session = esapi.start_auth_session(
                    lib.ESYS_TR.NONE, lib.ESYS_TR.NONE, lib.TPM2_SE.POLICY,
                    lib.TPMT_SYM_DEF(algorithm=lib.TPM2_ALG.NULL), lib.TPM2_ALG.SHA256,
                )  # fmt: skip
                try:
                    esapi.policy_secret(
                        lib.ESYS_TR.ENDORSEMENT, session, lib.TPM2B_NONCE(), lib.TPM2B_DIGEST(),
                        lib.TPM2B_NONCE(), 0,
                    )  # fmt: skip
                    opened = esapi.activate_credential(
                        ak, ek, identity, encrypted,
                        session1=lib.ESYS_TR.PASSWORD, session2=session,
                    )  # fmt: skip
                    return bytes(opened)
                finally:
                    with contextlib.suppress(lib.TSS2_Exception):  # success flushes it
                        esapi.flush_context(session)

    def certify(self, keys: Keys, nonce: bytes) -> Signed:
        """The AK's word that the node's key is inside the same TPM."""
        lib = self.lib
        with (
            _explained("certifying the node's key"),
            self.loaded(keys.node) as node,
            self.loaded(keys.attestation) as ak,
        ):
            attest, signature = self.esapi.certify(node, ak, lib.TPM2B_DATA(nonce), self._scheme())
            return Signed(bytes(attest), signature.marshal())

    def quote(self, keys: Keys, nonce: bytes, pcrs: Iterable[int] = PCRS) -> Signed:
        """The AK's word on the registers of this boot."""
        lib = self.lib
        chosen = lib.TPML_PCR_SELECTION.parse(_selection(pcrs))
        with _explained("quoting"), self.loaded(keys.attestation) as ak:
            attest, signature = self.esapi.quote(ak, chosen, lib.TPM2B_DATA(nonce), self._scheme())
            return Signed(bytes(attest), signature.marshal())

    def _scheme(self) -> Any:
        return self.lib.TPMT_SIG_SCHEME(scheme=self.lib.TPM2_ALG.NULL)

    def registers(self, pcrs: Iterable[int] = PCRS) -> dict[int, bytes]:
        """SHA-256 values by PCR."""
        lib, found = self.lib, {}
        with _explained("reading registers"):
            for pcr in pcrs:  # one at a time: the TPM may give fewer than asked for
                chosen = lib.TPML_PCR_SELECTION.parse(_selection([pcr]))
                _, _, digests = self.esapi.pcr_read(chosen)
                found[pcr] = bytes(digests[0])
        return found

    # ---- secrets ------------------------------------------------------------------------------

    def seal(self, secret: bytes, pcrs: Iterable[int] = (7,)) -> bytes:
        """Lock a secret to this TPM and this boot: see `fedhive.trust.sealing`."""
        from fedhive.trust.sealing import seal

        return seal(self, secret, tuple(pcrs))

    def unseal(self, blob: bytes) -> bytes:
        """The secret back, on the same TPM after an equal boot."""
        from fedhive.trust.sealing import unseal

        return unseal(self, blob)


def _selection(pcrs: Iterable[int]) -> str:
    return "sha256:" + ",".join(str(pcr) for pcr in sorted(set(pcrs)))


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the library's complaints into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("tpm2_pytss", "builtins"):
            raise
        raise TpmError(f"the TPM refused {what}: {error}") from error


explained = _explained


def pack(fields: Mapping[str, bytes]) -> str:
    """Bytes by name as JSON text."""
    return json.dumps({name: b64encode(data).decode() for name, data in fields.items()})


def unpack(text: str | bytes, names: Iterable[str]) -> dict[str, bytes]:
    """Bytes by name from JSON text.

    Raises:
        UserError: if it is not what `pack` wrote with these names.
    """
    try:
        fields = json.loads(text)
        return {name: b64decode(fields[name], validate=True) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"not what the TPM's functions wrote ({error})") from error
