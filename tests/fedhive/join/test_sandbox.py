"""What a hostile ClientApp can do inside the sandbox: nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedhive.errors import UserError
from fedhive.join import sandbox
from fedhive.join.relay import serve_socket
from fedhive.join.supervisor import end_family

HOSTILE = r"""
import json, os, socket, sys
def attempt(name, action):
    try:
        found[name] = action() or "DONE"
    except BaseException as error:
        found[name] = "refused: " + type(error).__name__
def dial(*address):
    socket.create_connection(address, 2).close()
def secret_name(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
found = {}
home, port, nosy, outside = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
attempt("shadow", lambda: open("/etc/shadow").read())
attempt("passwd", lambda: open("/etc/passwd").read())
attempt("home", lambda: os.listdir(home))
attempt("key", lambda: open(home + "/node").read())
attempt("write usr", lambda: open("/usr/x", "w"))
attempt("write root", lambda: open("/x", "w"))
attempt("write python", lambda: open(sys.prefix + "/x", "w"))
attempt("host tmp", lambda: open(nosy).read())
attempt("internet", lambda: dial("1.1.1.1", 53))
attempt("this machine's ports", lambda: dial("127.0.0.1", port))
attempt("name", lambda: socket.getaddrinfo("example.org", 80))
attempt("abstract socket", lambda: secret_name("\0fedhive-test"))
attempt("kill", lambda: os.kill(outside, 9))
attempt("processes", lambda: open(f"/proc/{outside}/environ").read())
attempt("mount", lambda: __import__("ctypes").CDLL(None, use_errno=True).mount(
    b"none", b"/tmp", b"tmpfs", 0, None) and 1 / 0)
attempt("namespace", lambda: __import__("ctypes").CDLL(None).unshare(0x10000000) and 1 / 0)
attempt("environment", lambda: os.environ["FEDHIVE_SECRET"])
attempt("scratch", lambda: open("/tmp/mine", "w").write("x") and None)
attempt("socket", lambda: secret_name("/run/fedhive/node.sock"))
attempt("data", lambda: open(sys.argv[5] + "/d").read())
attempt("write data", lambda: open(sys.argv[5] + "/d", "w"))
print(json.dumps(found))
"""
ALLOWED = {"scratch": "DONE", "socket": "DONE", "data": "mine"}

needs_sandbox = pytest.mark.skipif(
    bool(sandbox.missing()), reason=f"no sandbox here: {sandbox.missing()}"
)


@needs_sandbox
def test_a_hostile_client_app_finds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDHIVE_SECRET", "x")
    home = tmp_path / "join"
    home.mkdir()
    (home / "node").write_text("PRIVATE")
    data = tmp_path / "data"
    data.mkdir()
    (data / "d").write_text("mine")
    nosy = Path(f"/tmp/fedhive-nosy-{os.getpid()}")
    nosy.write_text("private")
    script = tmp_path / "hostile.py"
    script.write_text(HOSTILE)
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0fedhive-test")
    abstract.listen()
    short = Path(f"/tmp/fh{os.getpid()}.sock")  # a socket's path is short
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            serve_socket(short, port)
            inside = {
                script: sandbox.INSIDE / "hostile.py", short: sandbox.INSIDE / "node.sock",
            }  # fmt: skip
            words = [str(home), str(port), str(nosy), str(os.getpid()), str(data)]
            command = sandbox.command(
                [sys.executable, "-I", str(inside[script]), *words], {"PATH": "/usr/bin"},
                read=[data], mounts=inside, disk_bytes=1 << 20,
            )  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        nosy.unlink()
        short.unlink(missing_ok=True)
        abstract.close()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    got = {name: said for name, said in found.items() if not said.startswith("refused")}
    assert got == ALLOWED
    assert not Path("/usr/x").exists()
    assert (data / "d").read_text() == "mine"


@needs_sandbox
def test_the_private_disk_is_full_where_its_limit_is(tmp_path: Path) -> None:
    code = "open('/tmp/big', 'wb').write(bytes(1 << 22))"
    command = sandbox.command([sys.executable, "-I", "-c", code], {}, disk_bytes=1 << 20)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "No space left" in done.stderr


@needs_sandbox
def test_the_sandbox_ends_with_whoever_made_it(tmp_path: Path) -> None:
    command = sandbox.command(["/bin/sleep", "1000"], {})
    process = subprocess.Popen(command)
    time.sleep(0.5)
    end_family(process.pid)
    assert process.wait(10) != 0


def test_without_bubblewrap_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.missing.cache_clear()
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    said = sandbox.missing()
    sandbox.missing.cache_clear()
    assert "not installed" in said
    assert "apt install bubblewrap" in said
    assert "sandbox = false" in said


def test_where_namespaces_are_forbidden_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.missing.cache_clear()
    fake = tmp_path / "bwrap"
    fake.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    said = sandbox.missing()
    sandbox.missing.cache_clear()
    assert "No permissions to create new namespace" in said
    assert "unprivileged_userns_clone" in said


def test_a_volunteer_without_sandbox_is_refused_or_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedhive.join import consent
    from fedhive.join.folder import Folder
    from fedhive.join.settings import Settings
    from fedhive.join.supervisor import Supervisor

    monkeypatch.setattr(sandbox, "missing", lambda: "there is none")
    settings = Settings("h", "127.0.0.1:1", "ann")
    with pytest.raises(UserError, match="refused: there is none"):
        consent.ask(settings, "AA", "c.toml", agreed=True)
    with pytest.raises(UserError, match="refused to run the hive's code: there is none"):
        Supervisor(Folder(tmp_path), settings).run()
    without = Settings("h", "127.0.0.1:1", "ann", sandbox=False)
    consent.ask(without, "AA", "c.toml", agreed=True)
    assert "WITHOUT a sandbox" in capsys.readouterr().out


def test_the_relay_carries_bytes_both_ways(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        connection, _ = server.accept()
        connection.sendall(connection.recv(100).upper())
        connection.close()

    threading.Thread(target=echo, daemon=True).start()
    path = Path(f"/tmp/fh{os.getpid()}e.sock")
    serve_socket(path, server.getsockname()[1])
    assert path.stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
        assert client.recv(100) == b""
    path.unlink()
    server.close()
