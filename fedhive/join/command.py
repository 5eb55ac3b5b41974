"""``fedhive join``: what a volunteer types."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fedhive.errors import UserError
from fedhive.join.folder import Folder
from fedhive.join.settings import DEFAULT_HOME, Limits, Settings, When, save

VERBS = (
    "status", "pause", "resume", "finish", "stop", "restart", "log", "key", "service", "uninstall",
)  # fmt: skip
USAGE = """\
fedhive join INVITATION            join a hive: asks for consent, makes a key, a configuration
fedhive join                       go on, after you joined
fedhive join status [--json]       what it does just now, and why
fedhive join pause | resume        take a break (leaves the hive at once); go on
fedhive join finish                finish the work in hand, then stop
fedhive join stop                  stop at once
fedhive join restart               stop, take up a changed configuration, go on
fedhive join log [--all]           what it did; with --all, what Flower wrote too
fedhive join key                   the public key to send to the hive's operator
fedhive join service [--write]     a systemd unit that starts it with your session
fedhive join uninstall             stop and remove everything"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `fedhive join --help`)")


def main(argv: list[str]) -> None:
    """Do what the words say."""
    parser = _Parser(prog="fedhive join", usage=USAGE, add_help=False)
    parser.add_argument("what", nargs="?")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--home", type=Path, default=DEFAULT_HOME)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--yes", action="store_true", help="you have read what you agree to")
    parser.add_argument("--no-sandbox", action="store_true")
    parser.add_argument("--name", help="of this machine, for the operator")
    parser.add_argument("--prepare", action="store_true", help="do not start yet")
    given = parser.parse_args(argv)
    if given.help:
        print(USAGE)
        return None
    folder = Folder(given.home)
    if given.what in VERBS:
        actions: dict[str, Callable[[], None]] = {
            "status": lambda: _status(folder, given.json),
            "log": lambda: _log(folder, given.all),
            "key": lambda: _key(folder),
            "service": lambda: _service(folder, given.write),
            "uninstall": lambda: _uninstall(folder),
            "restart": lambda: _restart(folder),
        }
        action = actions.get(given.what)
        return action() if action else _wish(folder, given.what)
    if given.what is not None:
        _enlist(folder, Path(given.what), given)
    if not given.prepare:
        _go(folder)
    return None


def _go(folder: Folder) -> None:
    from fedhive.join.supervisor import Supervisor

    Supervisor(folder, folder.settings).run()


def _enlist(folder: Folder, path: Path, given: argparse.Namespace) -> None:
    """Join a hive for the first time, or take up its new invitation."""
    from fedhive.deploy import certificates
    from fedhive.join import consent

    invitation = read_invitation(path)
    authority = invitation["authority"].encode()
    if folder.config.is_file():
        old = folder.settings
        if (old.hive, old.address) != (invitation["hive"], invitation["address"]):
            raise UserError(
                f"this machine belongs to the hive {old.hive} at {old.address} already; leave it "
                "with `fedhive join uninstall`, or use another --home for this one"
            )
        settings = old
    else:
        settings = Settings(
            hive=invitation["hive"], address=invitation["address"],
            name=given.name or platform.node().split(".")[0] or "volunteer",
            sandbox=not given.no_sandbox, limits=Limits(), when=When(),
        )  # fmt: skip
    fingerprint = certificates.fingerprint(authority)
    consent.ask(settings, fingerprint, str(folder.config), given.yes)
    folder.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.authority.write_bytes(authority)
    if not folder.key.is_file():
        private, public = certificates.make_node_key()
        certificates.write_private(folder.key, private)
        folder.public_key.write_bytes(public)
    if not folder.config.is_file():
        save(folder.config, settings)
    print(f"Your configuration: {folder.config}")
    print(f"Send this file to the operator, who lets you in: {folder.public_key}")


def read_invitation(path: Path) -> dict[str, str]:
    """A hive's invitation.

    Raises:
        UserError: if the file is none.
    """
    from fedhive.deploy import certificates
    from fedhive.deploy.hive import INVITATION, parted

    if not path.is_file():
        raise UserError(f"there is no file {path}; give the invitation that the operator sent")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        wanted = {key: str(found[key]) for key in ("hive", "address", "authority")}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no invitation; ask the operator for another") from error
    if found.get(INVITATION) != 1:
        raise UserError(f"{path} is an invitation of another version of fedhive; update fedhive")
    parted(wanted["address"])
    left = certificates.days_left(wanted["authority"].encode())
    if left <= 0:
        raise UserError(f"{path} has expired; ask the operator for a new invitation")
    return wanted


def _status(folder: Folder, as_json: bool) -> None:
    settings = folder.settings
    found = {"hive": settings.hive, "name": settings.name, **folder.status()}
    if as_json:
        print(json.dumps(found))
        return
    reason = f" ({found['reason']})" if found.get("reason") else ""
    print(f"{found['hive']}: {found['state']}{reason}")
    print(f"  tasks done: {folder.tasks()}, traffic this month: {_size(folder.traffic_bytes())}")
    answer = found.get("last_answer")
    if answer and found["state"] != "stopped":
        print(f"  the hive answered {time.time() - float(answer):.0f} s ago")
    if not settings.sandbox:
        print("  WITHOUT a sandbox: the hive's code runs with all your rights")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _wish(folder: Folder, wish: str) -> None:
    _ = folder.settings
    if not folder.running:
        raise UserError("fedhive join is not running; start it with `fedhive join`")
    folder.want(wish)


def _restart(folder: Folder) -> None:
    if folder.running:
        folder.want("stop")
        _await(lambda: not folder.running)
    _go(folder)


def _await(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            raise UserError("it does not stop; see `fedhive join log`")
        time.sleep(0.2)


def _log(folder: Folder, everything: bool) -> None:
    for path in (folder.people_log, folder.node_log) if everything else (folder.people_log,):
        if path.is_file():
            print(path.read_text(encoding="utf-8", errors="replace"), end="")


def _key(folder: Folder) -> None:
    _ = folder.settings
    print(folder.public_key.read_text(encoding="ascii"), end="")


UNIT = """\
[Unit]
Description=Work for the hive {hive} (fedhive join)
After=network-online.target

[Service]
ExecStart={command}
ExecStop={stop}
Restart=on-failure
RestartSec=65
Nice={nice}
NoNewPrivileges=yes
TimeoutStopSec=60

[Install]
WantedBy=default.target
"""
UNIT_PATH = Path("~/.config/systemd/user/fedhive-join.service")


def _service(folder: Folder, write: bool) -> None:
    settings = folder.settings
    base = [sys.executable, "-m", "fedhive", "join", "--home", str(folder.home)]
    quoted = " ".join(json.dumps(word) if " " in word else word for word in base)
    text = UNIT.format(
        hive=settings.hive, command=quoted, stop=f"{quoted} stop", nice=settings.limits.nice
    )
    if not write:
        print(text, end="")
        return
    path = UNIT_PATH.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}; now: systemctl --user enable --now {path.name}")


def _uninstall(folder: Folder) -> None:
    if not folder.config.is_file():
        raise UserError(f"{folder.home} holds nothing of fedhive join")
    if folder.running:
        folder.want("stop")
        _await(lambda: not folder.running)
    unit = UNIT_PATH.expanduser()
    if unit.is_file() and str(folder.home) in unit.read_text(encoding="utf-8"):
        os.system(f"systemctl --user disable --now {unit.name} >/dev/null 2>&1")
        unit.unlink()
    shutil.rmtree(folder.home)
    print(f"removed {folder.home}; tell the operator, who can forget this machine's key too")
