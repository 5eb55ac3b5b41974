"""A hive's folder: certificates, settings, registered machines, and the SuperLink itself."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedhive.deploy import certificates
from fedhive.deploy.control import Control
from fedhive.deploy.environment import flower_environment
from fedhive.errors import UserError

DEFAULT_HOME = Path("~/.fedhive/hive")
DEFAULT_PORT = 9443
START_PATIENCE_S = 90.0
HERE = ("localhost", "127.0.0.1")
INVITATION = "fedhive-invitation"
SUBMISSIONS = "FEDHIVE_SUBMISSIONS"
"""Environment variable by which the SuperLink's ServerApps find `Hive.submissions`."""


@dataclass(frozen=True)
class Settings:
    """What `fedhive deploy` wrote down about a hive.

    Args:
        name: for people.
        host: the address of this machine to listen on; ``0.0.0.0`` for all of them.
        port: to listen on.
        names: host names and addresses by which machines reach it, the first one in invitations.
    """

    name: str
    host: str
    port: int
    names: tuple[str, ...]


class Hive:
    """The folder of one hive on the machine where its SuperLink runs.

    Args:
        home: the folder.
    """

    def __init__(self, home: Path = DEFAULT_HOME) -> None:
        self.home = home.expanduser().absolute()

    @property
    def exists(self) -> bool:
        """Whether a hive was made here."""
        return (self.home / "hive.json").is_file()

    @property
    def settings(self) -> Settings:
        """What was written down.

        Raises:
            UserError: if there is no hive here.
        """
        if not self.exists:
            raise UserError(f"{self.home} holds no hive; make one with `fedhive deploy start`")
        found = json.loads((self.home / "hive.json").read_text(encoding="utf-8"))
        return Settings(
            str(found["name"]), str(found["host"]), int(found["port"]), tuple(found["names"])
        )

    @property
    def authority(self) -> Path:
        """The certificate that volunteers trust."""
        return self.home / "ca.crt"

    # ---- making -------------------------------------------------------------------------------

    def create(self, settings: Settings) -> None:
        """Write settings, authority and server certificate of a new hive.

        Raises:
            UserError: if there is one already, or a name is none.
        """
        if self.exists:
            raise UserError(f"{self.home} holds a hive already; choose another --home")
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority, key = certificates.make_authority(settings.name)
        certificates.write_private(self.home / "ca.key", key)
        self.authority.write_bytes(authority)
        self._certify(settings.names)
        self._write("hive.json", asdict(settings))

    def certify(self, more: Sequence[str] = (), new_authority: bool = False) -> None:
        """Make a new server certificate, for more names if given; effective at the next start.

        Args:
            more: names to add.
            new_authority: replace the authority too: every volunteer needs a new invitation.
        """
        old = self.settings
        names = tuple(dict.fromkeys([*old.names, *more]))
        if new_authority:
            authority, key = certificates.make_authority(old.name)
            certificates.write_private(self.home / "ca.key", key)
            self.authority.write_bytes(authority)
        self._certify(names)
        self._write("hive.json", asdict(Settings(old.name, old.host, old.port, names)))

    def _certify(self, names: Sequence[str]) -> None:
        server, key = certificates.make_server(
            self.authority.read_bytes(),
            (self.home / "ca.key").read_bytes(),
            tuple(dict.fromkeys([*names, *HERE])),
        )
        certificates.write_private(self.home / "server.key", key)
        (self.home / "server.pem").write_bytes(server)

    def problems(self) -> list[str]:
        """What is wrong with the hive's files, one line each; empty if nothing is."""
        names = [*self.settings.names, *HERE]
        missing = [
            f"{self.home / name} is missing; run `fedhive deploy certify`"
            for name in ("ca.crt", "server.pem", "server.key")
            if not (self.home / name).is_file()
        ]
        if missing:
            return missing
        found = certificates.problems(
            self.authority.read_bytes(), (self.home / "server.pem").read_bytes(), names
        )
        for name in ("ca.key", "server.key"):
            path = self.home / name
            if path.is_file() and path.stat().st_mode & 0o077:
                found.append(f"{path} can be read by others; run `chmod 600 {path}`")
        return found

    def invitation(self) -> dict[str, Any]:
        """What a volunteer needs: nothing in it is secret, but it must come from you."""
        settings = self.settings
        return {
            INVITATION: 1,
            "hive": settings.name,
            "address": joined(settings.names[0], settings.port),
            "authority": self.authority.read_text(encoding="ascii"),
        }

    # ---- machines -----------------------------------------------------------------------------

    @property
    def control(self) -> Control:
        """Flower's control of this hive, from this machine."""
        return Control(joined(self._here, self.settings.port), self.authority)

    @property
    def submissions(self) -> Path:
        """Where operators on this machine leave what only they and a run's server may know."""
        return self.home / "submissions"

    @property
    def _here(self) -> str:
        host = self.settings.host
        return "127.0.0.1" if host in ("0.0.0.0", "::") else host

    def machines(self) -> dict[str, dict[str, Any]]:
        """The registered machines by name: node id, location, name of the key."""
        path = self.home / "machines.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return dict(found)

    def register(self, key_file: Path, name: str, location: str | None) -> int:
        """Let a volunteer's machine in; its node id.

        Raises:
            UserError: for a name or key that is registered already, or a file that is no key.
        """
        machines = self.machines()
        if name in machines:
            raise UserError(f"a machine called {name} is registered already; choose another name")
        if not key_file.is_file():
            raise UserError(f"there is no file {key_file}; give the volunteer's node.pub")
        public = certificates.read_public_key(key_file.read_bytes(), str(key_file))
        key = certificates.key_name(public)
        twin = next((n for n, row in machines.items() if row["key"] == key), None)
        if twin is not None:
            raise UserError(f"this key is registered already, for {twin}; one key, one machine")
        node_id = self.control.register(public, name, location)
        machines[name] = {"node": node_id, "key": key, "location": location}
        self._write("machines.json", machines)
        return node_id

    def remove(self, name: str) -> None:
        """Let a machine in no more.

        Raises:
            UserError: if there is none of that name.
        """
        machines = self.machines()
        if name not in machines:
            raise UserError(f"no machine called {name}; `fedhive deploy machines` lists them")
        self.control.unregister(int(machines[name]["node"]))
        del machines[name]
        self._write("machines.json", machines)

    # ---- the SuperLink ------------------------------------------------------------------------

    def command(self) -> list[str]:
        """The command that is its SuperLink."""
        settings = self.settings
        return [
            sys.executable, "-m", "fedhive.deploy.superlink",
            "--ssl-ca-certfile", str(self.authority),
            "--ssl-certfile", str(self.home / "server.pem"),
            "--ssl-keyfile", str(self.home / "server.key"),
            "--enable-supernode-auth", "--disable-runtime-dependency-installation",
            "--host", settings.host, "--port", str(settings.port),
            "--database", str(self.home / "state.db"),
        ]  # fmt: skip

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The SuperLink, ready to be talked to; stopped on leaving.

        Raises:
            UserError: if something is wrong with its files, the port is taken, or it does not
                start.
        """
        found = self.problems()
        if found:
            raise UserError(found[0])
        _check_free(self.settings.host, self.settings.port)
        with open(self.home / "superlink.log", "ab") as log:
            flower = flower_environment(self.home / "flower")
            process = subprocess.Popen(
                self.command(), cwd=self.home,
                env={**flower, SUBMISSIONS: str(self.submissions)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._await(process)
            yield process
        finally:
            _end(process)

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START_PATIENCE_S
        while process.poll() is None and time.monotonic() < until:
            if not self.unreachable():
                return
            time.sleep(0.2)
        raise UserError(f"the SuperLink did not start; see {self.home / 'superlink.log'}")

    def unreachable(self) -> str:
        """Why the SuperLink cannot be reached from here; empty if it can."""
        return unreachable(self._here, self.settings.port, self.authority)

    def _write(self, name: str, value: Any) -> None:
        path = self.home / name
        temporary = path.with_name(f".{name}.tmp")
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)


def unreachable(host: str, port: int, authority: Path, timeout_s: float = 10.0) -> str:
    """Why no trusted connection to a hive is possible, in plain words; empty if one is."""
    context = ssl.create_default_context(cafile=str(authority))
    name = host.strip("[]")
    try:
        with socket.create_connection((name, port), timeout_s) as plain:
            context.wrap_socket(plain, server_hostname=name).close()
    except ssl.SSLCertVerificationError as error:
        if "expired" in error.verify_message:
            return (
                "the hive's certificate has expired; its operator has to run `fedhive deploy "
                "certify` and start it again"
            )
        if "mismatch" in error.verify_message or "not valid for" in error.verify_message:
            return (
                f"the hive's certificate does not name {name}; its operator has to run `fedhive "
                f"deploy certify --also {name}`"
            )
        return (
            "whoever answers there is not this hive: its certificate was signed by another "
            "authority. Ask the operator for a new invitation; if theirs has not changed, "
            "somebody is in between, and you should not join from this network"
        )
    except ssl.SSLError as error:
        return f"no TLS connection to {joined(host, port)} is possible ({error.reason or error})"
    except OSError as error:
        return (
            f"nobody answers at {joined(host, port)} ({error.strerror or error}); is the network "
            "up, and the hive?"
        )
    return ""


def joined(host: str, port: int) -> str:
    """``host:port``, with brackets around IPv6 addresses."""
    try:
        six = ipaddress.ip_address(host).version == 6
    except ValueError:
        six = False
    return f"[{host}]:{port}" if six else f"{host}:{port}"


def parted(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    Raises:
        UserError: if it is not that.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"{address!r} is no address; write it as host:port, e.g. hive.org:9443")
    return host.strip("[]"), int(port)


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {joined(host, port)} ({error.strerror}); is a SuperLink "
                "running already? Else choose another --address"
            ) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and those it started."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(15.0)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
