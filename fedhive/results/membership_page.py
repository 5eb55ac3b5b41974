"""The part of a report on membership: how well attacks told members from others."""

from __future__ import annotations

import json

from fedhive.results.facts import Facts, Record
from fedhive.results.page import Page, el
from fedhive.results.widgets import table_of

MEMBERSHIP = "membership.json"
COLUMNS = (("auc", "AUC"), ("tpr_0.01", "TPR at 1 % FPR"), ("tpr_0.001", "TPR at 0.1 % FPR"))


def add(made: Page, run: Facts) -> None:
    """Add the section to a page, if membership was measured."""
    path = run.path / MEMBERSHIP
    if not path.is_file():
        return
    rows: list[Record] = json.loads(path.read_text())
    heads = [("Attack", True), *((title, False) for _, title in COLUMNS), ("Clients", False)]
    body = []
    for name in sorted({str(row["attack"]) for row in rows}):
        mine = [row for row in rows if row["attack"] == name]
        cells = [_cell([row[key] for row in mine if row[key] is not None]) for key, _ in COLUMNS]
        body.append(((name, name), *cells, (str(len(mine)), len(mine))))
    made.section(
        "membership", "Membership", "Who was in the training data",
        el(
            "p", "An attack was shown records of a client among others and had to tell them "
            "apart by what was recorded of the messages. An AUC of 0.5 is chance. Means over the "
            "attacked clients, with the 95 % interval of the mean. A failed attack is no proof of "
            "safety.", class_="note",
        ),
        table_of(heads, body),
    )  # fmt: skip


def _cell(values: list[float]) -> tuple[str, object]:
    from fedhive.leakage.score_inference import over_subjects

    if not values:
        return "too few others", None
    mean = over_subjects(values)
    if len(values) < 2:
        return f"{mean.value:.3f}", mean.value
    return f"{mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f})", mean.value
