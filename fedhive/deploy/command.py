"""``fedhive deploy``: what a hive's operator types."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from fedhive.deploy import certificates
from fedhive.deploy.hive import DEFAULT_HOME, DEFAULT_PORT, HERE, Hive, Settings, joined, parted
from fedhive.errors import UserError

USAGE = """\
fedhive deploy start [--address HOST:PORT] [--also NAME]... [--name HIVE]
                                 make a hive if there is none here, and run its SuperLink
fedhive deploy invite [FILE]     write the invitation that volunteers need
fedhive deploy register KEY.pub --as NAME [--location LAT,LON]
                                 let a volunteer's machine in
fedhive deploy remove NAME       let it in no more
fedhive deploy machines [--json] who is registered, and who is there
fedhive deploy status            whether the SuperLink answers
fedhive deploy check             look for mistakes: certificates, names, permissions
fedhive deploy certify [--also NAME]... [--new-authority]
                                 make a new server certificate
fedhive deploy print             the commands for a SuperLink that runs elsewhere

With --home FOLDER another folder than ~/.fedhive/hive. Then, from the same machine:
  fedhive run experiment=quickstart engine=deployment nodes=3 selection.k=3"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `fedhive deploy --help`)")


def main(argv: list[str]) -> None:
    """Do what the words say."""
    parser = _Parser(prog="fedhive deploy", usage=USAGE, add_help=False)
    parser.add_argument("what", nargs="?")
    parser.add_argument("argument", nargs="?")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--home", type=Path, default=DEFAULT_HOME)
    parser.add_argument("--address", default=f"127.0.0.1:{DEFAULT_PORT}")
    parser.add_argument("--listen", help="the address to listen on, if another")
    parser.add_argument("--also", action="append", default=[])
    parser.add_argument("--name", default="hive")
    parser.add_argument("--as", dest="machine")
    parser.add_argument("--location")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--new-authority", action="store_true")
    given = parser.parse_args(argv)
    if given.help or given.what is None:
        print(USAGE)
        return
    action = {
        "start": _start, "invite": _invite, "register": _register, "remove": _remove,
        "machines": _machines, "status": _status, "check": _check, "certify": _certify,
        "print": _print,
    }.get(given.what)  # fmt: skip
    if action is None:
        raise UserError(f"no `fedhive deploy {given.what}` (see `fedhive deploy --help`)")
    action(Hive(given.home), given)


def _start(hive: Hive, given: argparse.Namespace) -> None:
    if not hive.exists:
        host, port = parted(given.address)
        listen = given.listen or ("127.0.0.1" if host in HERE else "0.0.0.0")
        hive.create(Settings(given.name, listen, port, (host, *given.also)))
        print(f"made a hive in {hive.home}")
    invitation = _write_invitation(hive, hive.home / "invitation.json")
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stop.append(n))
    with hive.running() as process:
        settings = hive.settings
        print(f"hive {settings.name} is up at {joined(settings.names[0], settings.port)}")
        print(f"  volunteers need {invitation}")
        print(f"  its fingerprint: {certificates.fingerprint(hive.authority.read_bytes())}")
        print("  let a machine in: fedhive deploy register NODE.pub --as NAME")
        print("  Ctrl-C ends it; machines, runs and history are kept", flush=True)
        while not stop:
            if process.poll() is not None:
                raise UserError(f"the SuperLink ended; see {hive.home / 'superlink.log'}")
            time.sleep(0.5)


def _invite(hive: Hive, given: argparse.Namespace) -> None:
    _ = hive.settings
    print(_write_invitation(hive, Path(given.argument or hive.home / "invitation.json")))


def _write_invitation(hive: Hive, path: Path) -> Path:
    path.write_text(json.dumps(hive.invitation(), indent=2) + "\n", encoding="utf-8")
    return path


def _register(hive: Hive, given: argparse.Namespace) -> None:
    if given.argument is None or given.machine is None:
        raise UserError("usage: fedhive deploy register KEY.pub --as NAME [--location LAT,LON]")
    if given.location is not None:
        _check_location(given.location)
    hive.register(Path(given.argument), given.machine, given.location)
    print(f"{given.machine} may come")


def _check_location(text: str) -> None:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        latitude = longitude = 1e9
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise UserError(f"--location {text}: write latitude,longitude, e.g. 48.85,2.35")


def _remove(hive: Hive, given: argparse.Namespace) -> None:
    if given.argument is None:
        raise UserError("usage: fedhive deploy remove NAME")
    hive.remove(given.argument)
    print(f"{given.argument} is let in no more")


def _machines(hive: Hive, given: argparse.Namespace) -> None:
    found = hive.control.machines()
    if given.json:
        print(json.dumps([vars(machine) for machine in found]))
        return
    for machine in found:
        place = f"  {machine.location}" if machine.location else ""
        print(f"{machine.name or machine.node:20}  {machine.status:10}  {machine.seen}{place}")
    if not found:
        print("nobody is registered; let a machine in with `fedhive deploy register`")


def _status(hive: Hive, given: argparse.Namespace) -> None:
    blocked = hive.unreachable()
    if blocked:
        raise UserError(blocked)
    settings = hive.settings
    here = sum(machine.status == "online" for machine in hive.control.machines())
    print(f"hive {settings.name} at {joined(settings.names[0], settings.port)}: {here} there")


def _check(hive: Hive, given: argparse.Namespace) -> None:
    found = hive.problems()
    if found:
        for line in found[:-1]:
            print(f"fedhive: {line}", file=sys.stderr)
        raise UserError(found[-1])
    left = certificates.days_left((hive.home / "server.pem").read_bytes())
    print(f"nothing wrong; the server's certificate is valid for {left:.0f} more days")


def _certify(hive: Hive, given: argparse.Namespace) -> None:
    hive.certify(given.also, given.new_authority)
    print("made a new certificate; it is used from the next `fedhive deploy start` on")
    if given.new_authority:
        print(f"volunteers need the new {_write_invitation(hive, hive.home / 'invitation.json')}")


def _print(hive: Hive, given: argparse.Namespace) -> None:
    settings = hive.settings
    print(
        f"# copy {hive.home}/ca.crt, server.pem and server.key to the server, then there:\n"
        "export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 "
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1\n"
        "flower-superlink --ssl-ca-certfile ca.crt --ssl-certfile server.pem --ssl-keyfile "
        "server.key \\\n  --enable-supernode-auth --disable-runtime-dependency-installation "
        f"--host 0.0.0.0 --port {settings.port} --database state.db\n"
        "# Flower lets anybody who reaches this port submit runs and register machines: let a\n"
        "# firewall or proxy pass only paths under /v1/fleet/ to volunteers (`fedhive deploy "
        "start`\n# sees to that itself). Runs, from a machine that may reach all of it:\n"
        "fedhive run experiment=quickstart engine=deployment "
        f"engine.superlink={joined(settings.names[0], settings.port)} "
        f"engine.root_certificates={hive.authority}"
    )
