"""Schedules by carbon, and the ledger of energy, on a real SuperLink's machines."""

from __future__ import annotations

import math

import pytest

from fedhive.deploy import serve
from fedhive.engines.deployment import DeploymentEngine
from fedhive.errors import UserError
from fedhive.results.rundir import RunDir
from fedhive.world.carbon import StaticByZone
from fedhive.world.carbon_forecast import SeasonalNaive
from fedhive.world.roster import Roster
from strategies.watch import Watch
from tests.fedhive.deploy.test_grid import FIRST, hive, task, three
from tests.fedhive.world.test_roster import row


def rostered(rows=None):
    """Machines a and b listed by name, c by its number."""
    grid, link = hive(*three())
    [third] = [m.number for m in grid.machines.values() if m.name == "c"]
    listed = [row(name="a", zone="GB"), row(name="b"), row(node=third, name="the third")]
    grid.roster = Roster(listed if rows is None else rows, StaticByZone())
    return grid, link


def test_machines_are_known_by_name_and_by_number():
    grid, _ = rostered()
    ids = grid.get_node_ids()
    assert ids == [FIRST, FIRST + 1, FIRST + 2]
    zones = {m.name: grid.profiles[FIRST + m.number].zone for m in grid.machines.values()}
    assert zones["b"] == "DE-LU"
    numbers = {m.name: m.number for m in grid.machines.values()}
    assert grid.profiles[FIRST + numbers["c"]].name == "the third"
    assert {row["node"]: row.get("zone") for row in grid.rows()}[numbers["b"]] == "DE-LU"
    assert all(row["name"] in "abc" for row in grid.rows())  # as registered, not as listed


def test_machines_that_are_not_listed_are_not_asked():
    grid, _ = rostered([row(name="a"), row(name="b")])
    names = {FIRST + m.number: m.name for m in grid.machines.values()}
    assert {names[node] for node in grid.get_node_ids()} == {"a", "b"}
    assert len(grid.get_nodes()) == 3  # they are there all the same


def test_a_schedule_by_carbon_has_what_it_needs():
    """The view that schedules refused without: intensities of each machine's zone, and watts."""
    grid, _ = rostered()
    watch = Watch(None, 0, lambda: math.inf, carbon=SeasonalNaive())
    view = watch.view(1, grid, set())
    assert view.carbon is not None
    assert view.carbon.zones == {n: d.zone for n, d in grid.profiles.items()}
    forecast = view.carbon.forecast(sorted(view.profiles), 3)
    assert forecast.shape == (3, 3)
    assert set(forecast[:, 0]) == {188.0, 367.0}
    bare, _ = hive(*three())
    assert watch.view(1, bare, set()).carbon is None


def test_work_is_charged_by_declared_powers():
    grid, link = rostered()
    grid.get_node_ids()
    ids = grid.push_messages([task(FIRST)])
    link.work()
    grid.clock.now += 60.0
    grid.pull_messages(ids)
    grid.settle(ids[0], "accepted")
    [event] = grid.collect_events()
    assert event["node"] == 0
    assert event["samples"] == 5
    device = grid.profiles[FIRST]
    talking = device.download_s(event["bytes_down"]) + device.upload_s(event["bytes_up"])
    wanted = device.train_w * 5 / device.rate + device.comm_w * talking
    assert event["energy_j"] == pytest.approx(wanted)
    intensity = {"DE-LU": 367.0, "GB": 188.0}[device.zone]
    assert event["carbon_g"] == pytest.approx(wanted / 3.6e6 * intensity)


def test_the_file_travels_with_the_run(tiny, tmp_path):
    path = tmp_path / "machines.yaml"
    path.write_text("- {name: a, zone: GB, rate: 10, down_bps: 2e7, up_bps: 1e7}\n")
    engine = DeploymentEngine(machines=str(path))
    assert engine.serving["machines"][0]["zone"] == "GB"
    assert DeploymentEngine(**engine.serving).serving == engine.serving  # as `fedhive resume` does
    cfg = tiny("carbon=generated", "carbon.start=2026-06-01T08:00")  # which wants the run's seed
    found = serve._roster({**cfg, "engine": engine.serving})
    assert found is not None
    assert found.of(5, "a").rate == 10
    assert found.carbon.mean_g_per_kwh("GB", 0.0, 3600.0) > 0.0
    assert serve._roster({**cfg, "engine": DeploymentEngine().serving}) is None


def test_an_unknown_zone_is_told_before_anything_is_submitted(tiny, tmp_path):
    rows = [row(zone="Atlantis", latitude=0.0, longitude=0.0)]
    engine = DeploymentEngine(machines=rows)
    with pytest.raises(UserError, match="no intensity for zone 'Atlantis'"):
        engine.play(tiny(), RunDir.create(tmp_path / "run"))
