"""Letting machines in by their TPM: one identity a chip, shown by a challenge.

    machine                                     operator
    hello: EK with certificate, AK, node key ->
                                             <- challenge: a credential that only this TPM can
                                                open, and only beside this AK; a nonce
    answer: the opened credential, the AK's
    word on the node's key, a quote, the log ->
                                                admitted, or refused with the reason

A challenge is good for one answer and a few minutes. Later checks (`Registrar.question`,
`Registrar.confirm`) ask for a fresh quote by the same AK.
"""

from __future__ import annotations

import hmac
import os
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509

from fedhive.trust import eventlog, verify
from fedhive.trust.facts import Fact, as_declared
from fedhive.trust.ledger import Book, Enrolment, Ledger
from fedhive.trust.tpm import PCRS, Keys, Signed, Tpm, library
from fedhive.trust.verify import Refused

CHALLENGE_S = 600.0
"""How long a challenge may be answered: a real TPM takes seconds, a person with files minutes."""
FRESH_S = 86_400.0
"""How long a quote counts: a machine may have been booted anew since."""
MOST_OPEN = 1000
Wire = dict[str, Any]


# ---- the machine -------------------------------------------------------------------------------


def hello(tpm: Tpm, keys: Keys, facts: Sequence[Fact] = ()) -> Wire:
    """What a machine begins with: who it is, and what it says of itself."""
    certificate, endorsement = tpm.endorsement()
    return {
        "certificate": None if certificate is None else _text(certificate),
        "endorsement_key": _text(endorsement),
        "attestation_key": _text(tpm.public(keys.attestation)),
        "node_key": _text(tpm.public(keys.node)),
        "facts": [fact.as_row() for fact in facts],
    }


def answer(tpm: Tpm, keys: Keys, challenge: Mapping[str, Any], log: bytes | None = None) -> Wire:
    """The answer to an operator's challenge or question.

    Args:
        tpm: the machine's.
        keys: as in `hello`.
        challenge: from `Registrar.challenge` or `Registrar.question`.
        log: the boot's log, if it can be read.

    Raises:
        TpmError: if the challenge was made for another TPM or another key.
    """
    nonce = _bytes(challenge, "nonce")
    pcrs = [pcr for pcr in challenge.get("pcrs", ()) if pcr in PCRS]
    told = tpm.registers(pcrs)
    quote = tpm.quote(keys, nonce, pcrs)
    found = {
        "id": str(challenge.get("id")),
        "quote": _signed(quote),
        "registers": {str(pcr): value.hex() for pcr, value in told.items()},
        "log": None if log is None else _text(log),
    }
    if "credential" in challenge:
        blob, secret = _bytes(challenge, "credential"), _bytes(challenge, "secret")
        found["opened"] = _text(tpm.activate(keys, blob, secret))
        found["certified"] = _signed(tpm.certify(keys, nonce))
    return found


# ---- the operator ------------------------------------------------------------------------------


class Registrar:
    """Lets machines in.

    Args:
        folder: of the ledger.
        roots: certificates of TPM makers that are trusted.
        unvouched: also let in chips that no trusted maker vouches for. They may be programs, of
            which one person can run thousands; their identity is worth what a software key's is.
        pinned: registers that must stay as they were at enrolment.
        clock: Unix time.
    """

    def __init__(
        self,
        folder: Path,
        roots: Sequence[x509.Certificate],
        unvouched: bool = False,
        pinned: Sequence[int] = (7,),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ledger, self.roots, self.unvouched = Ledger(folder), roots, unvouched
        self.pinned, self.clock = tuple(pinned), clock

    def challenge(self, said: Mapping[str, Any], name: str, owner: str = "") -> Wire:
        """A challenge for a machine that says hello.

        Args:
            said: from `hello`.
            name: to enrol it under.
            owner: whom it is admitted for.

        Raises:
            Refused: if nobody vouches for it, its keys are of a wrong kind, or it or its name is
                enrolled already.
        """
        endorsement = verify.public_key(_bytes(said, "endorsement_key"))
        attestation = verify.public_key(_bytes(said, "attestation_key"))
        node = verify.public_key(_bytes(said, "node_key"))
        verify.check_endorsement_key(endorsement)
        verify.check_attestation_key(attestation)
        verify.check_node_key(node)
        vouched = self._vouched(said, endorsement)
        facts = [fact.as_row() for fact in as_declared(said.get("facts", []))]
        secret, nonce = os.urandom(32), os.urandom(32)
        try:
            blob, sealed = library().utils.make_credential(
                endorsement, secret, attestation.get_name()
            )
        except ValueError as error:
            raise Refused(f"the endorsement key cannot receive a secret ({error})") from error
        entry = {
            "nonce": nonce.hex(), "secret": secret.hex(), "node_key": _text(node.marshal()),
            "attestation_key": attestation.marshal().hex(), "name": name, "owner": owner,
            "device": self.ledger.device(verify.spki(endorsement)), "vouched": vouched,
            "key": verify.pem(node).decode(), "facts": facts,
        }  # fmt: skip
        with self.ledger.open() as book:
            _once(book, entry)
            number = self._opened(book, entry)
        return {
            "id": number, "credential": _text(blob.marshal()), "secret": _text(sealed.marshal()),
            "nonce": _text(nonce), "pcrs": list(PCRS),
        }  # fmt: skip

    def admit(self, said: Mapping[str, Any]) -> Enrolment:
        """Let a machine in by its answer.

        Raises:
            Refused: with the reason; the challenge is used up all the same.
        """
        entry = self._closed(said, "secret")
        if not hmac.compare_digest(_bytes(said, "opened"), bytes.fromhex(entry["secret"])):
            raise Refused("the credential was not opened: the keys are not in the TPM they name")
        key = verify.public_key(bytes.fromhex(entry["attestation_key"]))
        nonce, node = bytes.fromhex(entry["nonce"]), verify.public_key(_bytes(entry, "node_key"))
        verify.check_certified(_as_signed(said, "certified"), key, nonce, node)
        registers, measured, secure = _boot(said, key, nonce)
        now = self.clock()
        found = Enrolment(
            entry["device"], entry["key"], entry["attestation_key"], entry["name"],
            entry["owner"], entry["vouched"], now, now,
            {str(pcr): value.hex() for pcr, value in registers.items()}, measured, secure,
            entry["facts"],
        )  # fmt: skip
        with self.ledger.open() as book:
            _once(book, entry)  # somebody else may have been first
            book.enrolments.append(found)
        return found

    def question(self, name: str) -> Wire:
        """Ask an enrolled machine for a fresh quote.

        Args:
            name: or the node's key, PEM.

        Raises:
            Refused: if it is not enrolled.
        """
        nonce = os.urandom(32)
        with self.ledger.open() as book:
            known = _known(book, name)
            number = self._opened(book, {"nonce": nonce.hex(), "again": known.key})
        return {"id": number, "nonce": _text(nonce), "pcrs": list(PCRS)}

    def confirm(self, said: Mapping[str, Any]) -> Enrolment:
        """Take in the answer to a question.

        Raises:
            Refused: with the reason, such as a pinned register that has changed.
        """
        entry = self._closed(said, "again")
        with self.ledger.open() as book:
            known = _known(book, entry["again"])
            key = verify.public_key(bytes.fromhex(known.attestation_key))
            registers, measured, secure = _boot(said, key, bytes.fromhex(entry["nonce"]))
            for pcr in self.pinned:
                if registers[pcr].hex() != known.registers.get(str(pcr)):
                    raise Refused(
                        f"{known.name}: PCR {pcr} is not what it was at enrolment; if its owner "
                        "changed the firmware or its keys, remove and enrol it again"
                    )
            found = replace(known, checked_s=self.clock(), measured=measured, secure_boot=secure)
            book.enrolments[book.enrolments.index(known)] = found
        return found

    def remove(self, name: str) -> Enrolment:
        """Forget a machine, which may then enrol again.

        Raises:
            Refused: if it is not enrolled.
        """
        with self.ledger.open() as book:
            known = _known(book, name)
            book.enrolments.remove(known)
        return known

    def facts(self, known: Enrolment) -> list[Fact]:
        """What is known of an enrolled machine: declared and attested facts."""
        chip: list[Fact] = []
        worth = "attested" if known.vouched else "declared"
        source = f"TPM vouched for by {known.vouched}" if known.vouched else "TPM of unknown make"
        chip.append(Fact("identity.hardware", known.device, source, worth))  # type: ignore[arg-type]
        if known.vouched:
            until = known.checked_s + FRESH_S
            quote = f"quote checked at {known.checked_s:.0f}"
            chip.append(Fact("boot.measured", known.measured, quote, "attested", until))
            chip.append(Fact("boot.secure", known.secure_boot, quote, "attested", until))
        return [*as_declared(known.facts), *chip]

    def _vouched(self, said: Mapping[str, Any], endorsement: Any) -> str:
        if said.get("certificate") is None:
            if not self.unvouched:
                raise Refused("its TPM has no certificate of a maker, so it may be a program")
            return ""
        certificate = _bytes(said, "certificate")
        try:
            return verify.check_endorsement(certificate, endorsement, self.roots, self.clock())
        except Refused:
            if not self.unvouched:
                raise
            return ""

    def _opened(self, book: Book, entry: Wire) -> str:
        now, number = self.clock(), os.urandom(16).hex()
        for old in [one for one, open_ in book.open.items() if open_["until"] <= now]:
            del book.open[old]
        if len(book.open) >= MOST_OPEN:
            raise Refused(f"{MOST_OPEN} challenges are open; try again in some minutes")
        book.open[number] = {**entry, "until": now + CHALLENGE_S}
        return number

    def _closed(self, said: Mapping[str, Any], kind: str) -> Wire:
        """The challenge that is answered, which cannot be answered again."""
        with self.ledger.open() as book:
            entry = book.open.pop(str(said.get("id")), None)
        if entry is None or kind not in entry or entry["until"] <= self.clock():
            raise Refused("no such challenge is open: it was answered before, or is too old")
        return entry


def _once(book: Book, entry: Wire) -> None:
    """One identity a TPM, one TPM a key, one machine a name."""
    for known in book.enrolments:
        if known.device == entry["device"]:
            raise Refused(f"this TPM is enrolled already, as {known.name!r}; one identity a TPM")
        if known.key == entry["key"] or known.name == entry["name"]:
            raise Refused(
                f"{known.name!r} is enrolled already with another TPM; choose a new name"
            )


def _known(book: Book, name: str) -> Enrolment:
    found = book.find(name)
    if found is None:
        raise Refused(f"no machine {name!r} is enrolled")
    return found


def _boot(
    said: Mapping[str, Any], key: Any, nonce: bytes
) -> tuple[dict[int, bytes], bool, bool | None]:
    """Registers, whether a log accounts for them, and secure boot: all from a fresh quote."""
    told = said.get("registers")
    if not isinstance(told, dict) or set(told) != {str(pcr) for pcr in PCRS}:
        raise Refused(f"expected the values of PCR {PCRS[0]} to {PCRS[-1]}")
    try:
        registers = {int(pcr): bytes.fromhex(value) for pcr, value in told.items()}
    except (ValueError, TypeError) as error:
        raise Refused("the values of registers must be hexadecimal digits") from error
    verify.check_quote(_as_signed(said, "quote"), key, nonce, registers)
    if said.get("log") is None:
        return registers, False, None
    entries = eventlog.parse(_bytes(said, "log", 2 * eventlog.MOST_BYTES))
    eventlog.check(entries, registers)
    return registers, True, eventlog.secure_boot(entries)


# ---- bytes in JSON -----------------------------------------------------------------------------


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _bytes(said: Mapping[str, Any], name: str, most: int = 2 * verify.MOST_BYTES) -> bytes:
    value = said.get(name)
    if not isinstance(value, str) or len(value) > most:
        raise Refused(f"{name} is missing or too long")
    try:
        return b64decode(value, validate=True)
    except ValueError as error:
        raise Refused(f"{name} is not base64") from error


def _signed(signed: Signed) -> Wire:
    return {"attest": _text(signed.attest), "signature": _text(signed.signature)}


def _as_signed(said: Mapping[str, Any], name: str) -> Signed:
    part = said.get(name)
    if not isinstance(part, dict):
        raise Refused(f"{name} is missing")
    return Signed(_bytes(part, "attest"), _bytes(part, "signature"))
