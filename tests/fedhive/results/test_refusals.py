"""Refused, failed and corrected replies are listed once for each machine and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhive.results import refusals
from fedhive.results.facts import load
from fedhive.results.report import build_report
from fedhive.results.rundir import RunDir
from tests.fedhive.results.test_report import Elements


def event(node: int, round: int, status: str, reason: str = "") -> dict:
    return {"node": node, "round": round, "status": status, "reason": reason, "kind": "train"}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path)
    found.append_round({"round": 1})
    return found


def test_grouped_by_machine_and_reason(run: RunDir) -> None:
    run.append_events([
        event(3, 1, "rejected", "NaN"), event(1, 1, "accepted"), event(3, 2, "rejected", "shape"),
        event(3, 4, "rejected", "NaN"), event(1, 2, "error", "<b>boom</b>"),
        event(2, 5, "accepted", "999 examples counted as 10"), event(2, 1, "late", "too late"),
        event(4, 1, "withdrawn", "left at 3 s"),
    ])  # fmt: skip
    found = [
        (first["node"], first["reason"], at) for first, at in refusals.grouped(load(run.path))
    ]
    assert found == [
        (1, "<b>boom</b>", [2]), (2, "999 examples counted as 10", [5]),
        (3, "NaN", [1, 4]), (3, "shape", [2]),
    ]  # fmt: skip
    text = build_report(run.path).read_text()
    assert "<b>boom</b>" not in text
    page = Elements(text).text
    assert "node 3 refused NaN 2 1 to 4" in " ".join(page.split())


def test_long_lists_are_cut(run: RunDir) -> None:
    run.append_events([event(i, 1, "rejected", "NaN") for i in range(refusals.MOST_ROWS + 7)])
    assert "And 7 more." in build_report(run.path).read_text()


def test_nothing_refused_no_section(run: RunDir) -> None:
    run.append_events([event(1, 1, "accepted"), event(2, 1, "late", "too late")])
    assert "refusals" not in Elements(build_report(run.path).read_text()).sections()
