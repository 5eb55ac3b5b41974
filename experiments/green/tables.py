"""The study's tables, from its runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Run = dict[str, Any]
BASE, OURS, PERFECT = "FedAvg-now", "ours", "ours, perfect forecasts"


def of(runs: Sequence[Run], method: str) -> list[Run]:
    """A method's runs by seed."""
    return sorted((r for r in runs if r["method"] == method), key=lambda r: r["seed"])


def reached(found: Sequence[Run]) -> list[Run]:
    """Those that got to the target."""
    return [run for run in found if run["time_to_target_s"] is not None]


def mean(values: Sequence[float]) -> str:
    """Mean and half of its 95 % interval."""
    if not values:
        return "-"
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.1f} ± {half:.1f}"


def point(runs: Sequence[Run], method: str) -> tuple[float, float] | None:
    """Mean hours and grams to the target; None unless every seed reached it."""
    found = of(runs, method)
    if not found or len(reached(found)) < len(found):
        return None
    hours = [run["time_to_target_s"] / 3600.0 for run in found]
    return float(np.mean(hours)), float(np.mean([run["grams"] for run in found]))


def row(runs: Sequence[Run], method: str) -> str:
    found = of(runs, method)
    there = reached(found)
    base = {run["seed"]: run for run in reached(of(runs, BASE))}
    pairs = [(run, base[run["seed"]]) for run in there if run["seed"] in base]
    saved = [100.0 * (1.0 - run["grams"] / other["grams"]) for run, other in pairs]
    slower = [run["time_to_target_s"] / other["time_to_target_s"] for run, other in pairs]
    wasted = [100.0 * run["carbon_wasted_g"] / run["grams"] for run in found]
    cells = [
        method, f"{len(there)} of {len(found)}", mean([run["grams"] for run in there]),
        mean([run["time_to_target_s"] / 3600.0 for run in there]), mean(saved),
        f"{np.mean(slower):.2f}" if slower else "-", f"{np.mean(wasted):.1f}",
        f"{np.mean([run['participation_gini'] for run in found]):.2f}",
        f"{np.mean([run['rounds'] for run in found]):.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| schedule | reached | g to target | hours to target | less carbon, % | hours, times | "
    "of that wasted, % | Gini | rounds |\n" + "|---" * 9 + "|"
)


def by_seed(runs: Sequence[Run], rival: str) -> str:
    """With how many seeds ours needs less than a rival, where both always get there."""
    pairs = list(zip(of(runs, OURS), of(runs, rival), strict=True))
    grams = sum(a["grams"] < b["grams"] for a, b in pairs)
    hours = sum(a["time_to_target_s"] < b["time_to_target_s"] for a, b in pairs)
    return f"fewer grams with {grams} and fewer hours with {hours} of {len(pairs)} seeds"


def where(runs: Sequence[Run], rival: str) -> str:
    """How a rival that does not always get there compares where it does, in a sentence."""
    mine = {run["seed"]: run for run in reached(of(runs, OURS))}
    pairs = [(run, mine[run["seed"]]) for run in reached(of(runs, rival)) if run["seed"] in mine]
    grams = sum(a["grams"] > b["grams"] for a, b in pairs)
    hours = sum(a["time_to_target_s"] > b["time_to_target_s"] for a, b in pairs)
    return (
        f" Of the {len(pairs)} with which it did, it emitted more than ours with {grams} and took "
        f"longer with {hours}."
    )


def verdicts(runs: Sequence[Run], methods: Sequence[str], sweep: Sequence[str]) -> list[str]:
    """What holds of what was hoped for, in sentences made of the numbers."""
    said = []
    base, ours, perfect = (point(runs, name) for name in (BASE, OURS, PERFECT))
    if base and ours:
        said.append(
            f"* Against {BASE}, ours emits {100 * (1 - ours[1] / base[1]):.0f} % less in "
            f"{ours[0] / base[0]:.2f} times the hours (ratios of means)."
        )
    if base and ours and perfect:
        kept = (base[1] - ours[1]) / (base[1] - perfect[1])
        said.append(f"* Ours keeps {100 * kept:.0f} % of the grams that perfect forecasts save.")
    fronts = [(name, place) for name in (OURS, *sweep) if (place := point(runs, name))]
    for rival in methods:
        there = point(runs, rival)
        if rival in (OURS, PERFECT) or ours is None:
            continue
        if there is None:
            said.append(f"* {rival} did not reach the target with every seed.{where(runs, rival)}")
        elif ours[0] <= there[0] and ours[1] <= there[1]:
            less_h, less_g = (100.0 * (1.0 - a / b) for a, b in zip(ours, there, strict=True))
            said.append(
                f"* Ours needs fewer grams ({less_g:.0f} %) and fewer hours ({less_h:.0f} %) than "
                f"{rival}; {by_seed(runs, rival)}."
            )
        else:
            other = [name for name, p in fronts if p[0] <= there[0] and p[1] <= there[1]]
            told = "fewer grams but more hours" if ours[1] < there[1] else "more grams"
            more = f"; with another price, {other[0]}, it needs less of both" if other else ""
            said.append(f"* Ours needs {told} than {rival}{more}.")
    scores = [run for run in of(runs, OURS) if run["carbon_forecast_mape"] is not None]
    if scores:
        mape, rank = (
            float(np.mean([run[f"carbon_forecast_{key}"] for run in scores]))
            for key in ("mape", "rank")
        )
        said.append(
            f"* Seasonal-naive forecasts of the next 24 hours were wrong by {100 * mape:.0f} % on "
            f"average; their order of the hours had a rank correlation of {rank:.2f}."
        )
    return said


def report(
    runs: Sequence[Run], methods: Sequence[str], sweep: Sequence[str], target: float
) -> str:
    """results.md."""
    seeds = sorted({run["seed"] for run in runs})
    cpu = sum(run["cpu_s"] for run in runs) / 60.0
    lines = [
        f"Test accuracy {100 * target:g} %; means of seeds {seeds[0]} to {seeds[-1]} with 95 % "
        "intervals, of those seeds that reached the target. Grams are of machines and network, "
        "wasted work included. Less carbon and times the hours: paired with FedAvg-now by seed.\n",
        HEAD, *(row(runs, name) for name in methods if of(runs, name)),
        "\nThe price for delay, swept:\n",
        HEAD, *(row(runs, name) for name in (OURS, *sweep) if of(runs, name)), "",
        *verdicts(runs, methods, sweep),
        f"\n{len(runs)} runs, {cpu:.0f} minutes of one core.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
