"""Clients that break the rules in a whole run: refused with a reason, and the others go on.

What exactly is malformed is `tests/defenses/test_containment.py`'s matter; here it comes through
real clients, engines and run directories.
"""

from __future__ import annotations

import dataclasses
import html
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord

CRIMES = (
    "raises", "NaN", "shape", "extra array", "extra record", "many examples", "few examples",
    "2 GB", "no message",
)  # fmt: skip
REASONS = (
    "RuntimeError: no luck", "NaN or infinity", "has shape", "unexpected array 'more'",
    "unexpected record 'more'", "is not between 1 and 1000000", "-5 examples is not between",
    "claims (536870912,)", "TypeError",
)  # fmt: skip
HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (536870912,), }\n"
TWO_GB = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(HEADER)) + HEADER + b"\0" * 16


@dataclasses.dataclass(frozen=True)
class Gang:
    """The first machines commit one crime each."""

    def members(self, nodes: int, seed: int) -> frozenset[int]:
        return frozenset(range(len(CRIMES)))

    def mods(self) -> Sequence[Any]:
        return (commit,)


def commit(message: Message, context: Context, call_next: Any) -> Any:
    crime = CRIMES[int(context.node_config["partition-id"])]
    return spoil(call_next(message, context), crime)


def spoil(reply: Message, crime: str) -> Any:
    sent, metrics = reply.content["arrays"], reply.content["metrics"]
    first = next(iter(sent))
    if crime == "raises":
        raise RuntimeError("no luck")
    if crime == "no message":
        return None
    if crime == "extra record":
        reply.content["more"] = MetricRecord({"x": 1})
    elif crime.endswith("examples"):
        metrics["num-examples"] = 10**15 if crime.startswith("many") else -5
    else:
        reply.content["arrays"] = ArrayRecord(
            {
                name: spoilt(crime, array) if name == first else array
                for name, array in sent.items()
            }
            | ({"more": sent[first]} if crime == "extra array" else {})
        )
    return reply


def spoilt(crime: str, array: Array) -> Array:
    if crime == "NaN":
        return Array(np.full_like(array.numpy(), np.nan))
    if crime == "shape":
        return Array(array.numpy()[..., :-1])
    if crime == "2 GB":
        return Array("float32", array.shape, "numpy.ndarray", TWO_GB)
    return array


RUNS = {
    "hive": (),
    "pool": ("engine=pool", "engine.workers=2"),
    "cohort": ("engine.cohort=true",),
    "scaffold": ("client=scaffold", "combine=scaffold"),
    "flower_fedavg": ("strategy=flower_fedavg",),
    "flower_fedadam": ("strategy=flower_fedadam",),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_gang_among_honest_machines(name: str, play, tiny):
    nodes = len(CRIMES) + 2
    selection = () if name.startswith("flower") else ("selection.k=null",)
    cfg = tiny(*RUNS[name], *selection, f"nodes={nodes}", "rounds=2", "data.n=110")
    cfg["attack"] = {"_target_": f"{__name__}.Gang"}
    played = play(cfg=cfg)
    for number in (1, 2):
        events = {e["node"]: e for e in played.events if e["round"] == number}
        assert sorted(events) == list(range(nodes))
        for machine, (crime, reason) in enumerate(zip(CRIMES, REASONS, strict=True)):
            failed = crime in ("raises", "no message")
            assert events[machine]["status"] == ("error" if failed else "rejected"), crime
            assert reason in events[machine]["reason"], crime
        assert [events[n]["status"] for n in range(len(CRIMES), nodes)] == ["accepted"] * 2
    assert [(r["completed"], r["rejected"]) for r in played.rounds] == [(2, len(CRIMES))] * 2
    assert np.isfinite(played.model()).all()
    assert played.summary["energy_wasted_j"] > 0


def test_the_model_is_the_honest_machines_alone(play, tiny):
    nodes = len(CRIMES) + 2
    cfg = tiny("selection.k=null", f"nodes={nodes}", "rounds=2", "data.n=110")
    honest_only = {**cfg, "selection": {"_target_": f"{__name__}.Honest"}}
    honest_only["strategy"] = {**cfg["strategy"], "selection": honest_only["selection"]}
    spoilt = {**cfg, "attack": {"_target_": f"{__name__}.Gang"}}
    assert play(cfg=spoilt).sha == play(cfg=honest_only).sha


def test_the_report_lists_each_refusal(play, tiny):
    from fedhive.results.report import build_report

    nodes = len(CRIMES) + 2
    cfg = tiny("selection.k=null", f"nodes={nodes}", "rounds=2", "data.n=110")
    played = play(cfg={**cfg, "attack": {"_target_": f"{__name__}.Gang"}})
    text = html.unescape(build_report(played.directory).read_text())
    section = text.partition('id="refusals"')[2].partition("<section")[0]
    rows = section.count("<tr>") - 1
    assert rows == len(CRIMES)
    for reason in REASONS:
        assert reason in section, reason
    assert section.count("1 to 2") == len(CRIMES)
    honest = build_report(play(cfg=cfg).directory).read_text()
    assert 'id="refusals"' not in honest


def test_strikes_are_counted_and_expel(play, tiny):
    nodes = len(CRIMES) + 2
    cfg = tiny(
        "selection.k=null", f"nodes={nodes}", "rounds=4", "data.n=110",
        "containment.max_strikes=2",
    )  # fmt: skip
    played = play(cfg={**cfg, "attack": {"_target_": f"{__name__}.Gang"}})
    struck = sum(crime not in ("raises", "no message") for crime in CRIMES)
    strikes = played.saved().plain["strategy"]["register"]["strikes"]
    assert len(strikes) == struck
    assert all([number for number, _ in held] == [1, 2] for held in strikes.values())
    # From round 3 on only the honest and those that merely failed are asked.
    assert [r["selected"] for r in played.rounds] == [nodes, nodes, nodes - struck, nodes - struck]
    assert [r["completed"] for r in played.rounds] == [2] * 4


@dataclasses.dataclass(frozen=True)
class Boaster:
    """The first machine claims to have seen nearly a million examples."""

    def members(self, nodes: int, seed: int) -> frozenset[int]:
        return frozenset({0})

    def mods(self) -> Sequence[Any]:
        return (boast,)


def boast(message: Message, context: Context, call_next: Any) -> Any:
    reply = call_next(message, context)
    reply.content["metrics"]["num-examples"] = 999_999
    return reply


def test_a_claim_of_many_examples_is_not_believed(play, tiny):
    cfg = tiny("selection.k=null", "rounds=1")  # 24 examples a machine
    cfg["attack"] = {"_target_": f"{__name__}.Boaster"}
    played = play(cfg=cfg)
    said = [event["reason"] for event in played.events]
    assert said == ["999999 examples counted as 240", "", "", ""]
    assert played.statuses == ["accepted"] * 4


TEN = ("nodes=10", "rounds=6", "data.n=400", "data.n_test=400", "selection.k=null")


@dataclasses.dataclass(frozen=True)
class One:
    """One of ten machines, whose crime changes from round to round."""

    def members(self, nodes: int, seed: int) -> frozenset[int]:
        return frozenset({0})

    def mods(self) -> Sequence[Any]:
        return (commit_all,)


def commit_all(message: Message, context: Context, call_next: Any) -> Any:
    turn = int(message.content["config"]["server-round"]) - 1
    return spoil(call_next(message, context), CRIMES[turn])


def test_one_in_ten_costs_no_more_than_its_data(play, tiny):
    cfg = tiny(*TEN, f"rounds={len(CRIMES)}")
    spoilt = play(cfg={**cfg, "attack": {"_target_": f"{__name__}.One"}})
    events = {e["round"]: e for e in spoilt.events if e["node"] == 0}
    for number, (crime, reason) in enumerate(zip(CRIMES, REASONS, strict=True), 1):
        assert events[number]["status"] in ("rejected", "error"), crime
        assert reason in events[number]["reason"], crime
    assert [r["completed"] for r in spoilt.rounds] == [9] * len(CRIMES)
    without = play(cfg=cfg)
    assert abs(spoilt.summary["accuracy"] - without.summary["accuracy"]) < 0.03


class Honest:
    """Asks those who are no gangsters."""

    def select(self, view: Any) -> list[Any]:
        from strategies.selection import Choice

        return [Choice(node) for node in sorted(view.idle)[len(CRIMES) :]]
