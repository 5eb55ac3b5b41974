"""What a run tells about carbon intensity, and how its report shows it."""

from __future__ import annotations

import numpy as np
import pytest

from fedhive.results import facts
from fedhive.results.carbon_page import MOST_ZONES, curves, used
from fedhive.results.carbon_record import SCORES, carbon_record, carbon_scores
from fedhive.results.report import build_report
from fedhive.results.rundir import RunDir
from fedhive.world.carbon import StaticByZone
from fedhive.world.carbon_forecast import HOUR_S, Perfect, SeasonalNaive, score
from fedhive.world.carbon_generator import generated
from fedhive.world.carbon_series import Hourly
from tests.fedhive.results.test_report import Elements

SIGNAL = Hourly(np.arange(40.0)[:, None] * [[1.0, 2.0]], ("A", "B"), lead_h=10)


def test_the_record_by_hand():
    found = carbon_record(SIGNAL, ["B", "A", "B"], 2.5 * HOUR_S, None)
    assert found["g_per_kwh"] == {"A": [10.0, 11.0, 12.0], "B": [20.0, 22.0, 24.0]}
    assert (found["account"], found["forecaster"]) == ("life_cycle", None)
    assert all(found[key] is None for key in SCORES)


def test_no_record_without_hours_or_of_too_many():
    assert carbon_record(StaticByZone(), ["GB"], 1e6, SeasonalNaive()) is None
    assert carbon_record(SIGNAL, ["A"], 200_000 * HOUR_S, None) is None
    short = Hourly(np.ones((5, 1)), ("A",), beyond="fail")
    assert carbon_record(short, ["A"], 6 * HOUR_S, None) is None
    assert carbon_record(short, ["B"], HOUR_S, None) is None
    assert carbon_record(short, ["A"], 5 * HOUR_S, None) is not None


@pytest.mark.parametrize(("hours", "known"), [(24.9, False), (25.0, True)])
def test_only_what_has_come_due_is_scored(hours: float, known: bool):
    found = carbon_scores(SIGNAL, ["A"], hours * HOUR_S, SeasonalNaive())
    assert (found["carbon_forecast_rank"] is not None) == known


def test_scores_are_those_of_the_forecaster():
    signal = generated(1)
    found = carbon_scores(signal, ["GB", "DE-LU", "GB"], 72.5 * HOUR_S, SeasonalNaive())
    truth = score(SeasonalNaive(), signal, ["DE-LU", "GB"], range(48))
    assert tuple(found.values()) == (truth.mae, truth.mape, truth.rank)
    perfect = carbon_scores(signal, ["GB"], 72.5 * HOUR_S, Perfect())
    assert perfect["carbon_forecast_mae_g_per_kwh"] == 0.0
    assert perfect["carbon_forecast_rank"] == pytest.approx(1.0)


# ---- the page ---------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> RunDir:
    found = RunDir(tmp_path)
    found.append_round({"round": 1, "time_s": 7200.0})
    found.write_json("machines.json", [{"node": 0, "zone": "A"}, {"node": 1, "zone": "B"}])
    rows = [
        (0, 1800.0, 5400.0, 10.0, "late"), (1, 0.0, 600.0, 40.0, "accepted"),
        (1, 5.0, 5.0, 0.0, "withdrawn"),
    ]  # fmt: skip
    keys = ("node", "begin_s", "end_s", "energy_j", "status")
    found.append_events([{"round": 1, **dict(zip(keys, row, strict=True))} for row in rows])
    found.write_json(
        "carbon.json",
        {
            "account": "direct", "g_per_kwh": {"A": [1.0, 2.0], "B": [3.0, 4.0]},
            "forecaster": "Perfect", "oracle": True, SCORES[0]: 1.25, SCORES[1]: 0.5,
            SCORES[2]: 0.75,
        },
    )  # fmt: skip
    return found


def test_hours_used_by_hand(run):
    assert used(facts.load(run.path)) == {"A": {0: 5.0, 1: 5.0}, "B": {0: 40.0}}


def test_the_figure(run):
    figure = curves(facts.load(run.path))
    lines = {t["name"]: t for t in figure["data"] if t["mode"] == "lines"}
    dots = {t["name"]: t for t in figure["data"] if t["mode"] == "markers"}
    assert list(lines) == ["B", "A"]  # the one that used most first
    assert lines["A"]["y"] == [1.0, 2.0, 2.0]  # a step lasts an hour
    assert dots["A"]["y"] == [1.0, 2.0]
    assert dots["B"]["marker"]["size"] == [18.0]
    assert dots["A"]["marker"]["size"][0] < 18.0


def test_the_section_says_it(run):
    page = Elements(build_report(run.path).read_text())
    assert "carbon" in page.sections()
    text = page.text.replace("\u00a0", " ")
    assert "counted direct" in text
    assert "Perfect, which sees the future" in text
    assert "1.25 g/kWh" in text
    assert "0.75" in text


def test_many_zones_are_cut(run):
    table = {f"Z{i:02d}": [1.0] for i in range(20)} | {"A": [5.0, 6.0]}
    run.write_json("carbon.json", {"g_per_kwh": table})
    figure = curves(facts.load(run.path))
    lines = [t["name"] for t in figure["data"] if t["mode"] == "lines"]
    assert len(lines) == MOST_ZONES
    assert lines[0] == "A"


@pytest.mark.parametrize("record", [{}, {"g_per_kwh": {}}, {"g_per_kwh": 3}])
def test_nothing_recorded_no_section(run, record):
    run.write_json("carbon.json", record)
    page = Elements(build_report(run.path).read_text())
    assert "carbon" not in page.sections()


def test_a_run_writes_it(play):
    run = play("carbon=generated", "rounds=1")
    assert set(run.run.carbon()["g_per_kwh"]) == {m["zone"] for m in run.run.machines()}
    assert run.summary["carbon_forecast_mape"] is None
    assert play("rounds=1").run.carbon() == {}
