"""One run as one page: ``report.html``, complete in itself, for a colleague or for a phone."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedhive.results import (
    carbon_page,
    charts,
    facts,
    fairness,
    forecast_page,
    hive_page,
    leakage_page,
    membership_page,
    protection_page,
    refusals,
    units,
)
from fedhive.results.facts import Facts, Record
from fedhive.results.glossary import TERMS
from fedhive.results.headline import head
from fedhive.results.page import Markup, Page, el, join
from fedhive.results.rundir import REPORT, RunDir
from fedhive.results.timeline import legend, timeline
from fedhive.results.units import known
from fedhive.results.widgets import code, pairs, share_bar, table_of, tip

MOST_MACHINES = 300


def build_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a run directory.

    What a run did not record is left out of its page; an unfinished run is shown as far as it
    came.

    Args:
        run_dir: A run directory.

    Returns:
        The file's path.

    Raises:
        UserError: If there is no run in the directory, or one of its files is damaged.
    """
    run = facts.load(run_dir)
    RunDir(run_dir).write_bytes(REPORT, page(run).render())
    return Path(run_dir) / REPORT


def page(run: Facts) -> Page:
    """The report of a run."""
    sections = (
        _learning, _timeline, forecast_page.add, carbon_page.add, _cost, _participation,
        hive_page.add, refusals.add, protection_page.add, leakage_page.add, membership_page.add,
        _data, _machines, _reproduce,
    )  # fmt: skip
    made = Page(title=f"{run.name} · fedhive", head=head(run))
    for add in sections:
        add(made, run)
    made.section("words", "Words", "What the words mean", _glossary())
    return made


def _learning(made: Page, run: Facts) -> None:
    views = charts.curves(run)
    accuracy = {name: pair[0] for name, pair in views.items() if pair[0]["data"][0]["x"]}
    loss = {name: pair[1] for name, pair in views.items() if pair[1]["data"][0]["x"]}
    drawn = [
        (key, title, found)
        for key, title, found in (
            ("accuracy", "Test accuracy", accuracy),
            ("loss", "Test loss", loss),
        )
        if found
    ]
    if not drawn:
        return
    boxes = [
        el("div", el("h3", title), made.chart(f"chart-{key}", found, f"{title} over the run"))
        for key, title, found in drawn
    ]
    made.section(
        "learning", "Learning", "How the model learned",
        el("p", "Choose what it is set against: effort, time or cost.", class_="note"),
        made.chooser(drawn[0][2], [f"chart-{key}" for key, *_ in drawn], "Horizontal axis"),
        el("div", *boxes, class_="pair" if len(boxes) == 2 else None),
    )  # fmt: skip


def _timeline(made: Page, run: Facts) -> None:
    found = timeline(run)
    if found is None:
        return
    figure, left_out = found
    names = {trace["name"] for trace in figure["data"]}
    said = (
        "Each row is a machine, each bar its computing for one task, coloured by what became of "
        "it; thin bars are transfers, strokes when it was asked. "
    )
    if "on" in names:
        said += "Shaded: it was on. "
    if "left" in names:
        said += "Crosses: it left before it had finished. "
    made.section(
        "timeline", "Timeline", "What each machine did",
        el("p", said + left_out, class_="note"),
        el("ul", *(_key(*entry) for entry in legend(figure)), class_="legend"),
        made.chart("chart-timeline", {"all": figure}, "Tasks of each machine over virtual time"),
    )  # fmt: skip


def _key(name: str, colour: str, kind: str) -> Markup:
    return el("li", el("i", class_=kind, style=f"--c:var(--{colour})"), Markup(name))


def _cost(made: Page, run: Facts) -> None:
    views = {name: figures[0] for name, figures in charts.costs(run).items()}
    if not views:
        return
    note = el(
        "p", "Added up over the run. Useful ", tip("useful"), " became part of the model; wasted ",
        tip("wasted"), " did not.", class_="note",
    )  # fmt: skip
    made.section(
        "cost", "Cost", "What it cost", note,
        made.chooser(views, ["chart-cost"], "Quantity"),
        made.chart("chart-cost", views, "Energy and carbon so far, useful and wasted"),
    )  # fmt: skip


def _participation(made: Page, run: Facts) -> None:
    views, spent = fairness.views(run), _seconds(run)
    if not views and spent is None:
        return
    chart = None
    if views:
        index = known(run.summary["participation_gini"])
        if index is None:
            index = facts.gini([row.get("accepted", 0) for row in facts.participation(run)])
        said = fairness.sentence(run) or "No machine had work accepted."
        if index is not None:
            said += f" The Gini coefficient of accepted tasks is {index:.2f} "
        note = el("p", said, tip("gini") if index is not None else None, class_="note")
        chart = join(
            [
                note,
                made.chooser(views, ["chart-participation"], "View") or Markup(),
                made.chart("chart-participation", views, "Tasks by machine, and how evenly"),
            ]
        )
    made.section("participation", "Participation", "Who took part", chart, spent)


def _seconds(run: Facts) -> Markup | None:
    kinds = (
        ("useful_s", "useful", "useful computing"),
        ("lost_s", "wasted", "lost computing"),
        ("communicating_s", "communicating", "transfers"),
        ("waiting_s", "waiting", "on, without work"),
    )
    sums = [
        (colour, word, sum(known(row.get(key)) or 0.0 for row in run.accounts))
        for key, colour, word in kinds
    ]
    total = sum(amount for *_, amount in sums)
    if not total:
        return None
    items = (
        el(
            "li",
            el("i", style=f"background:var(--{colour})"),
            f"{units.percent(amount / total)} {word}",
        )
        for colour, word, amount in sums
    )
    return join(
        [
            el("h3", "Where the machines' time went while they were on"),
            share_bar([(colour, amount) for colour, _, amount in sums], tall=True),
            el("ul", *items, class_="legend"),
        ]
    )


def _data(made: Page, run: Facts) -> None:
    figure = charts.split(run)
    if figure is None:
        return
    counts = [sum(known(c) or 0.0 for c in row) for row in run.split["counts"]]
    most = max((known(c) or 0.0 for row in run.split["counts"] for c in row), default=0.0)
    said = (
        f"{units.number(sum(counts))} samples over {len(counts):,} clients, from "
        f"{units.number(min(counts))} to {units.number(max(counts))} each. The fullest cell holds "
        f"{units.number(most)}."
    )
    made.section(
        "data", "Data", "How the data is split", el("p", said, class_="note"),
        made.chart("chart-split", {"all": figure}, "Samples of each class at each client"),
    )  # fmt: skip


def _rate(value: object) -> str:
    return f"{units.number(value)} /s" if known(value) is not None else units.UNKNOWN


def _bandwidth(value: object) -> str:
    x = known(value)
    return units.UNKNOWN if x is None else f"{x / 1e6:.3g} Mbit/s"


def _watts(value: object) -> str:
    return f"{units.number(value)} W" if known(value) is not None else units.UNKNOWN


_COLUMNS: tuple[tuple[str, str, Callable[[Any], str] | None], ...] = (
    ("name", "Machine", None),
    ("asked", "Asked", units.number),
    ("accepted", "Accepted", units.number),
    ("energy_j", "Energy", units.energy),
    ("carbon_g", "CO₂e", units.grams),
    ("on_s", "On", units.duration),
    ("rate", "Samples", _rate),
    ("train_w", "Power", _watts),
    ("down_bps", "Down", _bandwidth),
    ("up_bps", "Up", _bandwidth),
    ("zone", "Zone", None),
    ("location", "Location", None),
)


def _machines(made: Page, run: Facts) -> None:
    if not run.machines:
        return
    done = {row["node"]: row for row in facts.participation(run)} if run.events else {}
    accounts = {row.get("node"): row for row in run.accounts}
    merged = [
        {"accepted": 0 if run.events else None, **accounts.get(m.get("node"), {}),
         **done.get(m.get("node"), {}), **m, "name": run.machine_name(m.get("node"))}
        for m in run.machines[:MOST_MACHINES]
    ]  # fmt: skip
    columns = [c for c in _COLUMNS if any(row.get(c[0]) is not None for row in merged)]
    cells = (
        [
            (form(row.get(key)), known(row.get(key))) if form else (str(v := row.get(key, "")), v)
            for key, _, form in columns
        ]
        for row in merged
    )
    more = len(run.machines) - len(merged)
    made.section(
        "machines", "Machines", "The machines",
        el("p", f"The first {MOST_MACHINES}; {more:,} more are in machines.json.", class_="note")
        if more else None,
        table_of([(title, form is None) for _, title, form in columns], cells),
    )  # fmt: skip


def command(run: Facts) -> str | None:
    """The command line that gives this run again, or ``None`` if nothing is known of it."""
    words = list(run.overrides or [])
    keys = {word.lstrip("+~").partition("=")[0] for word in words}
    for key in ("experiment", "seed"):
        value = run.summary.get(key)
        # Without Hydra's record the name is the best clue to what was composed.
        wanted = key == "seed" or run.overrides is None
        if wanted and key not in keys and value is not None:
            words.append(f"{key}={value}")
    return shlex.join(["fedhive", "run", *words]) if words else None


def _reproduce(made: Page, run: Facts) -> None:
    summary = run.summary
    line = command(run)
    commit = str(summary["git_commit"] or "")
    # A plus sign marks changes that were not committed.
    lines = [f"git checkout {shlex.quote(commit.rstrip('+'))}"] if commit else []
    rows = [
        ("model SHA-256", summary["model_sha256"]),
        ("config SHA-256", summary["config_sha256"]),
        ("git commit", summary["git_commit"]),
    ]
    versions = summary["versions"]
    if isinstance(versions, dict):
        rows += versions.items()
    shown = [(str(name), str(value)) for name, value in rows if value is not None]
    said = "The same commit, versions and command give the same model, bit for bit."
    if commit.endswith("+"):
        said += (
            " This run had changes that were not committed: it can only be had again with them."
        )
    parts = [
        el("p", said, class_="note"),
        code("\n".join([*lines, line])) if line else None,
        pairs(shown) if shown else None,
    ]  # fmt: skip
    if run.config:
        text = _yaml(run.config)
        parts.append(
            el("details", el("summary", "The whole configuration"), el("pre", text, class_="tall"))
        )
    if line or shown or run.config:
        made.section("reproduce", "Reproduce", "How to get this again", *parts)


def _yaml(config: Record) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=88)


def _glossary() -> Markup:
    items = (
        Markup(el("dt", term.replace("eta", "η")) + el("dd", said)) for term, said in TERMS.items()
    )
    return el("details", el("summary", f"{len(TERMS)} terms"), el("dl", *items, class_="glossary"))
