"""From the cells' results to the table and the figure."""

from __future__ import annotations

import html
import itertools
import math
import statistics
from collections.abc import Mapping
from typing import Any

import methods
from scipy import stats

from fedhive.results.reference import Reference, envelope

Results = Mapping[str, Mapping[str, Any]]


def best_rate(results: Results, method: str, regime: str) -> float:
    """The learning rate with the highest accuracy on the tuning seed."""
    found = {}
    for name, result in results.items():
        parts = name.split(" / ")
        if parts[:3] == [method, "phones", regime] and parts[4] == "seed 100":
            found[float(parts[3][3:])] = result["accuracy"]
    return max(found, key=lambda lr: found[lr])


def ideal(results: Results) -> Reference:
    """What an ideal machine reaches: the mean of seeds, with the better learning rate."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for name, result in results.items():
        parts = name.split(" / ")
        if parts[0] == "ideal":
            groups.setdefault((parts[1], parts[2]), []).append(result)
    best: dict[float, float] = {}
    for runs in groups.values():
        samples = statistics.mean(run["samples"] for run in runs)
        accuracy = statistics.mean(run["accuracy"] for run in runs)
        best[samples] = max(accuracy, best.get(samples, 0.0))
    return envelope(list(best.items()))


def runs_of(results: Results, method: str, hive: str, regime: str, seeds: int) -> list[Any]:
    """A method's results, by seed."""
    lr = rate_of(results, method, regime)
    count = min(seeds, methods.PART_SEEDS) if method in methods.PARTS else seeds
    return [results[f"{method} / {hive} / {regime} / lr {lr} / seed {s}"] for s in range(count)]


def rate_of(results: Results, method: str, regime: str) -> float:
    """The learning rate it runs with: variants of ours take ours's."""
    return best_rate(results, methods.OURS if method in methods.PARTS else method, regime)


def shown(regime: str) -> list[str]:
    """The methods that were run in a regime."""
    parts = methods.PARTS if regime == "movable" else ()
    return [*methods.RIVALS, methods.OURS, *parts]


def always(results: Results, hive: str, regime: str, seeds: int) -> list[Any]:
    """The always-on reference's results, by seed."""
    tails = [f"/ {hive} / {regime} / ", "always / "]
    found = [(n, r) for n, r in results.items() if n.startswith(tails[1]) and tails[0] in n]
    by_seed = {int(name.rpartition("seed ")[2]): result for name, result in found}
    return [by_seed[seed] for seed in range(seeds)]


def eta(reference: Reference, run: Mapping[str, Any]) -> float:
    """Samples that the ideal machine needs for this accuracy, over those that were to be had."""
    return reference.samples_to(run["accuracy"]) / float(run["available"])


def gap(ours: list[Any], reference: list[Any]) -> tuple[float, float]:
    """(mean, one-sided 95 % upper bound) of the reference's lead, in points of accuracy."""
    lead = [100 * (b["accuracy"] - a["accuracy"]) for a, b in zip(ours, reference, strict=True)]
    mean = statistics.mean(lead)
    if len(lead) < 2:
        return mean, math.nan
    error = statistics.stdev(lead) / math.sqrt(len(lead))
    return mean, mean + float(stats.t.ppf(0.95, len(lead) - 1)) * error


def _row(method: str, runs: list[Any], reference: Reference, lr: float) -> str:
    etas = [eta(reference, run) for run in runs]
    system = statistics.mean(run["samples"] / run["available"] for run in runs)
    accuracy = [100 * run["accuracy"] for run in runs]
    mean = statistics.mean
    spread = statistics.stdev(etas) if len(etas) > 1 else 0.0
    return (
        f"| {method} | {lr:g} | {system:.2f} | {mean(etas) / system:.2f} | "
        f"**{mean(etas):.2f}** ± {spread:.2f} | {mean(accuracy):.2f} | "
        f"{mean(run['wasted'] for run in runs):.2f} | "
        f"{mean(run['gigabytes'] for run in runs):.1f} |"
    )


def table(results: Results, seeds: int) -> str:
    """results.md."""
    reference = ideal(results)
    lines = [
        "# Half the power", "",
        f"{methods.NODES} machines, {methods.HOURS} hours, {seeds} seeds. eta = eta_system x "
        "eta_statistical; ± is the standard deviation over seeds. What the columns mean: "
        "README.md.", "",
        "The ideal machine: " + ", ".join(
            f"{100 * a:.2f} % after {s / 1000:.0f} k"
            for s, a in zip(reference.samples, reference.accuracy, strict=True)) + " samples.",
    ]  # fmt: skip
    for hive in methods.HIVES:
        for regime in methods.REGIMES:
            ours = runs_of(results, methods.OURS, hive, regime, seeds)
            available = statistics.mean(run["available"] for run in ours)
            top = statistics.mean(
                100 * _reached(reference, float(run["available"])) for run in ours
            )
            lines += [
                "", f"## {hive}, {regime} data", "",
                f"{available / 1000:.0f} k samples were to be had; the ideal machine would reach "
                f"{top:.2f} %.", "",
                "| method | lr | eta_system | eta_statistical | eta | accuracy, % | "
                "energy wasted | GB |",
                "|---|---|---|---|---|---|---|---|",
            ]  # fmt: skip
            for method in shown(regime):
                runs = runs_of(results, method, hive, regime, seeds)
                lines.append(_row(method, runs, reference, rate_of(results, method, regime)))
            steady = always(results, hive, regime, seeds)
            lead, most = gap(ours, steady)
            lines += [
                _row("ours on machines that are always on", steady, reference,
                     best_rate(results, methods.OURS, regime)), "",
                f"Lead of the machines that are always on over ours: {lead:.2f} points, "
                f"at most {most:.2f} (one-sided 95 %).",
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _reached(reference: Reference, samples: float) -> float:
    """The ideal machine's accuracy after so many samples, interpolated."""
    pairs = list(zip(reference.samples, reference.accuracy, strict=True))
    for (s0, a0), (s1, a1) in itertools.pairwise(pairs):
        if s0 <= samples <= s1:
            return a0 + (a1 - a0) * (samples - s0) / (s1 - s0)
    return pairs[-1][1] if samples > pairs[-1][0] else pairs[0][1]


WIDTH, BAR, LEFT, TOP = 420.0, 17.0, 250.0, 56.0
LIGHT, DARK, REST = "#f3c9a5", "#d9480f", "#9aa5b1"


def figure(results: Results, seeds: int) -> str:
    """Bars of eta within eta_system, one panel for each hive and regime."""
    reference, names = ideal(results), shown("movable")
    height = TOP + BAR * 1.25 * len(names) + 34
    parts = []
    panels = [(hive, regime) for regime in methods.REGIMES for hive in methods.HIVES]
    for i, (hive, regime) in enumerate(panels):
        x0, y0 = LEFT + (i % 2) * (WIDTH + 80), (i // 2) * height
        parts.append(
            f'<text x="{x0}" y="{y0 + 40}" font-size="14" font-weight="bold">'
            f"{hive}, {regime} data</text>"
        )
        parts += _scale(x0, y0 + TOP, y0 + height - 30)
        for j, name in enumerate(shown(regime)):
            runs = runs_of(results, name, hive, regime, seeds)
            y = y0 + TOP + j * BAR * 1.25
            parts += _bars(x0, y, runs, reference, DARK if name == methods.OURS else REST)
            if i % 2 == 0:
                weight = "bold" if name == methods.OURS else "normal"
                parts.append(
                    f'<text x="{x0 - 8}" y="{y + 13}" text-anchor="end" font-weight="{weight}">'
                    f"{html.escape(name)}</text>"
                )
    width, total = LEFT + 2 * (WIDTH + 80), 2 * height + 30
    legend = (
        f'<rect x="{LEFT}" y="8" width="14" height="12" fill="{DARK}"/>'
        f'<text x="{LEFT + 20}" y="18">eta: share of the hive\'s power that became learning'
        "</text>"
        f'<rect x="{LEFT + 330}" y="8" width="14" height="12" fill="{LIGHT}"/>'
        f'<text x="{LEFT + 350}" y="18">eta_system: share that was computed and kept</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {total:g}" '
        'font-family="sans-serif" font-size="12" role="img">'
        "<title>Share of a volatile hive's power that becomes learning</title>"
        f'<rect width="100%" height="100%" fill="#fff"/>{legend}{"".join(parts)}</svg>\n'
    )


def _scale(x0: float, top: float, bottom: float) -> list[str]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = x0 + WIDTH * share
        colour, dash = ("#1b1b1b", "4 3") if share == 0.5 else ("#dddddd", "none")
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{top - 4}" y2="{bottom}" stroke="{colour}" '
            f'stroke-dasharray="{dash}"/><text x="{x}" y="{bottom + 15}" text-anchor="middle">'
            f"{share:g}</text>"
        )
    return parts


def _bars(x0: float, y: float, runs: list[Any], reference: Reference, colour: str) -> list[str]:
    system = statistics.mean(run["samples"] / run["available"] for run in runs)
    etas = [eta(reference, run) for run in runs]
    parts = [
        f'<rect x="{x0}" y="{y:.1f}" width="{WIDTH * share:.1f}" height="{BAR}" fill="{fill}"/>'
        for share, fill in ((system, LIGHT if colour == DARK else "#e3e7eb"),
                            (statistics.mean(etas), colour))
    ]  # fmt: skip
    for value in etas:
        parts.append(
            f'<circle cx="{x0 + WIDTH * value:.1f}" cy="{y + BAR / 2:.1f}" r="2" fill="#1b1b1b"/>'
        )
    return parts
