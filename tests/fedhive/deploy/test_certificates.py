"""A hive's certificates, checked by Python's own TLS."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from fedhive.deploy import certificates as c
from fedhive.deploy.hive import Hive, Settings, joined, parted, unreachable
from fedhive.errors import UserError


@pytest.fixture(scope="module")
def authority() -> tuple[bytes, bytes]:
    return c.make_authority("test")


class Server:
    """A TLS server that only shakes hands."""

    def __init__(self, folder: Path, server: tuple[bytes, bytes]) -> None:
        for name, data in zip(("pem", "key"), server, strict=True):
            (folder / name).write_bytes(data)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "pem", folder / "key")
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                plain, _ = self.socket.accept()
            except OSError:
                return
            try:
                self.context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()


def dialled(folder: Path, server: tuple[bytes, bytes], trusted: bytes) -> str:
    (folder / "ca").write_bytes(trusted)
    running = Server(folder, server)
    try:
        return unreachable("127.0.0.1", running.port, folder / "ca", 5.0)
    finally:
        running.socket.close()


def test_a_volunteer_trusts_its_hive(tmp_path: Path, authority: tuple[bytes, bytes]) -> None:
    server = c.make_server(*authority, ["hive.example.org", "127.0.0.1"])
    assert dialled(tmp_path, server, authority[0]) == ""
    assert c.problems(authority[0], server[0], ["hive.example.org", "127.0.0.1"]) == []


@pytest.mark.parametrize(
    ("names", "days", "own", "said"),
    [
        (["127.0.0.1"], 100, False, "another authority"),
        (["127.0.0.1"], -1, True, "has expired"),
        (["hive.example.org"], 100, True, "does not name 127.0.0.1"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, authority: tuple[bytes, bytes], names: list[str], days: float, own: bool,
    said: str,
) -> None:  # fmt: skip
    signer = authority if own else c.make_authority("another")
    server = c.make_server(*signer, names, days)
    assert said in dialled(tmp_path, server, authority[0])
    [found] = c.problems(authority[0], server[0], ["127.0.0.1"])
    assert "fedhive deploy certify" in found


def test_nobody_answers(tmp_path: Path, authority: tuple[bytes, bytes]) -> None:
    (tmp_path / "ca").write_bytes(authority[0])
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert "nobody answers" in unreachable("127.0.0.1", port, tmp_path / "ca", 2.0)


def test_the_authority_cannot_make_authorities(authority: tuple[bytes, bytes]) -> None:
    certificate = x509.load_pem_x509_certificate(authority[0])
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert basic.value.ca
    assert basic.value.path_length == 0
    leaf = x509.load_pem_x509_certificate(c.make_server(*authority, ["::1"])[0])
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_server_outlives_no_authority() -> None:
    authority = c.make_authority("short", 3.0)
    assert 2.9 < c.days_left(c.make_server(*authority, ["a.org"])[0]) <= 3.0


def test_names_must_be_names(authority: tuple[bytes, bytes]) -> None:
    with pytest.raises(UserError, match="neither a host name nor"):
        c.make_server(*authority, ["hïve.org"])
    with pytest.raises(UserError, match="at least one"):
        c.make_server(*authority, [])


def test_only_public_keys_are_registered() -> None:
    private, public = c.make_node_key()
    assert c.read_public_key(public + b"comment", "f") == public.strip()
    assert c.key_name(public) == c.key_name(public.strip() + b" ann@home")
    with pytest.raises(UserError, match="PRIVATE key"):
        c.read_public_key(private, "f")
    with pytest.raises(UserError, match="no public key of the kind"):
        c.read_public_key(b"ssh-ed25519 AAAA nonsense", "f")


def test_private_files_are_private_at_once(tmp_path: Path) -> None:
    c.write_private(tmp_path / "deep" / "key", b"x")
    assert stat.S_IMODE((tmp_path / "deep" / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


def test_a_hive_checks_itself(tmp_path: Path) -> None:
    hive = Hive(tmp_path / "h")
    with pytest.raises(UserError, match="holds no hive"):
        _ = hive.settings
    hive.create(Settings("h", "127.0.0.1", 9443, ("hive.example.org",)))
    assert hive.problems() == []
    assert hive.invitation()["address"] == "hive.example.org:9443"
    assert "PRIVATE" not in str(hive.invitation())
    old = hive.authority.read_bytes()
    hive.certify(["other.example.org"])
    assert hive.problems() == []
    assert hive.authority.read_bytes() == old
    (hive.home / "ca.key").chmod(0o644)
    assert "chmod 600" in hive.problems()[0]
    (hive.home / "ca.crt").write_bytes(c.make_authority("stranger")[0])
    assert any("not signed by this authority" in line for line in hive.problems())
    with pytest.raises(UserError, match="holds a hive already"):
        hive.create(Settings("h", "127.0.0.1", 9443, ("hive.example.org",)))


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        hive = Hive(tmp_path / "h")
        hive.create(Settings("h", "127.0.0.1", other.getsockname()[1], ("localhost",)))
        with pytest.raises(UserError, match="running already"), hive.running():
            pass


def test_addresses() -> None:
    assert parted("[::1]:9443") == ("::1", 9443)
    assert joined("::1", 9443) == "[::1]:9443"
    assert joined("hive.org", 1) == "hive.org:1"
    for wrong in ("hive.org", "hive.org:x", ":1", "a:99999"):
        with pytest.raises(UserError, match="no address"):
            parted(wrong)
