"""The part of a report on a real hive: who came, left, returned, and what became of their work."""

from __future__ import annotations

from fedhive.results import units
from fedhive.results.facts import Facts
from fedhive.results.page import Page, el
from fedhive.results.rundir import RunDir
from fedhive.results.widgets import table_of

WORDS = {
    "waiting": "waiting",
    "here": "came",
    "away": "left",
    "returned": "returned with its work",
    "lost": "its work was lost",
    "failed": "failed",
    "unneeded": "was not needed",
    "resumed": "the server began anew",
}
MOST_ROWS = 500


def add(made: Page, run: Facts) -> None:
    """Add the section to a page, if the machines were real."""
    notes = [row for row in RunDir(run.path).notes() if row.get("kind") != "waiting"]
    if not notes:
        return
    said = (
        "What the server saw of the machines. A machine that is cut off counts as gone a minute "
        "after its last sign of life; what it finished meanwhile is taken when it is back."
    )
    columns = (("Time", False), ("Machine", True), ("What", True), ("Details", True))
    cells = (
        [
            (units.duration(row.get("t_s")), row.get("t_s")),
            (str(row.get("who", "")), row.get("who")),
            (WORDS.get(str(row.get("kind")), str(row.get("kind"))), row.get("kind")),
            (str(row.get("what", "")), row.get("what")),
        ]
        for row in notes[:MOST_ROWS]
    )
    parts = [el("p", said, class_="note"), table_of(columns, cells)]
    if len(notes) > MOST_ROWS:
        parts.append(el("p", f"And {units.number(len(notes) - MOST_ROWS)} more.", class_="note"))
    made.section("hive", "Hive", "Who came, left and returned", *parts)
