"""What an operator types, as far as no SuperLink is needed."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from fedhive import cli
from fedhive.deploy.command import main
from fedhive.deploy.hive import Hive, Settings
from fedhive.errors import UserError


@pytest.fixture
def hive(tmp_path: Path) -> Hive:
    made = Hive(tmp_path / "hive")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made.create(Settings("bees", "127.0.0.1", port, ("127.0.0.1",)))
    return made


def do(hive: Hive, *words: str) -> None:
    main([*words, "--home", str(hive.home)])


def test_check_and_certify(hive: Hive, capsys: pytest.CaptureFixture[str]) -> None:
    do(hive, "check")
    assert "more days" in capsys.readouterr().out
    do(hive, "certify", "--also", "hive.example.org")
    assert "hive.example.org" in hive.settings.names
    do(hive, "invite", str(hive.home / "for-ann.json"))
    found = json.loads((hive.home / "for-ann.json").read_text())
    assert (found["hive"], found["fedhive-invitation"]) == ("bees", 1)
    (hive.home / "server.key").chmod(0o604)
    (hive.home / "ca.key").chmod(0o640)
    with pytest.raises(UserError, match=r"server\.key can be read by others"):
        do(hive, "check")
    assert "ca.key can be read by others" in capsys.readouterr().err


def test_a_new_authority_needs_new_invitations(
    hive: Hive, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hive.invitation()["authority"]
    do(hive, "certify", "--new-authority")
    assert "volunteers need the new" in capsys.readouterr().out
    assert hive.invitation()["authority"] != before
    assert hive.problems() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["register"], "usage: fedhive deploy register"),
        (["register", "none.pub", "--as", "ann"], "no file none.pub"),
        (["register", "x.pub", "--as", "ann", "--location", "91,0"], "latitude,longitude"),
        (["register", "x.pub", "--as", "ann", "--location", "here"], "latitude,longitude"),
        (["remove"], "usage: fedhive deploy remove"),
        (["remove", "ann"], "no machine called ann"),
        (["status"], "nobody answers"),
        (["machines"], "cannot be reached"),
        (["begin"], "no `fedhive deploy begin`"),
        (["check", "--port", "5"], "unrecognized arguments"),
    ],
)
def test_mistakes_are_answered(hive: Hive, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        do(hive, *words)


def test_a_private_key_is_never_registered(hive: Hive, tmp_path: Path) -> None:
    from fedhive.deploy.certificates import make_node_key

    (tmp_path / "node").write_bytes(make_node_key()[0])
    with pytest.raises(UserError, match="PRIVATE key"):
        do(hive, "register", str(tmp_path / "node"), "--as", "ann")


def test_commands_for_elsewhere(hive: Hive, capsys: pytest.CaptureFixture[str]) -> None:
    do(hive, "print")
    told = capsys.readouterr().out
    assert "--enable-supernode-auth" in told
    assert "/v1/fleet/" in told


@pytest.mark.parametrize("command", ["deploy", "join"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"fedhive {command} " in capsys.readouterr().out
    assert f"fedhive {command} " in cli.USAGE


def test_everything_in_the_folder_is_private(hive: Hive) -> None:
    assert hive.home.stat().st_mode & 0o077 == 0
    for name in ("ca.key", "server.key"):
        assert (hive.home / name).stat().st_mode & 0o077 == 0
