"""The part of a report on protection: what was hidden or noised, from whom, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedhive.results import privacy_chart, units
from fedhive.results.facts import Facts, Record
from fedhive.results.page import Markup, Page, el
from fedhive.results.units import known
from fedhive.results.widgets import pairs, share_bar, table_of

STAGES = {
    "seal": "encrypt, CPU (all clients, as they say)",
    "parse": "check and parse, CPU",
    "add": "add, CPU",
    "open": "open sums, CPU",
}
MOST_LAYERS = 200


def add(made: Page, run: Facts) -> None:
    """Add the section to a page, if the run was protected."""
    parts = [part for layer in _layers(run.protection) for part in _one(layer)]
    figure = privacy_chart.epsilon(run)
    if figure is not None:
        views = {"Round": figure}
        parts.append(made.chart("chart-epsilon", views, "Epsilon after each round"))
    if parts:
        made.section("protection", "Protection", "Who could see what, and what it cost", *parts)


def _layers(found: Record) -> Iterator[Record]:
    """The protection, or each layer of a stack of them."""
    if "kind" in found:
        yield found
        return
    for layer in found.values():
        if isinstance(layer, dict) and "kind" in layer:
            yield layer


def _one(found: Record) -> Iterator[Markup]:
    yield el("h3", str(found["kind"]).capitalize())
    if found["kind"] != "encryption":
        yield pairs(_plain(found))
        return
    yield el("p", *_said(found), class_="note")
    if found.get("layers"):
        yield _shares(found)
    yield el("h3", "Who can see what of one client's encrypted coordinates")
    yield _table(("Who", "Sees"), [(r.get("who"), r.get("sees")) for r in found.get("sight", [])])
    yield el("h3", "What encryption cost")
    yield pairs(_costs(found.get("costs") or {}))
    for remark in found.get("remarks", []):
        yield el("p", str(remark), class_="note")


def _said(found: Record) -> list[str]:
    said = [
        f"{units.percent(found.get('hidden'))} of the coordinates of every update were encrypted "
        f"(mask {found.get('mask')}, cipher {found.get('cipher')}, keys {found.get('keys')}, path "
        f"{found.get('path')}); the rest travelled in the clear. "
    ]
    if found.get("protected") != found.get("hidden"):
        said.append(f"Only {units.percent(found.get('protected'))} count as protected. ")
    if found.get("insecure_simulation"):
        said.append(
            "This is a simulation: the keys were derived from the run's seed, and whoever knows "
            "it can open everything."
        )
    return said


def _shares(found: Record) -> Markup:
    columns = (
        ("Layer", True), ("Parameters", False), ("Encrypted", False), ("Protected", False),
        ("Clear and encrypted", True),
    )  # fmt: skip
    cells = []
    for row in found["layers"][:MOST_LAYERS]:
        total, hidden = known(row.get("parameters")) or 0.0, known(row.get("hidden")) or 0.0
        share = hidden / total if total else 0.0
        counted = (known(row.get("protected")) or 0.0) / total if total else 0.0
        cells.append([
            (str(row.get("layer")), row.get("layer")),
            (units.number(total), total),
            (units.percent(share), share),
            (units.percent(counted), counted),
            (share_bar([("useful", hidden), ("well", total - hidden)]), share),
        ])  # fmt: skip
    return table_of(columns, cells)


def _costs(costs: Record) -> list[tuple[str, str]]:
    seconds = costs.get("seconds") or {}
    sealed, clear = known(costs.get("sealed_bytes")), known(costs.get("clear_bytes"))
    rows = [(said, _seconds(seconds.get(stage))) for stage, said in STAGES.items()]
    rows.append(("ciphertext sent", units.size(sealed)))
    if sealed and clear:
        rows.append(("in place of float32", f"{units.size(clear)} (x {sealed / clear:.2f})"))
    if costs.get("query_bytes"):
        rows.append(("to and from holders of the key", units.size(costs["query_bytes"])))
    rows.append(("values cut to the clip", units.number(costs.get("saturated"))))
    refused, lost = costs.get("refused") or {}, costs.get("lost") or {}
    if refused:
        said = ", ".join(f"{name} {count}" for name, count in sorted(refused.items()))
        rows.append(("refused sealed parts", said))
    if lost:
        said = "; ".join(f"round {number}: {why}" for number, why in list(lost.items())[:5])
        rows.append((f"rounds not opened: {len(lost)}", said))
    return rows


def _seconds(value: Any) -> str:
    x = known(value)
    return units.UNKNOWN if x is None else f"{x:.3f} s"


def _plain(found: Record) -> list[tuple[str, str]]:
    """Names and values of whatever a protection says in plain words and numbers."""
    rows = []
    for key, value in found.items():
        number = known(value)
        if key == "kind" or value is None or isinstance(value, dict | list):
            continue
        said = f"{number:.4g}" if number is not None else str(value)
        rows.append((key.replace("_", " "), said))
    return rows


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Markup:
    cells = ([(str(cell), cell) for cell in row] for row in rows)
    return table_of([(head, True) for head in heads], cells)
