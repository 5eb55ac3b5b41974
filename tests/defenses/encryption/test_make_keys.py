from __future__ import annotations

from pathlib import Path

import pytest

from defenses.encryption.keys_committee import Committee
from defenses.encryption.keys_shared import Shared
from defenses.encryption.make_keys import main


def test_a_committees_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    public = {}
    for name in ("server", "7", "12", "3"):
        assert main(["private", str(tmp_path / name)]) == 0
        public[name] = capsys.readouterr().out.strip()
    members = [f"{node}={public[node]}" for node in ("12", "3", "7")]
    where = str(tmp_path / "roster.json")
    command = ["roster", where, "--threshold", "3", "--server", public["server"], *members]
    assert main(command) == 0
    said = capsys.readouterr().out
    keys = Committee(where, str(tmp_path / "server"))
    assert keys.members == (3, 7, 12)
    assert keys.tolerates == 2
    assert said.startswith(f"committee {keys.key_id.hex()}: 3 members, 3 open sums, 2 may")


def test_shared_keys_files(tmp_path: Path) -> None:
    key, verification = str(tmp_path / "key"), str(tmp_path / "verification")
    assert main(["shared", key, verification]) == 0
    assert Shared(key, holder=1).key_id == Shared(verification, holder=1).key_id


@pytest.mark.parametrize(
    ("members", "threshold", "message"),
    [
        (["a=" + "0" * 64], "1", "node=public-key"),
        (["1=" + "0" * 64, "1=" + "1" * 64], "2", "every node once"),
        (["1=xyz"], "1", "no public key"),
        ([f"{i}=" + f"{i}" * 64 for i in (1, 2, 3)], "1", "more than half"),
    ],
)
def test_mistakes_are_told_in_a_line(
    members: list[str], threshold: str, message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "roster.json"
    command = ["roster", str(path), "--threshold", threshold, "--server", "a" * 64, *members]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not path.exists()


def test_files_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    path.write_text("mine")
    assert main(["private", str(path)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert path.read_text() == "mine"
