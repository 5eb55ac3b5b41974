"""Real machines whose operator has written down what they are."""

from __future__ import annotations

import pytest

from fedhive.errors import UserError
from fedhive.world.carbon import StaticByZone
from fedhive.world.metered import MeteredGrid
from fedhive.world.roster import Roster, read_rows
from tests.fedhive.world.test_metered import Plain
from tests.fedhive.world.worlds import FakeEngine, instruction

DESK = {"name": "desk", "zone": "DE-LU", "rate": 100.0, "down_bps": 8e6, "up_bps": 8e6,
        "latency_s": 0.0, "train_w": 50.0, "comm_w": 2.0, "net_j_per_byte": 0.0}  # fmt: skip


def row(**more) -> dict:
    return {**DESK, **more}


def event(**more) -> dict:
    base = {"bytes_down": 1e6, "bytes_up": 2e6, "begin_s": 10.0, "end_s": 110.0}
    return {**base, **more}


def test_machines_are_found_by_number_then_name_then_the_others():
    roster = Roster([row(name="a"), row(node=7, name="b", rate=7.0), row(name="*", rate=9.0)])
    assert roster.of(1, "a").rate == 100.0
    assert roster.of(7, "a").rate == 7.0
    assert (roster.of(8, "c").rate, roster.of(8, "c").name) == (9.0, "c")
    assert Roster([row(name="a")]).of(1, "b") is None


def test_energy_by_hand():
    """1 MB down and 2 MB up at 1 MB/s: 3 s of 2 W; 5,000 samples at 100/s: 50 s of 50 W."""
    roster = Roster([row()], StaticByZone({"DE-LU": 360.0}))
    device = roster.of(0, "desk")
    joules, grams = roster.cost(device, event(), 5000)
    assert joules == pytest.approx(3 * 2 + 50 * 50)
    assert grams == pytest.approx(2506 / 3.6e6 * 360)
    assert roster.cost(device, event(), None) == (None, None)


def test_no_task_draws_for_longer_than_it_lasted():
    roster = Roster([row()])
    device = roster.of(0, "desk")
    assert roster.cost(device, event(end_s=15.0), 5000)[0] == pytest.approx(3 * 2 + 2 * 50)
    assert roster.cost(device, event(end_s=11.0), 5000)[0] == pytest.approx(1 * 2)
    assert roster.cost(device, event(end_s=10.0), 5000)[0] == 0.0
    assert roster.cost(device, event(), 5000)[1] is None  # no carbon signal


def grid(roster: Roster | None, silent=()) -> MeteredGrid:
    plain = Plain(FakeEngine(), silent)
    names = dict(zip(sorted(plain.get_node_ids()), ("a", "b", "c", "d"), strict=True))

    class Info:
        def __init__(self, node_id: int) -> None:
            self.node_id, self.name = node_id, names[node_id]

    plain.get_nodes = lambda: [Info(node) for node in names]  # type: ignore[method-assign]
    return MeteredGrid(plain, poll_s=0.001, roster=roster)


def test_strategies_see_profiles_and_carbon():
    carbon = StaticByZone()
    found = grid(Roster([row(name=name) for name in "abcd"], carbon))
    ids = found.get_node_ids()
    assert [found.profiles[node].name for node in ids] == ["a", "b", "c", "d"]
    assert found.carbon is carbon
    before = found.profiles
    found.get_node_ids()
    assert found.profiles is before  # or every view would look for zones anew


def test_unlisted_machines_are_not_asked():
    found = grid(Roster([row(name="a"), row(name="c")]))
    ids = found.get_node_ids()
    assert [found.profiles[node].name for node in ids] == ["a", "c"]
    assert len(grid(Roster([row(name="a"), row(name="*")])).get_node_ids()) == 4
    assert len(grid(None).get_node_ids()) == 4


def test_events_carry_energy_and_emissions():
    found = grid(Roster([row(name=name) for name in "abcd"], StaticByZone()), silent=[3])
    assert len(found.get_node_ids()) == 4
    found.send_and_receive([instruction(i) for i in range(4)], timeout=0.05)
    events = {e["node"]: e for e in found.collect_events()}
    assert {e["status"] for e in events.values()} == {"accepted", "late"}
    for e in events.values():
        assert e["energy_j"] is not None
        assert e["carbon_g"] is not None
        assert "to" not in e
    late = [e for e in events.values() if e["status"] == "late"]
    assert late[0]["energy_j"] > 0.0  # it has drawn power for nothing


def test_nobody_has_answered_yet():
    found = grid(Roster([row(name="*")]), silent=range(4))
    assert len(found.get_node_ids()) == 4
    found.send_and_receive([instruction(0)], timeout=0.01)
    assert found.collect_events()[0]["energy_j"] is None


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row(), row()], "'desk' is there twice"),
        ([row(node=1), row(node=1)], "machine 1 is there twice"),
        ([row(node="x")], "node must be a number"),
        ([{k: v for k, v in DESK.items() if k != "name"}], "give its name"),
        ([row(rate=-1)], "rate must be above 0"),
        ([row(speed=1)], "no such field 'speed'"),
        ([row(zone="Atlantis")], "latitude and longitude are missing"),
    ],
)
def test_mistakes_name_the_entry(rows, reason):
    with pytest.raises(UserError, match=reason):
        Roster(rows)


def test_an_unknown_zone_is_told_at_once():
    with pytest.raises(UserError, match="no intensity for zone 'Atlantis'"):
        Roster([row(zone="Atlantis", latitude=0.0, longitude=0.0)], StaticByZone())


def test_a_file(tmp_path):
    path = tmp_path / "machines.yaml"
    path.write_text("- {name: desk, zone: DE-LU, rate: 100, down_bps: 2e7, up_bps: 1e7}\n")
    assert read_rows(str(path)) == [
        {"name": "desk", "zone": "DE-LU", "rate": 100, "down_bps": 2e7, "up_bps": 1e7}
    ]
    with pytest.raises(UserError, match=r"there is no file .*; check engine\.machines"):
        read_rows(str(tmp_path / "nowhere"))
    path.write_text("- {name: desk}\n")
    with pytest.raises(UserError, match=r"machines\.yaml: machine 0: "):
        read_rows(str(path))
