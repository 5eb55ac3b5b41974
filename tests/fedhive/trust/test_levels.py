"""Levels: cumulative, and from 2 on only by what somebody else has attested."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhive.errors import UserError
from fedhive.trust.facts import Assurance, Fact, as_declared, by_name, dumps
from fedhive.trust.levels import NEEDS, Level, standing

ALL = [need for needs in NEEDS.values() for need in needs]


def fact(name: str, assurance: Assurance = "attested", **more) -> Fact:
    return Fact(name, more.pop("value", True), "test", assurance, **more)


def up_to(level: Level) -> list[Fact]:
    needs = [need for step in Level if step <= level for need in NEEDS[step]]
    return [fact(need.fact, "attested" if need.attested else "declared") for need in needs]


@pytest.mark.parametrize("level", list(Level))
def test_each_level_by_what_it_takes(level):
    found = standing(up_to(level))
    assert found.level == level
    expected = NEEDS[Level(level + 1)] if level < Level.ISOLATED else ()
    assert found.missing == expected
    assert str(found) == f"{int(level)} ({level.name.lower()})"


@settings(deadline=None)
@given(st.sets(st.sampled_from([need.fact for need in ALL])))
def test_nobody_lifts_itself_above_level_one(names):
    assert standing([fact(name, "declared") for name in names]).level <= Level.DECLARED


@settings(deadline=None)
@given(st.sets(st.sampled_from([need.fact for need in ALL])))
def test_levels_are_cumulative(names):
    found = standing([fact(name) for name in names]).level
    for level in Level:
        met = all(need.fact in names for need in NEEDS[level])
        assert met or found < level


def test_more_facts_never_lower_a_level():
    for first, second in itertools.pairwise(Level):
        assert standing(up_to(first)).level < standing(up_to(second)).level


def test_attested_facts_expire():
    facts = [*up_to(Level.IDENTITY), fact("boot.measured", until=100.0), fact("boot.secure")]
    assert standing(facts, now=99.9).level == Level.MEASURED
    assert standing(facts, now=100.0).level == Level.IDENTITY


@pytest.mark.parametrize("value", [False, None, "", 0, ()])
def test_what_is_not_so_does_not_count(value):
    facts = [*up_to(Level.MEASURED), fact("boot.secure", value=value)]
    assert standing(facts).level == Level.IDENTITY


def test_a_verdict_stands_above_a_claim():
    claimed, refuted = fact("boot.secure", "declared"), fact("boot.secure", value=False)
    for facts in ([claimed, refuted], [refuted, claimed]):
        assert by_name(facts)["boot.secure"].value is False


def test_troubles_mark_a_level():
    faults = Fact("security.cpu_vulnerable", ("mds",), "test")
    found = standing([*up_to(Level.DECLARED), faults])
    assert str(found) == "1 (declared)!"
    assert found.troubles == ("unmitigated faults of the processor: mds",)


# ---- facts on the wire ------------------------------------------------------------------------


def test_facts_survive_the_wire_as_declared_only():
    sent = [fact("boot.measured", value="x", until=5.0), fact("cpu.features", value=("a", "b"))]
    received = as_declared(json.loads(dumps(sent)))
    assert [(got.name, got.value) for got in received] == [
        ("boot.measured", "x"), ("cpu.features", ("a", "b")),
    ]  # fmt: skip
    assert {got.assurance for got in received} == {"declared"}


@pytest.mark.parametrize(
    "rows",
    [
        None, {}, [1], [{}], [{"name": ""}], [{"name": "a" * 65}], [{"name": "a", "source": 1}],
        [{"name": "a", "value": {}}], [{"name": "a", "value": 1.5}], [{"name": "a", "value": [1]}],
        [{"name": "a", "value": ["x"] * 257}], [{"name": "a"}] * 201,
    ],
)  # fmt: skip
def test_nonsense_is_refused(rows):
    with pytest.raises(UserError, match="facts: "):
        as_declared(rows)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@settings(deadline=None)
@given(st.recursive(LEAVES, lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_json_is_parsed_or_refused(rows):
    try:
        found = as_declared([rows] if isinstance(rows, dict) else rows)
    except UserError:
        return
    assert standing(found).level <= Level.DECLARED


def test_wrong_assurance_and_time():
    with pytest.raises(ValueError, match="assurance"):
        Fact("a", 1, "test", "sworn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="until"):
        Fact("a", 1, "test", until=float("nan"))
