"""Who stands behind a node, since when, and what is held against it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from defenses.enrolment import Enrolled, FromGrid, Register, Simulated
from defenses.identities import Identity, address_path
from fedhive.errors import UserError


def info(node: int, key: bytes = b"", owner: str = "", name: str = ""):
    return SimpleNamespace(node_id=node, public_key=key, owner_aid=owner, name=name)


class Nodes:
    """A grid that tells about its nodes, and counts how often it is asked."""

    def __init__(self, *infos) -> None:
        self.infos, self.asked = infos, 0

    def get_nodes(self):
        self.asked += 1
        return list(self.infos)


@dataclass(frozen=True)
class Last:
    """The last machines are malicious."""

    count: int

    def members(self, nodes: int, seed: int) -> frozenset[int]:
        return frozenset(range(nodes - self.count, nodes))


def test_the_grid_tells_key_and_owner():
    told = FromGrid().of(7, info(7, b"\x01\xff", "ann"), 1)
    assert (told.key, told.owner, told.name(7)) == ("01ff", "ann", "key 01ff")
    assert FromGrid().of(7, None, 1) == Identity()
    assert FromGrid().of(7, info(7, b"\x01", "<id:none>"), 1) == Identity(key="01")
    assert Identity().name(7) == "node 7"


# ---- a list ------------------------------------------------------------------------------------


def listed(tmp_path: Path, text: str) -> Enrolled:
    path = tmp_path / "list.csv"
    path.write_text(text)
    return Enrolled(str(path))


def test_rows_are_found_by_key_then_node_then_name(tmp_path: Path):
    found = listed(
        tmp_path,
        "key,node,name,owner,address,device\n01ff,,,ann,10.1.2.3,tpm-1\n,8,,ben,,\n,,pi,cem,::1,\n",
    )
    assert found.of(5, info(5, b"\x01\xff", "claimed"), 1) == Identity(
        "01ff", "ann", "10.1.2.3", "tpm-1"
    )
    assert found.of(8, None, 1).owner == "ben"
    assert found.of(9, info(9, b"\x02", name="pi"), 1) == Identity("02", "cem", "::1")
    assert found.of(6, info(6, b"\x03", "dan"), 1) == Identity("03", "dan")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node,colour\n1,red\n", "has node, colour"),
        ("owner\nann\n", "with node, key or name"),
        ("", "has none"),
        ("node,address\n1,10.1.2\n", "line 2: '10.1.2' does not appear to be"),
        ("node\n1\n1\n", "line 3: a second row for node 1"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, text: str, said: str):
    with pytest.raises(UserError, match=said):
        listed(tmp_path, text)


def test_a_list_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere\.csv cannot be read"):
        Enrolled(str(tmp_path / "nowhere.csv"))


# ---- made up -----------------------------------------------------------------------------------


def test_the_honest_share_nothing_and_the_adversary_everything():
    made = Simulated(nodes=9, adversary=Last(4))
    honest = [made.of(1000 + i, None, 1) for i in range(5)]
    liars = [made.of(1000 + i, None, 1) for i in range(5, 9)]
    assert len({one.owner for one in honest}) == len({one.device for one in honest}) == 5
    assert len({address_path(one.address)[1] for one in honest}) == 5
    assert {one.owner for one in liars} == {"adversary-0"} == {one.device for one in liars}
    [network] = {address_path(one.address)[1] for one in liars}
    assert network not in {address_path(one.address)[1] for one in honest}
    everybody = honest + liars
    assert len({one.key for one in everybody}) == len({one.address for one in everybody}) == 9


def test_what_the_adversary_commands_is_spread_evenly():
    made = Simulated(nodes=14, adversary=Last(12), owners=3, prefixes=4, devices=0)
    liars = [made.of(1000 + i, None, 1) for i in range(2, 14)]
    owners = [one.owner for one in liars]
    assert sorted(owners.count(owner) for owner in set(owners)) == [4, 4, 4]
    networks = [address_path(one.address)[1] for one in liars]
    assert sorted(networks.count(net) for net in set(networks)) == [3, 3, 3, 3]
    assert {one.device for one in liars} == {None}


def test_churn_changes_keys_only():
    made = Simulated(nodes=2, adversary=Last(1), churn=3)
    lives = [made.of(1001, None, round) for round in (1, 3, 4, 7)]
    assert [one.key for one in lives] == ["key-1", "key-1", "key-1-1", "key-1-2"]
    assert len({one.owner for one in lives}) == 1
    assert made.of(1000, None, 9).key == "key-0"


def test_addresses_are_addresses_in_large_hives():
    made = Simulated(nodes=70_000, adversary=Last(60_000))
    found = {made.of(1000 + i, None, 1).address for i in range(0, 70_000, 7)}
    assert len(found) == 10_000
    assert all(address_path(address) for address in found)


@pytest.mark.parametrize("bad", [{"owners": 0}, {"prefixes": 0}, {"devices": -1}, {"churn": -1}])
def test_impossible_adversaries_are_refused(bad: dict):
    with pytest.raises(ValueError, match="need owners >= 1"):
        Simulated(nodes=3, **bad)


# ---- the register ------------------------------------------------------------------------------


def test_nodes_are_asked_about_once():
    grid, register = Nodes(info(1, b"\x01"), info(2, b"\x02")), Register()
    register.meet([1], grid)
    register.meet([2, 1], grid)
    assert grid.asked == 1
    assert register.identity(2, 1).key == "02"
    register.meet([3], grid)  # not on-line any more: an identity of its own
    register.meet([3], grid)
    assert (grid.asked, register.identity(3, 1).key) == (2, None)
    register.meet([4], object())


def test_first_rounds_and_strikes_go_with_the_key():
    register = Register(Simulated(nodes=2, adversary=Last(1), churn=2), max_strikes=2)
    register.meet([1000, 1001], object())
    register.accepted(1001, 1)
    register.strike(1001, 2, "NaN")
    assert register.identity(1001, 2).first_round == 1
    assert register.strikes(1001, 2) == [(2, "NaN")]
    assert register.outcasts(2) == set()
    register.strike(1001, 2, "NaN again")
    assert register.expelled(1001, 2)
    assert register.outcasts(2) == {1001}
    assert register.outcasts(3) == set()  # it has come back under another key
    assert register.identity(1001, 3).first_round == 3
    assert not register.expelled(1000, 2)


def test_nobody_is_expelled_unless_asked_for():
    register = Register()
    for round in range(9):
        register.strike(1, round, "NaN")
    assert not register.expelled(1, 9)
    assert register.outcasts(9) == set()


def test_saved_and_restored():
    register, other = Register(max_strikes=1), Register(max_strikes=1)
    register.meet([5], object())
    register.accepted(5, 3)
    register.strike(5, 4, "too long")
    other.restore(json.loads(json.dumps(register.state())))
    assert other.state() == register.state()
    assert other.identity(5, 9).first_round == 3
    assert other.outcasts(9) == {5}
