"""What malicious machines pretend so as to be picked."""

from __future__ import annotations

import math

import pytest

from attacks.bait import Bait, Present
from attacks.infiltration import Collusion, Infiltration
from attacks.plot import Plot
from attacks.poisoning import own
from fedhive.world.availability import AlwaysOn, on_mask
from fedhive.world.devices import ZONES, Device

DEVICES = [
    Device(f"m{i}", "IN-WE", 19.08, 72.88, rate=10.0, down_bps=1e6, up_bps=1e6) for i in range(3)
]


class Off:
    """Machines that are on from 10 s to 20 s."""

    def is_on(self, node, t_s):
        return 10.0 <= t_s < 20.0

    def next_change(self, node, t_s):
        return 10.0 if t_s < 10.0 else 20.0 if t_s < 20.0 else math.inf

    def intervals(self, node, t0_s, t1_s):
        begin, end = max(t0_s, 10.0), min(t1_s, 20.0)
        return [(begin, end)] if end > begin else []


def test_declared_machines_differ_only_in_what_is_pretended():
    told = Bait(zone="CA-ON", rate=99.0, train_w=1.0).declared(DEVICES, frozenset({1}))
    assert told[0] is DEVICES[0]
    assert told[2] is DEVICES[2]
    assert (told[1].zone, told[1].rate, told[1].train_w) == ("CA-ON", 99.0, 1.0)
    assert (told[1].latitude, told[1].longitude) == ZONES["CA-ON"][1:]
    assert told[1].up_bps == DEVICES[1].up_bps
    assert Bait().declared(DEVICES, frozenset({1})) == DEVICES


def test_an_unknown_zone_leaves_the_place():
    [told] = Bait(zone="XX").declared(DEVICES[:1], frozenset({0}))
    assert (told.zone, told.latitude) == ("XX", 19.08)


def test_members_that_never_leave():
    present = Present(Off(), frozenset({1}))
    assert on_mask(present, 3, 5.0).tolist() == [False, True, False]
    assert on_mask(present, 3, 15.0).tolist() == [True, True, True]
    assert present.next_change(0, 5.0) == 10.0
    assert present.next_change(1, 5.0) == math.inf
    assert present.intervals(0, 0.0, 30.0) == [(10.0, 20.0)]
    assert present.intervals(1, 0.0, 30.0) == [(0.0, 30.0)]
    assert present.intervals(1, 30.0, 30.0) == []


def test_without_bait_nothing_changes():
    availability = AlwaysOn()
    for adversary in (
        Infiltration(behaviour=lambda m, c, n: n(m, c), count=1),
        Collusion(Plot(own), count=1),
        Collusion(Plot(own), count=1, bait=Bait(zone="CA-ON")),
    ):
        told, shown = adversary.pretend(DEVICES, availability, 0)
        assert shown is availability
        assert (told == DEVICES) == (adversary.bait is None)


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"rate": math.nan}, {"train_w": -1.0}, {"train_w": math.inf}]
)
def test_impossible_claims(wrong):
    with pytest.raises(ValueError, match="must"):
        Bait(**wrong)


def test_a_clean_zone_is_believed_but_not_paid_for(play):
    """A threshold lets work who says to be clean; the ledger charges what is truly drawn."""
    settings = (
        "schedule=threshold", "schedule.limit_g_per_kwh=200", "schedule.quantile=null",
        "nodes=6", "rounds=2", "fleet=equal", "attack=sybil", "attack.count=1",
    )  # fmt: skip
    bait = "attack.bait={_target_: attacks.bait.Bait, zone: CA-ON, train_w: 0.0}"
    with_bait = play(*settings, bait)
    assert {event["node"] for event in with_bait.events} == {5}
    unlimited = play(*settings, "schedule.limit_g_per_kwh=1000")
    paid = {event["node"]: event["carbon_g"] for event in unlimited.events}
    assert with_bait.events[0]["carbon_g"] == pytest.approx(paid[5], rel=1e-9)
