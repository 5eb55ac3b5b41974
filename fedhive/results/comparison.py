"""Several runs side by side: mean curves with intervals over seeds, and a table of results."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedhive.errors import UserError
from fedhive.results import facts, units
from fedhive.results.comparison_charts import COLOURS, curves, front, tradeoff
from fedhive.results.groups import Group, grouped, interval
from fedhive.results.page import Markup, Page, el
from fedhive.results.rundir import RunDir
from fedhive.results.widgets import LOGO, table_of

if TYPE_CHECKING:
    from rich.table import Table

COMPARISON = "comparison.html"

MOST_CURVES = 30
MIXED = (
    "Some of these runs count direct emissions and some those of the whole life cycle "
    "(carbon.account): do not compare their grams."
)


@dataclass(frozen=True)
class Metric:
    """A column of the comparison: a name, the summary keys it adds up, and how it is written."""

    name: str
    keys: tuple[str, ...]
    form: Callable[[object], str]


BRIEF = ("Accuracy", "Time to target", "Energy", "CO₂e", "η")
METRICS = (
    Metric("Accuracy", ("accuracy",), units.percent),
    Metric("Best", ("accuracy_best",), units.percent),
    Metric("Time to target", ("time_to_target_s",), units.duration),
    Metric("Virtual time", ("time_virtual_s",), units.duration),
    Metric("Energy", ("energy_useful_j", "energy_wasted_j"), units.energy),
    Metric("Wasted", ("energy_wasted_j",), units.energy),
    Metric("CO₂e", ("carbon_useful_g", "carbon_wasted_g"), units.grams),
    Metric("Bytes", ("bytes_up", "bytes_down"), units.size),
    Metric("η", ("eta",), units.percent),
    Metric("Gini", ("participation_gini",), units.number),
    Metric("Wall time", ("time_wall_s",), units.duration),
)


def gather(paths: Sequence[Path]) -> list[Group]:
    """Read runs and group them, the most accurate group first.

    Args:
        paths: Run directories, or folders with runs somewhere below them.

    Raises:
        UserError: If a path holds no run, or a run's file is damaged.
    """
    if not paths:
        raise UserError("nothing to compare: give run directories or a sweep folder")
    runs = [facts.load(path, events=False) for path in facts.find_runs(list(paths))]

    def rank(group: Group) -> float:
        values = group.values("accuracy")
        return -interval(values)[0] if values else math.inf

    return sorted(grouped(runs), key=rank)


def compare(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page that compares runs.

    Args:
        paths: Run directories, or folders with runs somewhere below them.
        out: The file to write; ``comparison.html`` in the folder that the runs share if not given.

    Returns:
        The file's path.

    Raises:
        UserError: If a path holds no run, or a run's file is damaged.
    """
    groups = gather(paths)
    target = Path(out) if out is not None else _shared(groups) / COMPARISON
    target.parent.mkdir(parents=True, exist_ok=True)
    RunDir(target.parent).write_bytes(target.name, page(groups).render())
    return target


def table(paths: Sequence[Path]) -> Table:
    """The comparison's table for a terminal.

    Args:
        paths: Run directories, or folders with runs somewhere below them.

    Raises:
        UserError: If a path holds no run, or a run's file is damaged.
    """
    from rich.table import Table
    from rich.text import Text

    groups = gather(paths)
    # A terminal is narrow; the page has them all.
    metrics = [metric for metric in _known(groups) if metric.name in BRIEF]
    made = Table(header_style="bold", border_style="dim")
    made.add_column("", overflow="fold")
    made.add_column("seeds", justify="right")
    for metric in metrics:
        made.add_column(metric.name, justify="right")
    for group in groups:
        cells = (cell(group, metric)[0] for metric in metrics)
        made.add_row(Text(group.label), str(len(group.runs)), *map(Text, cells))
    return made


def cell(group: Group, metric: Metric) -> tuple[str, float | None]:
    """Mean and interval as text, and the mean to sort by.

    Where only some of the runs know the value (a target that was not always reached), the text
    says how many do.
    """
    values = group.values(*metric.keys)
    if not values:
        return units.UNKNOWN, None
    mean, half = interval(values)
    text = metric.form(mean)
    if half is not None:
        text += f" ± {metric.form(half)}"
        if metric.form is units.percent:
            text = f"{100 * mean:.1f} ± {100 * half:.1f} %"
    if len(values) < len(group.runs):
        text += f" ({len(values)} of {len(group.runs)})"
    return text, mean


def _known(groups: Sequence[Group]) -> list[Metric]:
    return [m for m in METRICS if any(group.values(*m.keys) for group in groups)]


def _shared(groups: Sequence[Group]) -> Path:
    runs = [run.path.resolve() for group in groups for run in group.runs]
    parents = {run.parent for run in runs}
    return Path(os.path.commonpath([str(parent) for parent in parents]))


def page(groups: Sequence[Group]) -> Page:
    """The comparison as a page."""
    count = sum(len(group.runs) for group in groups)
    seeds = max(len(group.runs) for group in groups)
    made = Page(title="Comparison · fedhive", head=_head(groups, count, seeds))
    _results(made, groups)
    _curves(made, groups)
    _tradeoff(made, groups)
    _front(made, groups)
    return made


def _head(groups: Sequence[Group], count: int, seeds: int) -> Markup:
    values = groups[0].values("accuracy")
    if len(groups) == 1:
        said = f"{count} runs of one configuration."
    else:
        said = f"{count} runs of {len(groups)} configurations."
        if values:
            said += f" The most accurate is {groups[0].label}, "
            said += f"with {cell(groups[0], METRICS[0])[0]}."
    if seeds > 1:
        said += " Intervals are 95 % confidence intervals of the mean over seeds."
    names = sorted({run.name for group in groups for run in group.runs})
    title = names[0] if len(names) == 1 else f"{len(groups)} configurations compared"
    return el(
        "header",
        el("div", LOGO, "fedhive", class_="brand"),
        el("h1", title),
        el("p", said, class_="lead"),
    )


def _results(made: Page, groups: Sequence[Group]) -> None:
    metrics = _known(groups)
    rows = []
    for i, group in enumerate(groups):
        dot = el("span", class_="dot", style=f"background:var(--c{i % COLOURS})")
        label = el("span", dot if i < MOST_CURVES else None, group.label)
        row: list[tuple[str, object]] = [
            (label, group.label),
            (str(len(group.runs)), len(group.runs)),
        ]
        rows.append(row + [cell(group, metric) for metric in metrics])
    columns = [("Configuration", True), ("Seeds", False), *((m.name, False) for m in metrics)]
    made.section(
        "results", "Results", "Results",
        el("p", "Press a column's name to sort by it.", class_="note"),
        el("p", MIXED, class_="warning") if len(_accounts(groups)) > 1 else None,
        table_of(columns, rows),
    )  # fmt: skip


def _accounts(groups: Sequence[Group]) -> set[str]:
    """In which ways the runs' emissions are counted; life cycle where no option says so."""
    configs = [run.config.get("carbon") or {} for group in groups for run in group.runs]
    return {str(carbon.get("account", "life_cycle")) for carbon in configs}


def _curves(made: Page, groups: Sequence[Group]) -> None:
    shown = groups[:MOST_CURVES]
    pairs = {
        "Accuracy": curves(shown, "accuracy"),
        "Loss": curves(shown, "loss"),
    }
    drawn = {name: views for name, views in pairs.items() if views}
    if not drawn:
        return
    more = len(groups) - len(shown)
    said = "Mean over seeds, with its 95 % interval shaded."
    if more:
        said += f" The first {len(shown)} configurations of the table are drawn."
    boxes = [
        el(
            "div",
            el("h3", f"Test {name.lower()}"),
            made.chart(f"chart-{name.lower()}", views, name),
        )
        for name, views in drawn.items()
    ]
    first = next(iter(drawn.values()))
    made.section(
        "curves", "Curves", "How they learned", el("p", said, class_="note"),
        made.chooser(first, [f"chart-{name.lower()}" for name in drawn], "Horizontal axis"),
        el("div", *boxes),
    )  # fmt: skip


def _tradeoff(made: Page, groups: Sequence[Group]) -> None:
    views = tradeoff(groups[:MOST_CURVES])
    if not views or len(groups) < 2:
        return
    made.section(
        "tradeoff", "Cost", "Accuracy against cost",
        el("p", "Up and to the left is better.", class_="note"),
        made.chooser(views, ["chart-tradeoff"], "Cost"),
        made.chart("chart-tradeoff", views, "Accuracy against cost of each configuration"),
    )  # fmt: skip


def _front(made: Page, groups: Sequence[Group]) -> None:
    figure = front(groups[:MOST_CURVES])
    if figure is None:
        return
    said = (
        "Down and to the left is better. On the dotted line: no other configuration needs both "
        "less time and fewer grams. Configurations whose every run reached its target are shown."
    )
    made.section(
        "front", "Front", "Grams and time to the target", el("p", said, class_="note"),
        made.chart("chart-front", {"all": figure}, "Grams against time to the target"),
    )  # fmt: skip
