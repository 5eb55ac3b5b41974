"""``fedhive trust``: letting machines in by their TPM, message by message."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives import serialization

from fedhive.errors import UserError
from fedhive.trust.enrol import Registrar, answer, hello
from fedhive.trust.ledger import Enrolment
from fedhive.trust.levels import standing
from fedhive.trust.probe import joining, probe
from fedhive.trust.probe_security import EVENT_LOG
from fedhive.trust.tpm import DEVICE, Keys, Tpm
from fedhive.trust.verify import roots_in

KEYS, LEDGER = Path("~/.fedhive/tpm"), Path("~/.fedhive/trust")
MOST_BYTES = 4 << 20

USAGE = """\
Messages are files, so that any way of sending them will do; `-` is standard input.

On a volunteer's machine, with a TPM 2.0 and `pip install 'fedhive[tpm]'`:
  fedhive trust hello                  make keys in the TPM, and introduce this machine
  fedhive trust answer MESSAGE         answer a challenge or a question
      [--keys FOLDER] [--tpm TCTI] [--log FILE]

On the operator's:
  fedhive trust challenge HELLO --as NAME [--owner WHO]
  fedhive trust admit ANSWER [--key FILE]     FILE is for `fedhive deploy register`
  fedhive trust question NAME
  fedhive trust confirm ANSWER
  fedhive trust list [--json]          who was let in, with levels
  fedhive trust remove NAME
  fedhive trust export FILE.csv        for `identities=enrolled`
      [--ledger FOLDER] [--roots FOLDER] [--unvouched]

Anywhere:
  fedhive trust plan [OVERRIDES]       which protection each client of a hive would get"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `fedhive trust --help`)")


def main(argv: list[str]) -> None:
    """Do what the words say."""
    if argv and argv[0] == "plan":
        from fedhive.trust.plan import main as plan

        plan(argv[1:])
        return
    parser = _Parser(prog="fedhive trust", usage=USAGE, add_help=False)
    parser.add_argument("what", nargs="?")
    parser.add_argument("argument", nargs="?")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--keys", type=Path, default=KEYS)
    parser.add_argument("--tpm", default=DEVICE)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--roots", type=Path)
    parser.add_argument("--unvouched", action="store_true")
    parser.add_argument("--as", dest="name")
    parser.add_argument("--owner", default="")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    if given.help or given.what is None:
        print(USAGE)
        return
    action = ACTIONS.get(given.what)
    if action is None:
        from fedhive.config import nearest

        raise UserError(
            f"no such action: trust {given.what}{nearest(given.what, ACTIONS)} "
            "(see `fedhive trust --help`)"
        )
    if (given.argument is None) == (given.what in NEEDS):
        raise UserError(f"usage: fedhive trust {given.what} {NEEDS.get(given.what, '')}".rstrip())
    action(given)


NEEDS = {
    "answer": "MESSAGE", "challenge": "HELLO --as NAME", "admit": "ANSWER", "question": "NAME",
    "confirm": "ANSWER", "remove": "NAME", "export": "FILE.csv",
}  # fmt: skip


# ---- the machine -------------------------------------------------------------------------------


def _hello(given: argparse.Namespace) -> None:
    folder = given.keys.expanduser()
    with Tpm(given.tpm) as tpm:
        if not folder.exists():
            tpm.new_keys().save(folder)
        _say(hello(tpm, Keys.load(folder), joining(probe())))


def _answer(given: argparse.Namespace) -> None:
    message = _message(given.argument)
    with Tpm(given.tpm) as tpm:
        _say(answer(tpm, Keys.load(given.keys.expanduser()), message, _boot_log(given.log)))


def _boot_log(path: Path | None) -> bytes | None:
    """The named log; or this machine's, which only root can read."""
    try:
        return (path or Path("/", EVENT_LOG)).read_bytes()
    except OSError as error:
        if path is not None:
            raise UserError(f"{path}: {error.strerror}") from error
        print(
            f"fedhive: without {error.filename} ({error.strerror}) the boot is not measured, and "
            "level 3 is out of reach; let root copy it, and give --log COPY",
            file=sys.stderr,
        )
        return None


# ---- the operator ------------------------------------------------------------------------------


def _registrar(given: argparse.Namespace) -> Registrar:
    folder = given.ledger.expanduser()
    roots = (given.roots or folder / "roots").expanduser()
    trusted = [] if given.unvouched and not roots.is_dir() else roots_in(roots)
    return Registrar(folder, trusted, unvouched=given.unvouched)


def _keeper(given: argparse.Namespace) -> Registrar:
    """For what needs nobody's certificate."""
    return Registrar(given.ledger.expanduser(), [])


def _challenge(given: argparse.Namespace) -> None:
    if given.name is None:
        raise UserError("usage: fedhive trust challenge HELLO --as NAME")
    _say(_registrar(given).challenge(_message(given.argument), given.name, given.owner))


def _admit(given: argparse.Namespace) -> None:
    registrar = _keeper(given)
    known = registrar.admit(_message(given.argument))
    if given.key is not None:
        key = serialization.load_pem_public_key(known.key.encode())
        line = key.public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )  # as `fedhive join` writes its own
        given.key.write_bytes(line + b"\n")
    print(_line(registrar, known))


def _question(given: argparse.Namespace) -> None:
    _say(_keeper(given).question(given.argument))


def _confirm(given: argparse.Namespace) -> None:
    registrar = _keeper(given)
    print(_line(registrar, registrar.confirm(_message(given.argument))))


def _list(given: argparse.Namespace) -> None:
    registrar = _keeper(given)
    rows = registrar.ledger.enrolments()
    if given.json:
        found = []
        for one in rows:
            where = standing(registrar.facts(one), registrar.clock())
            found.append({
                "name": one.name, "owner": one.owner, "device": one.device, "key": one.key,
                "level": int(where.level), "troubles": list(where.troubles),
                "vouched": one.vouched, "checked_s": one.checked_s,
            })  # fmt: skip
        print(json.dumps(found, indent=1))
        return
    for one in rows:
        print(_line(registrar, one))
    if not rows:
        print("nobody was let in yet")


def _remove(given: argparse.Namespace) -> None:
    known = _keeper(given).remove(given.argument)
    print(f"{known.name} is forgotten; its TPM may enrol again")


def _export(given: argparse.Namespace) -> None:
    count = _keeper(given).ledger.export(Path(given.argument))
    print(f"{given.argument}: {count} machines")


ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "hello": _hello, "answer": _answer, "challenge": _challenge, "admit": _admit,
    "question": _question, "confirm": _confirm, "list": _list, "remove": _remove,
    "export": _export,
}  # fmt: skip


def _line(registrar: Registrar, known: Enrolment) -> str:
    where = standing(registrar.facts(known), registrar.clock())
    boot = {True: "secure boot", False: "secure boot off", None: "boot not measured"}
    vouched = f"vouched for by {known.vouched}" if known.vouched else "vouched for by nobody"
    return f"{known.name:20}  level {where}  {boot[known.secure_boot]}  {vouched}"


# ---- messages ----------------------------------------------------------------------------------


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message, indent=1))


def _message(name: str) -> dict[str, Any]:
    """A message from a file of unknown origin."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise UserError(f"{name}: larger than any message of fedhive trust")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not a message of fedhive trust ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{name}: not a message of fedhive trust")
    return found
