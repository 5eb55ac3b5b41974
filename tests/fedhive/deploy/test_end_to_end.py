"""A real hive on this machine: SuperLink, TLS, keys, volunteers in their sandboxes, a run."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from experiments.real_hive.loopback import Loopback, until
from fedhive.compose import compose
from fedhive.errors import UserError
from fedhive.join import sandbox
from fedhive.launch import launch
from fedhive.results.rundir import RunDir

RUN = (
    "data=synthetic", "data.n=400", "model=softmax_regression", "partition=iid", "nodes=2",
    "rounds=2", "progress=false",
)  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fedhive join is for Linux")
def test_a_hive_trains_to_the_same_bits_as_its_simulation(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hive = Loopback(tmp_path, sandbox=not sandbox.missing())
    with hive.whole():
        hive.start_superlink()
        hive.enlist("ann", 0)
        hive.enlist("bob", 1)
        hive.enlist("eve", register=False)
        for name in ("ann", "bob", "eve"):
            hive.join(name)
        cfg = compose([*RUN, "engine=deployment", f"engine.home={hive.home}"])
        real = launch(cfg, tmp_path / "run")
        until(lambda: "does not know this machine's key" in hive.log("eve"), 60, hive.say_logs)
        until(lambda: hive.state("ann").get("tasks") == 3, 20)  # what it is, and two rounds
        assert hive.state("ann")["traffic_gb"] > 0
    assert "ann is here" in capfd.readouterr().err
    run = RunDir(tmp_path / "run")
    assert [row["declared"]["partition"] for row in run.machines()] == [0, 1]
    assert {event["status"] for event in run.events()} == {"accepted"}
    assert str(tmp_path) not in (run.path / "config.json").read_text()
    with pytest.raises(UserError, match="cannot be reached"):
        launch(cfg, tmp_path / "too_late")

    twin = launch(compose([*RUN, "engine=local"]), tmp_path / "twin")
    assert real["engine"] == "deployment"
    assert real["model_sha256"] == twin["model_sha256"]
    assert real["accuracy"] == twin["accuracy"]

    trace = run.path / "availability.csv"
    with open(trace) as file:
        assert {row["node"] for row in csv.DictReader(file)} == {"0", "1"}
    words = [f"availability.path={trace}", "availability.length_column=watched_s"]
    launch(compose([*RUN, "availability=csv", *words]), tmp_path / "replay")
    assert len(RunDir(tmp_path / "replay").rounds()) == 2
