"""The part of a report on replies that were not taken as they came: whose, when, and why."""

from __future__ import annotations

from fedhive.results import units
from fedhive.results.facts import Facts, Record
from fedhive.results.page import Markup, Page, el
from fedhive.results.widgets import table_of

KINDS = {"rejected": "refused", "error": "failed", "accepted": "corrected"}
MOST_ROWS = 300


def add(made: Page, run: Facts) -> None:
    """Add the section to a page, if there was such a reply."""
    found = grouped(run)
    if not found:
        return
    said = (
        "Refused: the reply was malformed, and was dropped before anything looked at it. Failed: "
        "the machine's program did. Corrected: a number in it was not believed."
    )
    parts = [el("p", said, class_="note"), _table(run, found[:MOST_ROWS])]
    if len(found) > MOST_ROWS:
        parts.append(el("p", f"And {units.number(len(found) - MOST_ROWS)} more.", class_="note"))
    made.section("refusals", "Refusals", "What was refused, and why", *parts)


def grouped(run: Facts) -> list[tuple[Record, list[int]]]:
    """(the first such event, all its rounds), by machine, kind and reason."""
    rounds: dict[tuple[int, str, str], list[int]] = {}
    first: dict[tuple[int, str, str], Record] = {}
    for event in run.events:
        kind, reason = event.get("status"), str(event.get("reason") or "")
        if kind not in KINDS or (kind == "accepted" and not reason):
            continue
        key = (int(event["node"]), str(kind), reason)
        first.setdefault(key, event)
        rounds.setdefault(key, []).append(int(event.get("round") or 0))
    return [(first[key], sorted(rounds[key])) for key in sorted(rounds)]


def _table(run: Facts, found: list[tuple[Record, list[int]]]) -> Markup:
    columns = (
        ("Machine", True), ("What", True), ("Why", True), ("Times", False), ("Rounds", False),
    )  # fmt: skip
    cells = (
        [
            (run.machine_name(event["node"]), event["node"]),
            (KINDS[event["status"]], event["status"]),
            (str(event.get("reason") or units.UNKNOWN), str(event.get("reason") or "")),
            (units.number(len(rounds)), len(rounds)),
            (_span(rounds), rounds[0]),
        ]
        for event, rounds in found
    )
    return table_of(columns, cells)


def _span(rounds: list[int]) -> str:
    if rounds[0] == rounds[-1]:
        return str(rounds[0])
    return f"{rounds[0]} to {rounds[-1]}"
