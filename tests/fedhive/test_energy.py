"""Energy in whole runs: what events say, what the ledger says, what the summary says."""

from __future__ import annotations

import json
import math

import pytest

VOLATILE = (
    "availability=markov", "availability.step_s=1.0", "availability.days=0.01",
    "fleet.median_rate=8.0", "fleet.median_up_mbps=0.01", "fleet.wait_w=1.5",
    "carbon=generated", "trigger=deadline", "trigger.seconds=6.0", "detection_s=1.0",
    "strategy.idle_s=2.0", "nodes=6", "rounds=8", "selection=all",
)  # fmt: skip


def sums(run) -> dict[str, float]:
    events = run.events
    used = [e for e in events if e["status"] == "accepted"]
    lost = [e for e in events if e["status"] != "accepted"]
    return {
        "energy_useful_j": math.fsum(e["energy_j"] for e in used),
        "energy_wasted_j": math.fsum(e["energy_j"] for e in lost),
        "carbon_useful_g": math.fsum(e["carbon_g"] for e in used),
        "carbon_wasted_g": math.fsum(e["carbon_g"] for e in lost),
    }


def test_events_ledger_and_summary_agree(play):
    run = play(*VOLATILE)
    accounts = json.loads((run.directory / "accounts.json").read_text())
    booked = sums(run)
    assert booked["energy_useful_j"] > 0.0
    assert booked["energy_wasted_j"] > 0.0
    for name, amount in booked.items():
        _, kind, unit = name.split("_")
        ledger = math.fsum(row[f"{kind}_{unit}"] for row in accounts)
        assert amount == pytest.approx(ledger, rel=1e-9, abs=0.0), name
        assert run.summary[name] == pytest.approx(ledger, rel=1e-9, abs=0.0), name
    waiting = math.fsum(1.5 * row["waiting_s"] for row in accounts)
    assert run.summary["energy_waiting_j"] == pytest.approx(waiting, rel=1e-9)
    assert run.summary["carbon_waiting_g"] > 0.0
    n_bytes = run.summary["bytes_up"] + run.summary["bytes_down"]
    assert run.summary["energy_server_j"] == pytest.approx(1.58 * 118.0 * n_bytes / 1e8, rel=1e-3)


def test_a_run_in_which_everything_is_dropped_wastes_everything(play):
    run = play(*VOLATILE, "trigger.seconds=0.01")
    assert run.events
    assert run.summary["energy_useful_j"] == run.summary["carbon_useful_g"] == 0
    assert run.summary["samples"] == 0
    wasted = sums(run)
    assert run.summary["energy_wasted_j"] == pytest.approx(wasted["energy_wasted_j"], rel=1e-9)
    assert wasted["energy_wasted_j"] > 0.0
    accounts = json.loads((run.directory / "accounts.json").read_text())
    assert all(row["useful_j"] == row["useful_s"] == 0.0 for row in accounts)


def test_without_a_server_its_energy_is_unknown(play, tiny):
    run = play(cfg={**tiny("rounds=1"), "server": None})
    assert run.summary["energy_server_j"] is None
    assert run.summary["carbon_server_g"] is None


def test_a_dedicated_server_draws_as_long_as_the_run_lasts(play):
    run = play("rounds=2", "server=dedicated")
    wanted = 1.58 * 118.0 * run.summary["time_virtual_s"]
    assert run.summary["energy_server_j"] == pytest.approx(wanted)
    assert run.summary["carbon_server_g"] > 0.0
