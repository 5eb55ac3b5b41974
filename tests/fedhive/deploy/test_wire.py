"""What a run's server tells, what is believed of it, and what travels to other machines."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from fedhive.compose import compose
from fedhive.deploy.bundle import app_files
from fedhive.deploy.wire import MARK, PIECE, Courier, said, understood, unpack
from fedhive.engines.deployment import DeploymentEngine, Follower
from fedhive.errors import UserError
from fedhive.launch import launch, resume
from fedhive.results.rundir import RunDir


def test_a_directory_travels_through_a_log(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    lines: list[str] = []
    courier = Courier(there, lines.append)
    big = bytes(range(256)) * (PIECE // 100)
    (there / "rounds.jsonl").write_bytes(b'{"round": 1}\n')
    courier.start({}, there, None)
    courier.round({})  # nothing new
    assert len(lines) == 1
    with open(there / "rounds.jsonl", "ab") as file:
        file.write(b'{"round": 2}\n')
    courier.round({})
    (there / "model.npz").write_bytes(big)
    (there / "secret.txt").write_text("stays")
    courier.finish({})
    courier.deliver()
    for line in lines:
        piece = understood(f"INFO: {line}")
        assert piece is not None
        unpack(here, piece)
    assert {path.name for path in here.iterdir()} == {"rounds.jsonl", "model.npz"}
    for name in ("rounds.jsonl", "model.npz"):
        assert (here / name).read_bytes() == (there / name).read_bytes()


def piece(name: object, at: object = 0, data: bytes = b"x") -> dict[str, Any]:
    return {"name": name, "at": at, "data": base64.b64encode(zlib.compress(data)).decode()}


@pytest.mark.parametrize("name", ["../x", "/etc/x", "checkpoint/state.npz", "x.py", None, 5, ""])
def test_a_server_writes_no_other_files(tmp_path: Path, name: object) -> None:
    with pytest.raises(UserError, match="refused"):
        unpack(tmp_path, piece(name))
    assert not list(tmp_path.iterdir())


def test_pieces_in_the_wrong_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="incomplete"):
        unpack(tmp_path, piece("rounds.jsonl", 5))


def test_a_piece_cannot_explode(tmp_path: Path) -> None:
    unpack(tmp_path, piece("model.npz", 0, bytes(100 * PIECE)))
    assert (tmp_path / "model.npz").stat().st_size == PIECE


@pytest.mark.parametrize("line", ["", "hello", f"{MARK} {{", f"{MARK} []", f'{MARK} {{"a": 1}}'])
def test_other_lines_say_nothing(line: str) -> None:
    assert understood(line) is None


class Control:
    """A SuperLink whose log is known beforehand."""

    def __init__(self, *lines: str, status: str = "finished:failed", gone: bool = False) -> None:
        self.lines, self.state, self.gone = lines, status, gone

    def log(self, run_id: int):
        yield from self.lines
        if self.gone:
            raise ConnectionError("reset")

    def status(self, run_id: int) -> tuple[str, str]:
        return self.state, "details"


def followed(folder: Path, control: Any) -> Any:
    follower = Follower(RunDir(folder))
    rounds: list[Any] = []
    follower.follow(control, 1, rounds.append)
    return follower.result(control, 1), rounds


def test_a_run_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = {"kind": "here", "t_s": 3.0, "who": "ann", "what": ""}
    summary = {"kind": "file", **piece("summary.json", 0, b'{"accuracy": 0.5}')}
    control = Control(
        "INFO: Start", said("note", row=note), said("round", record={"round": 1}),
        f"{MARK} {json.dumps(summary)}", said("ended"),
    )  # fmt: skip
    result, rounds = followed(tmp_path, control)
    assert result == {"accuracy": 0.5}
    assert rounds == [{"round": 1}]
    assert "3.0 s  ann is here" in capsys.readouterr().err


def test_what_ended_a_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only 1 of 2 machines came"):
        followed(tmp_path, Control(said("mistake", text="only 1 of 2 machines came")))
    with pytest.raises(UserError, match="before the first round"):
        followed(tmp_path, Control(gone=True))
    with pytest.raises(UserError, match="was stopped"):
        followed(tmp_path, Control(status="finished:stopped"))
    with pytest.raises(RuntimeError, match="finished:failed: details\nTraceback"):
        followed(tmp_path, Control("Traceback"))
    (tmp_path / "rounds.jsonl").write_text('{"round": 1}\n')
    with pytest.raises(UserError, match=f"after round 1.*fedhive resume {tmp_path}"):
        followed(tmp_path, Control(gone=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["engine.superlink=a:1"], "needs root_certificates"),
        (["engine.superlink=a", "engine.root_certificates=x"], "no address"),
        (["engine.least=3"], "more than nodes=2"),
        (["engine.least=0"], "at least 1"),
        (["engine.home=none"], "holds no hive"),
        (["engine.wait_s=0"], "above 0"),
    ],
)
def test_mistakes_are_found_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose(["data=synthetic", "nodes=2", "engine=deployment", *options])
    with pytest.raises(UserError, match=said):
        launch(cfg, tmp_path / "run")
    with pytest.raises(UserError, match="holds no run"):
        resume(tmp_path / "run")


def test_a_run_that_does_not_say_where_it_was_cannot_go_on(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_json("config.json", {"engine": {"_target_": "x"}})
    with pytest.raises(UserError, match=r"submission\.json is missing"):
        DeploymentEngine.resume(run)


def test_only_our_packages_travel() -> None:
    files = app_files()
    assert {name.split("/")[0] for name in files} == {
        "pyproject.toml", "fedhive", "strategies", "defenses", "attacks", "conf",
    }  # fmt: skip
    assert not [name for name in files if name.startswith("conf/local/")]
    assert sum(map(len, files.values())) < 6 << 20
    with pytest.raises(UserError, match="does not travel"):
        app_files("mine.app:client")
