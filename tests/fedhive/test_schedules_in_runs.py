"""Whole runs by the hour: no schedule sees the future, all resume, what cannot be is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedhive.errors import UserError
from fedhive.launch import launch, resume
from fedhive.results.rundir import RunDir
from fedhive.world.carbon_generator import generated
from fedhive.world.carbon_series import Hourly
from tests.fedhive.test_volatile import Stop

HOURS = (
    "carbon=generated", "fleet=phones", "fleet.median_rate=0.02", "fleet.net_j_per_byte=1e-4",
    "availability=phones", "availability.days=14", "availability.start_s=-259200",
    "history_s=259200", "forecast=markov", "nodes=8", "rounds=6", "trigger=all",
    "trigger.timeout_s=7200", "seed=3",
)  # fmt: skip
CHOICES: dict[str, tuple[str, ...]] = {
    "threshold": ("schedule.quantile=0.3",),
    "alpha_fair": ("schedule.hours=24", "schedule.slack_h=24", "schedule.budget_share=0.3"),
    "lowcarb": ("schedule.k=3", "selection=all"),
    "cafe": ("schedule.budget_g=0.5", "schedule.value=0.5", "selection=all"),
    "fedzero": ("schedule.k=2", "selection=all"),
    "ours": ("schedule.least=2", "schedule.k=4", "schedule.deadline_h=24", "selection=all"),
}


def words(schedule: str) -> tuple[str, ...]:
    return (*HOURS, f"schedule={schedule}", *CHOICES[schedule])


def future(
    seed: int, start: str, days: float, history_days: float, level: float, noise_scale: float,
    beyond: Any, change_h: float = math.inf,
) -> Hourly:  # fmt: skip
    """A generated signal with all hours after ``change_h`` turned upside down."""
    made = generated(
        seed, start=start, days=days, history_days=history_days, level=level,
        noise_scale=noise_scale, beyond=beyond,
    )  # fmt: skip
    first = made.lead_h + (0 if math.isinf(change_h) else math.floor(change_h) + 1)
    table = np.array([made.slots(z, -made.lead_h, made.hours) for z in made.zones]).T
    if not math.isinf(change_h):
        table[first:] = table[first:].max(0) - table[first:]
    return Hourly(table, made.zones, lead_h=made.lead_h)


@pytest.mark.parametrize("schedule", CHOICES)
def test_no_schedule_sees_the_future(tiny, tmp_path, schedule):
    """Two worlds that differ only after some hour: the same tasks are sent until then."""
    cfg = tiny(*words(schedule))
    plain = launch(cfg, tmp_path / "plain")
    change_h = 0.5 * plain["time_virtual_s"] / 3600.0
    cfg["carbon"] = {
        **cfg["carbon"], "_target_": "tests.fedhive.test_schedules_in_runs.future",
        "change_h": change_h,
    }  # fmt: skip
    launch(cfg, tmp_path / "changed")
    told = []
    for name in ("plain", "changed"):
        until = 3600.0 * (math.floor(change_h) + 1)
        events = RunDir(tmp_path / name).events()
        sent = sorted((e["sent_s"], e["node"], e["steps_asked"]) for e in events)
        told.append([row for row in sent if row[0] < until])
    assert told[0]
    assert told[0] == told[1]


@pytest.mark.parametrize("cut", [1, 4])
@pytest.mark.parametrize("schedule", CHOICES)
def test_resumed_to_the_same_bits(tiny, tmp_path, schedule, cut):
    cfg = tiny(*words(schedule))
    whole = launch(cfg, tmp_path / "whole")
    cfg["callbacks"] = [{"_target_": "tests.fedhive.test_volatile.Stop", "after": cut}]
    Stop.armed = True
    with pytest.raises(KeyboardInterrupt):
        launch(cfg, tmp_path / "cut")
    Stop.armed = False
    try:
        again = resume(tmp_path / "cut")
    finally:
        Stop.armed = True
    for key in ("model_sha256", "time_virtual_s", "carbon_useful_g", "carbon_wasted_g", "samples"):
        assert again[key] == whole[key], key


def test_threshold_runs_only_in_clean_hours(play):
    run = play(*HOURS, "schedule=threshold", "schedule.quantile=0.25")
    signal = generated(3)
    zones = {row["node"]: row["zone"] for row in run.run.machines()}
    assert run.events
    for event in run.events:
        slot = math.floor(event["sent_s"] / 3600.0)
        day = signal.slots(zones[event["node"]], slot, 24)
        assert signal.slots(zones[event["node"]], slot, 1)[0] < np.quantile(day, 0.75)


@pytest.mark.parametrize(
    ("forecast", "oracle"),
    [("persistence", False), ("seasonal_naive", False), ("noisy", True), ("perfect", True)],
)
def test_forecasts_are_scored_and_oracles_named(play, forecast, oracle):
    never = ("schedule=threshold", "schedule.limit_g_per_kwh=0", "schedule.quantile=null")
    words = [word for word in HOURS if word != "rounds=6"]
    run = play(*words, *never, f"carbon_forecast={forecast}", "rounds=2")  # two days of waiting
    told = run.run.carbon()
    assert told["oracle"] is oracle
    mape = run.summary["carbon_forecast_mape"]
    assert told["carbon_forecast_mape"] == mape
    if forecast == "perfect":
        assert mape == 0.0
        assert run.summary["carbon_forecast_rank"] == pytest.approx(1.0)
    else:
        assert 0.0 < mape < 1.0


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("schedule=lowcarb",), "schedule LowCarb picks the machines itself.*selection=all"),
        (("schedule=fedzero", "selection=oort"), "selection Oort; add selection=all"),
        (("schedule=ours", "selection=all", "trigger=buffer"), "use trigger=all or deadline"),
        (("schedule=threshold", "schedule.limit_g_per_kwh=100"), "either limit_g_per_kwh or"),
        (
            ("strategy=flower_fedavg", "schedule=ours"),
            "schedule=ours: has no effect, strategy FedAvg does not use schedule",
        ),
    ],
)
def test_impossible_combinations_are_refused(tiny, tmp_path, overrides, says):
    with pytest.raises(UserError, match=says):
        launch(tiny(*overrides), tmp_path / "run")


def test_a_zone_without_intensity_stops_the_run_before_it_begins(tiny, tmp_path):
    file = tmp_path / "ci.csv"
    file.write_text("datetime_utc,DE-LU\n2023-01-01 00:00:00,300\n")
    words = ("carbon=electricity_maps", f"carbon.path={file}", "fleet.zones=[DE-LU,GB]")
    with pytest.raises(UserError, match=r"ci\.csv:1: no intensity for zone 'GB'"):
        launch(tiny(*words), tmp_path / "run")
    assert not (tmp_path / "run" / "rounds.jsonl").exists()
    with pytest.raises(UserError, match=r"no intensity for zone 'XX'; known zones"):
        launch(tiny("server.zone=XX"), tmp_path / "other")


def test_without_a_carbon_forecast(tiny, tmp_path):
    cfg = tiny("schedule=threshold")
    cfg["strategy"]["carbon_forecast"] = None
    with pytest.raises(UserError, match="add a carbon_forecast"):
        launch(cfg, tmp_path / "run")
