"""Keeping a SuperNode alive: with a stand-in for the SuperNode and a clock that jumps."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedhive.errors import UserError
from fedhive.join.command import main, read_invitation
from fedhive.join.folder import Folder, this_month
from fedhive.join.reasons import trouble_in
from fedhive.join.settings import Limits, Settings, load
from fedhive.join.supervisor import BACK_OFF_S, LINGER_S, SILENCE_S, Supervisor
from fedhive.join.usage import Usage


class Computer:
    """Somebody's laptop."""

    mains = True

    def on_mains(self) -> bool:
        return self.mains

    def idle_s(self) -> float:
        return 1e9

    def busy_percent(self) -> float:
        return 0.0

    def programs(self) -> set[str]:
        return set()


class Watched(Supervisor):
    """A supervisor whose SuperNode is a process that only sleeps."""

    def __init__(self, folder: Folder, **more: Any) -> None:
        self.time, self.blocked, self.starts = 1e6, "", 0
        super().__init__(
            folder, Settings("h", "127.0.0.1:1", "ann", sandbox=False, **more), Computer(),
            lambda: self.blocked, lambda: self.time,
        )  # fmt: skip
        folder.state.mkdir(parents=True, exist_ok=True)
        folder.node_log.touch()

    def _start(self) -> None:
        if self.blocked:
            super()._start()
            return
        self.starts += 1
        code = "import time; time.sleep(1000)"
        self.child = subprocess.Popen([sys.executable, "-c", code])
        self._asked_to_leave, self._started = False, self.time
        self._log_at = self.folder.node_log.stat().st_size
        self.set("connecting", "")

    def beats(self, busy: bool = False) -> None:
        row = {"pid": self._pid(), "beat": self.time, "busy": busy}
        self.folder.pulse_path.write_text(json.dumps(row))

    def crash(self, said: str = "") -> None:
        assert self.child is not None
        with open(self.folder.node_log, "a") as log:
            log.write(said)
        self.child.kill()
        self.child.wait()


@pytest.fixture
def ann(tmp_path: Path):
    made = Watched(Folder(tmp_path))
    yield made
    made.end_child(kill=True)


def test_it_starts_and_tells(ann: Watched) -> None:
    assert ann.tick()
    assert (ann.state, ann.starts) == ("connecting", 1)
    ann.beats()
    ann.tick()
    assert ann.state == "ready"
    ann.beats(busy=True)
    ann.tick()
    status = json.loads((ann.folder.state / "status.json").read_text())
    assert (status["state"], status["hive"]) == ("working", "h")


def test_after_a_crash_it_waits_for_a_minute_and_then_longer(ann: Watched) -> None:
    ann.tick()
    ann.crash()
    ann.tick()
    assert ann.state == "waiting"
    assert "exit status -9" in ann.reason
    ann.time += BACK_OFF_S - 1.0
    ann.tick()
    assert ann.starts == 1
    ann.time += 0.1 * BACK_OFF_S + 1.0
    ann.tick()
    assert ann.starts == 2
    ann.crash()
    ann.tick()
    ann.time += 1.2 * BACK_OFF_S
    ann.tick()
    assert ann.starts == 2  # twice as long the second time
    ann.time += BACK_OFF_S
    ann.tick()
    assert ann.starts == 3


def test_what_went_wrong_is_read_from_what_flower_wrote(ann: Watched) -> None:
    ann.tick()
    ann.crash("[code: 2004] Failed to activate SuperNode.\nfedhive: this key is not registered\n")
    ann.tick()
    assert "does not know this machine's key" in ann.reason
    assert "does not know" in ann.folder.people_log.read_text()
    ann.time += 300.0
    ann.tick()
    assert ann.starts == 1  # there is no hurry


def test_a_dead_supernode_is_started_anew_but_only_if_the_hive_can_be_reached(
    ann: Watched,
) -> None:
    ann.tick()
    ann.beats()
    ann.tick()
    ann.blocked = "nobody answers"
    ann.time += SILENCE_S + 1.0
    ann.tick()
    assert (ann.state, ann.reason) == ("offline", "nobody answers")
    assert ann.child is not None  # it keeps its finished work
    ann.blocked = ""
    ann.tick()
    assert ann.child is None
    assert ann.state == "waiting"
    ann.time += 1.2 * BACK_OFF_S
    ann.tick()
    assert ann.starts == 2


def test_without_a_network_nothing_is_started(ann: Watched) -> None:
    ann.blocked = "nobody answers"
    ann.tick()
    assert (ann.state, ann.starts) == ("offline", 0)
    ann.blocked = ""
    ann.time += 16.0
    ann.tick()
    assert ann.starts == 1


def test_on_battery_it_leaves_and_comes_back_after_a_while(ann: Watched) -> None:
    ann.tick()
    ann.computer.mains = False
    ann.tick()
    assert (ann.state, ann.reason, ann.child) == ("paused", "on battery", None)
    ann.computer.mains = True
    ann.time += LINGER_S - 1.0
    ann.tick()
    assert ann.starts == 1
    ann.time += 2.0
    ann.tick()
    assert ann.starts == 2


def test_pause_and_resume(ann: Watched) -> None:
    ann.tick()
    ann.folder.want("pause")
    ann.tick()
    assert (ann.state, ann.child) == ("paused", None)
    ann.folder.want("resume")
    ann.tick()
    assert ann.starts == 2


def test_finish_waits_for_the_work_in_hand(ann: Watched) -> None:
    ann.tick()
    sent: list[int] = []
    assert ann.child is not None
    ann.child.send_signal = sent.append  # type: ignore[method-assign, assignment]
    ann.folder.want("finish")
    assert ann.tick()
    assert ann.tick()
    assert sent == [signal.SIGUSR1]  # asked once
    assert ann.state == "finishing"
    os.kill(ann.child.pid, signal.SIGKILL)
    ann.child.wait()
    assert not ann.tick()
    assert ann.state == "stopped"


def test_stop(ann: Watched) -> None:
    ann.tick()
    ann.folder.want("stop")
    assert not ann.tick()


def test_the_monthly_quota(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    made = Watched(folder, limits=Limits(monthly_gb=0.001))
    usage = Usage(folder.usage_path, upload_mbps=8.0, sleep=(slept := []).append)
    usage.traffic(900_000, 0)
    made.tick()
    assert made.starts == 1
    usage.traffic(0, 100_000)
    made.tick()
    assert made.reason == "this month's network quota is used up"
    assert slept == [0.9]  # 900 kB at 8 Mbit/s
    found = json.loads(folder.usage_path.read_text())
    assert found["month"] == this_month()
    folder.usage_path.write_text(json.dumps({**found, "month": "2001-01"}))
    assert folder.traffic_bytes() == 0


def test_only_one_works_from_a_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert not folder.running
    with folder.lock():
        assert folder.running
        with pytest.raises(UserError, match="running already"), folder.lock():
            pass
    assert not folder.running


def test_the_order_holds_no_secret_of_its_owner(tmp_path: Path) -> None:
    made = Supervisor(Folder(tmp_path), Settings("h", "a:1", "ann", sandbox=False))
    order = made.order()
    assert "HOME" in order["environment"]
    assert not set(order["environment"]) & {"SSH_AUTH_SOCK", "AWS_SECRET_ACCESS_KEY"}
    assert order["worker"][:2] == [sys.executable, "-I"]
    assert "partition-id" not in order["node_config"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[91mERROR[0m [code: 2004] Failed to activate SuperNode.", "either its key is not"),
        ("fedhive: a machine with this key is here", "takes this machine to be there already"),
        ("certificate verify failed: certificate has expired", "has expired"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed", "another authority"),
    ],
)
def test_reasons(text: str, said: str) -> None:
    found = trouble_in(text)
    assert found is not None
    assert said in found.text
    assert found.wait_s >= 65.0


def test_no_reason() -> None:
    assert trouble_in("INFO: all is well") is None


# ---- the command ---------------------------------------------------------------------------


@pytest.fixture
def invitation(tmp_path: Path) -> Path:
    from fedhive.deploy.hive import Hive
    from fedhive.deploy.hive import Settings as Made

    hive = Hive(tmp_path / "hive")
    hive.create(Made("bees", "127.0.0.1", 9443, ("hive.example.org",)))
    path = tmp_path / "invitation.json"
    path.write_text(json.dumps(hive.invitation()))
    return path


def joined(home: Path, invitation: Path, *words: str) -> Folder:
    main([str(invitation), "--home", str(home), "--prepare", "--yes", "--no-sandbox", *words])
    return Folder(home)


def test_joining_asks_and_writes(
    tmp_path: Path, invitation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "join"
    with pytest.raises(UserError, match="add --yes"):
        main([str(invitation), "--home", str(home), "--prepare", "--no-sandbox"])
    assert not home.exists()
    folder = joined(home, invitation, "--name", "ann")
    told = capsys.readouterr().out
    assert "Your data stay here" in told
    assert "WITHOUT a sandbox" in told
    assert folder.settings.hive == "bees"
    assert stat.S_IMODE(folder.key.stat().st_mode) == 0o600
    main(["key", "--home", str(home)])
    assert capsys.readouterr().out == folder.public_key.read_text()
    private = folder.key.read_bytes()
    joined(home, invitation)  # a new certificate: the key and the configuration stay
    assert folder.key.read_bytes() == private
    assert load(folder.config).name == "ann"
    folder.key.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        _ = folder.settings


def test_status_before_it_runs(
    tmp_path: Path, invitation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joined(tmp_path / "j", invitation)
    capsys.readouterr()
    main(["status", "--json", "--home", str(tmp_path / "j")])
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    with pytest.raises(UserError, match="not running"):
        main(["pause", "--home", str(tmp_path / "j")])


def test_service_and_uninstall(
    tmp_path: Path, invitation: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "system", lambda command: 0)
    home = tmp_path / "j"
    joined(home, invitation)
    main(["service", "--write", "--home", str(home)])
    unit = tmp_path / ".config/systemd/user/fedhive-join.service"
    assert f"--home {home}" in unit.read_text()
    assert "NoNewPrivileges=yes" in unit.read_text()
    main(["uninstall", "--home", str(home)])
    assert not unit.exists()
    assert not home.exists()
    assert "removed" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{}", '{"fedhive-invitation": 2, "hive": 1}'])
def test_what_is_no_invitation(tmp_path: Path, text: str) -> None:
    path = tmp_path / "i.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no invitation"):
        read_invitation(path)


def test_an_invitation_of_another_hive_is_refused(tmp_path: Path, invitation: Path) -> None:
    joined(tmp_path / "j", invitation)
    other = json.loads(invitation.read_text()) | {"address": "elsewhere.org:9443"}
    invitation.write_text(json.dumps(other))
    with pytest.raises(UserError, match="belongs to the hive bees"):
        joined(tmp_path / "j", invitation)


def test_status_tells_why_it_stopped(ann: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr("fedhive.join.supervisor.TICK_S", 0.0)

    def tick() -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(ann, "tick", tick)
    try:
        ann.run()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    found = ann.folder.status()
    assert (found["state"], found["reason"]) == ("stopped", "told to stop")
