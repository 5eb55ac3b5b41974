"""Figures that compare groups of runs: mean curves with intervals, and accuracy against cost."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from fedhive.results import charts
from fedhive.results.charts import Figure, rounded, titled, unit_of
from fedhive.results.facts import Facts, Record
from fedhive.results.groups import Group, interval
from fedhive.results.units import known

COLOURS = 10
POINTS = 120
DASHES = ("solid", "dash", "dot")
Line = list[tuple[float, float]]


def curves(groups: Sequence[Group], key: str) -> dict[str, Figure]:
    """Mean curves with intervals over each axis that all runs have.

    Seeds are read off at common places, by linear interpolation between rounds, as far as the
    shortest run reaches: further on the mean would be over fewer seeds.

    Args:
        groups: What to draw.
        key: ``accuracy`` or ``loss``.
    """
    views: dict[str, Figure] = {}
    per_run = {id(run): charts.axes(run) for group in groups for run in group.runs}
    common = [
        name
        for name in ("Round", "Time", "Bytes", "Energy", "Carbon")
        if all(name in axes for axes in per_run.values())
    ]
    for name in common:
        kind, title, _ = next(iter(per_run.values()))[name]
        lines = [
            [_points(per_run[id(run)][name][2], run.rounds, key) for run in group.runs]
            for group in groups
        ]
        reach = [x for group in lines for line in group for x, _ in line]
        if not reach:
            continue
        factor, unit = unit_of(kind, reach)
        data = []
        for i, (group, found) in enumerate(zip(groups, lines, strict=True)):
            data += _band(group.label, i, averaged([line for line in found if line]), factor, key)
        layout: Figure = {
            "hovermode": "closest",
            "xaxis": {"title": {"text": titled(title, unit)}},
            "yaxis": {"tickformat": ".0%"} if key == "accuracy" else {"rangemode": "tozero"},
        }
        views[name] = {"data": data, "layout": layout, "height": 400}
    return views


def _points(xs: Sequence[float | None], rounds: Sequence[Record], key: str) -> Line:
    return [
        (x, y)
        for x, record in zip(xs, rounds, strict=True)
        if x is not None and (y := known(record.get(key))) is not None
    ]


def averaged(lines: Sequence[Line]) -> list[tuple[float, float, float | None]]:
    """Mean and half-width of the interval along several curves.

    Args:
        lines: Curves of (x, y) with x not falling, none empty.

    Returns:
        (x, mean, half-width or ``None`` for one curve).
    """
    if not lines:
        return []
    start, stop = max(line[0][0] for line in lines), min(line[-1][0] for line in lines)
    places = sorted({x for line in lines for x, _ in line if start <= x <= stop})
    if len(places) > POINTS:
        step = (len(places) - 1) / (POINTS - 1)
        places = [places[round(i * step)] for i in range(POINTS)]
    return [(x, *interval([_at(line, x) for line in lines])) for x in places]


def _at(line: Line, x: float) -> float:
    """The curve's height at x by linear interpolation; x lies within it."""
    i = bisect_left(line, x, key=lambda point: point[0])
    x1, y1 = line[i]
    if x1 == x:
        return y1
    x0, y0 = line[i - 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _band(
    label: str,
    index: int,
    points: Sequence[tuple[float, float, float | None]],
    factor: float,
    key: str,
) -> list[Figure]:
    if not points:
        return []
    colour = f"$c{index % COLOURS}"
    xs = [rounded(x, factor) for x, *_ in points]
    form = ".2%" if key == "accuracy" else ".4f"
    name = charts.text(label)
    line: Figure = {
        "type": "scatter", "mode": "lines", "name": charts.short(label, 60), "legendgroup": name,
        "x": xs, "y": [rounded(mean) for _, mean, _ in points],
        "line": {
            "color": colour, "width": 2.5, "dash": DASHES[index // COLOURS % len(DASHES)],
        },
        "hovertemplate": f"{name}<br>%{{y:{form}}}<extra></extra>",
    }  # fmt: skip
    halves = [half for *_, half in points if half is not None]
    if len(halves) < len(points):
        return [line]
    # Few seeds give intervals beyond what the quantity can be; those parts are not drawn.
    most = 1.0 if key == "accuracy" else math.inf
    upper = [rounded(min(most, mean + (half or 0.0))) for _, mean, half in points]
    lower = [rounded(max(0.0, mean - (half or 0.0))) for _, mean, half in points]
    band: Figure = {
        "type": "scatter", "mode": "none", "legendgroup": name, "showlegend": False,
        "x": [*xs, *reversed(xs)], "y": [*upper, *reversed(lower)], "fill": "toself",
        "fillcolor": colour, "opacity": 0.18, "hoverinfo": "skip",
    }  # fmt: skip
    return [band, line]


def tradeoff(groups: Sequence[Group]) -> dict[str, Figure]:
    """Final accuracy against each kind of cost, one point a group."""
    costs = (
        ("Time", "time", "virtual time", ("time_virtual_s",)),
        ("Bytes", "bytes", "sent over the network", ("bytes_up", "bytes_down")),
        ("Energy", "energy", "energy", ("energy_useful_j", "energy_wasted_j")),
        ("Carbon", "carbon", "CO₂e", ("carbon_useful_g", "carbon_wasted_g")),
    )
    views: dict[str, Figure] = {}
    for name, kind, title, keys in costs:
        found = [
            (i, group, interval(xs), interval(ys))
            for i, group in enumerate(groups)
            if (xs := group.values(*keys)) and (ys := group.values("accuracy"))
        ]
        if not any(x for *_, (x, _), _ in found):
            continue
        factor, unit = unit_of(kind, [x for *_, (x, _), _ in found])
        data = [_point(group.label, i, x, y, factor, unit) for i, group, x, y in found]
        layout = {
            "hovermode": "closest",
            "xaxis": {"title": {"text": titled(title, unit)}, "rangemode": "tozero"},
            "yaxis": {"tickformat": ".1%"},
        }
        views[name] = {"data": data, "layout": layout, "height": 380}
    return views


def _point(
    label: str,
    index: int,
    x: tuple[float, float | None],
    y: tuple[float, float | None],
    factor: float,
    unit: str,
) -> Figure:
    def error(half: float | None, by: float) -> Figure:
        return {"type": "data", "array": [rounded(half, by) or 0], "thickness": 1.2, "width": 4}

    return {
        "type": "scatter", "mode": "markers", "name": charts.short(label, 60),
        "x": [rounded(x[0], factor)], "y": [rounded(y[0])],
        "error_x": error(x[1], factor), "error_y": error(y[1], 1.0),
        "marker": {"color": f"$c{index % COLOURS}", "size": 12},
        "hovertemplate": f"{charts.text(label)}<br>%{{y:.2%}}, %{{x:.3g}} {unit}<extra></extra>",
    }  # fmt: skip


def front(groups: Sequence[Group]) -> Figure | None:
    """Grams against hours until the target, one point a group, with the Pareto front.

    Only groups all of whose runs reached their target are drawn; None if those are fewer than two.
    """
    found = []
    for i, group in enumerate(groups):
        pairs = [pair for run in group.runs if (pair := _at_target(run)) is not None]
        if pairs and len(pairs) == len(group.runs):
            hours, grams = zip(*pairs, strict=True)
            found.append((i, group, interval(hours), interval(grams)))
    if len(found) < 2:
        return None
    x_factor, x_unit = unit_of("time", [x for *_, (x, _), _ in found])
    y_factor, y_unit = unit_of("carbon", [y for *_, (y, _) in found])
    best = pareto([(x, y) for *_, (x, _), (y, _) in found])
    line: Figure = {
        "type": "scatter", "mode": "lines", "showlegend": False, "hoverinfo": "skip",
        "x": [rounded(x, x_factor) for x, _ in best],
        "y": [rounded(y, y_factor) for _, y in best],
        "line": {"color": "$muted", "width": 1.5, "dash": "dot"},
    }  # fmt: skip
    points = []
    for i, group, x, y in found:
        point = _point(group.label, i, x, (y[0] / y_factor, None), x_factor, x_unit)
        point["error_y"]["array"] = [rounded(y[1], y_factor) or 0]
        said = f"%{{y:.3g}} {y_unit}, %{{x:.3g}} {x_unit}"
        point["hovertemplate"] = f"{charts.text(group.label)}<br>{said}<extra></extra>"
        points.append(point)
    layout = {
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": titled("virtual time to the target", x_unit)},
            "rangemode": "tozero",
        },
        "yaxis": {"title": {"text": titled("CO₂e", y_unit)}, "rangemode": "tozero"},
    }
    return {"data": [line, *points], "layout": layout, "height": 380}


def pareto(points: Sequence[tuple[float, float]]) -> Line:
    """Those points than which no other is as small in both and smaller in one; by the first."""
    found: Line = []
    for x, y in sorted(set(points)):
        if not found or y < found[-1][1]:
            found.append((x, y))
    return found


def _at_target(run: Facts) -> tuple[float, float] | None:
    """Seconds and grams until a run first reached its target; None if it did not."""
    target = known(run.summary.get("target_accuracy"))
    if target is None:
        return None
    grams = run.cumulative("carbon_useful_g", "carbon_wasted_g")
    for record, emitted in zip(run.rounds, grams, strict=True):
        accuracy, time_s = known(record.get("accuracy")), known(record.get("time_s"))
        if accuracy is not None and accuracy >= target:
            return None if time_s is None or emitted is None else (time_s, emitted)
    return None
