"""Encryption on a real SuperLink with two volunteers, to the bits of the plain reference here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments.real_hive.loopback import Loopback
from fedhive.compose import compose
from fedhive.join import sandbox
from fedhive.launch import launch
from fedhive.results.rundir import RunDir

RUN = (
    "data=synthetic", "data.n=200", "model=mlp", "model.hidden=[4]", "partition=iid", "nodes=2",
    "rounds=2", "progress=false", "protection=encryption", "mask=all", "cipher.clients=10",
)  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fedhive join is for Linux")
def test_an_encrypted_run_on_real_machines(tmp_path: Path) -> None:
    hive = Loopback(tmp_path, sandbox=not sandbox.missing())
    with hive.whole():
        hive.start_superlink()
        for i, name in enumerate(("ann", "bob")):
            hive.enlist(name, i)
            hive.join(name)
        cfg = compose([*RUN, "engine=deployment", f"engine.home={hive.home}"])
        real = launch(cfg, tmp_path / "run")
    events = RunDir(tmp_path / "run").events()
    assert {event["status"] for event in events if event["kind"] == "train"} == {"accepted"}
    twin = launch(compose([*RUN, "engine=local", "cipher=plain"]), tmp_path / "twin")
    assert real["model_sha256"] == twin["model_sha256"]
    assert (real["rounds_not_opened"], real["encrypted_share"]) == (0, 1.0)
    found = json.loads((tmp_path / "run" / "protection.json").read_text())
    assert found["costs"]["uploads"] == 4
