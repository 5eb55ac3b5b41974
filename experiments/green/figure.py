"""The study's figure as one SVG file, without a plotting library."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

import numpy as np
from tables import OURS, Run, of, point

WIDTH, HEIGHT, LEFT, TOP = 380.0, 300.0, 62.0, 40.0
COLOURS = (
    "#1b1b1b", "#8a8a8a", "#1d6fb8", "#8fbce6", "#2a9d8f", "#8a5fb0", "#c9980f", "#d9480f",
    "#e8a27c",
)  # fmt: skip
DEFAULT = 0.005
"""Price for delay of what is called ours."""
Scale = Callable[[float], float]


def draw(runs: Sequence[Run], methods: Sequence[str], sweep: Sequence[str], target: float) -> str:
    """Left: grams and hours to the target. Right: accuracy against grams."""
    colours = dict(zip(methods, COLOURS, strict=False))
    width, height = 2 * (WIDTH + LEFT) + 30, HEIGHT + TOP + 114
    parts = [*_places(runs, methods, sweep, colours, target), *_curves(runs, methods, colours)]
    for i, name in enumerate(methods):
        x, y = LEFT + 190 * (i % 4), HEIGHT + TOP + 58 + 18 * (i // 4)
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{colours[name]}"/>')
        missed = "" if point(runs, name) else " (not with every seed)"
        parts.append(f'<text x="{x + 10}" y="{y}">{html.escape(name + missed)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="sans-serif" font-size="11" role="img">'
        "<title>Grams and hours of training by schedule</title>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _places(
    runs: Sequence[Run], methods: Sequence[str], sweep: Sequence[str], colours: dict[str, str],
    target: float,
) -> list[str]:  # fmt: skip
    found = {name: p for name in (*methods, *sweep) if (p := point(runs, name))}
    if not found:
        return []
    dots = {
        name: [(run["time_to_target_s"] / 3600.0, run["grams"]) for run in of(runs, name)]
        for name in methods
        if name in found
    }
    shown = [*found.values(), *(dot for each in dots.values() for dot in each)]
    x = _linear(0.0, 1.05 * max(p[0] for p in shown), LEFT, WIDTH)
    y = _linear(0.0, 1.05 * max(p[1] for p in shown), TOP + HEIGHT, -HEIGHT)
    title = f"to {100 * target:g} % accuracy"
    parts = _axes(LEFT, title, "hours", "g CO2e", found.values(), x, y)
    priced = sorted((OURS, *sweep), key=lambda name: price(name) if name != OURS else DEFAULT)
    front = [found[name] for name in priced if name in found]
    line = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in front)
    parts.append(
        f'<polyline points="{line}" fill="none" stroke="{colours[OURS]}" stroke-dasharray="4 3"/>'
    )
    for name in (*methods, *sweep):
        if name not in found:
            continue
        colour = colours.get(name, colours[OURS])
        px, py = x(found[name][0]), y(found[name][1])
        size = 6 if name in methods else 3.5
        for hours, grams in dots.get(name, ()):
            parts.append(
                f'<circle cx="{x(hours):.1f}" cy="{y(grams):.1f}" r="2" fill="{colour}" '
                'opacity="0.4"/>'
            )
        if name in sweep:
            parts.append(_text(px + 6, py - 5, f"{price(name):g}", "start", 9))
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{size}" fill="{colour}"/>')
    return parts


def price(name: str) -> float:
    """The price for delay that a name of the sweep ends with."""
    return float(name.rsplit(" ", 1)[-1])


def _curves(runs: Sequence[Run], methods: Sequence[str], colours: dict[str, str]) -> list[str]:
    """Mean accuracy over the seeds at equal grams, as far as the shortest run reaches."""
    left = 2 * LEFT + WIDTH
    lines = {}
    for name in methods:
        found = [np.array(run["curve"]) for run in of(runs, name)]
        if found:
            reach = min(float(c[-1, 1]) for c in found)
            at = np.geomspace(max(float(c[0, 1]) for c in found) + 1e-6, reach, 80)
            lines[name] = at, np.mean([np.interp(at, c[:, 1], c[:, 2]) for c in found], axis=0)
    low = min(float(at[0]) for at, _ in lines.values())
    high = max(float(at[-1]) for at, _ in lines.values())
    low = max(low, high / 1000.0)

    def x(g: float) -> float:
        return left + WIDTH * math.log(max(g, low) / low) / math.log(high / low)

    y = _linear(0.5, 0.95, TOP + HEIGHT, -HEIGHT)
    parts = [_text(left, TOP - 14, "mean accuracy by grams emitted", "start", 13)]
    parts.append(_frame(left))
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9):
        parts.append(_text(left - 6, y(tick) + 4, f"{100 * tick:.0f} %", "end"))
        parts.append(_grid(left, y(tick), left + WIDTH, y(tick)))
    for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500):
        if low <= tick <= high:
            parts.append(_text(x(tick), TOP + HEIGHT + 16, f"{tick:g}", "middle"))
            parts.append(_grid(x(tick), TOP, x(tick), TOP + HEIGHT))
    parts.append(_text(left + WIDTH / 2, TOP + HEIGHT + 32, "g CO2e (log scale)", "middle"))
    for name, (at, accuracy) in lines.items():
        shown = [(x(g), y(a)) for g, a in zip(at, accuracy, strict=True) if a >= 0.5 and g >= low]
        told = " ".join(f"{a:.1f},{b:.1f}" for a, b in shown)
        parts.append(
            f'<polyline points="{told}" fill="none" stroke="{colours[name]}" stroke-width="2"/>'
        )
    return parts


def _axes(
    left: float, title: str, across: str, up: str, points: object, x: Scale, y: Scale
) -> list[str]:
    parts = [_text(left, TOP - 14, f"grams and hours {title}", "start", 13), _frame(left)]
    for scale, upright in ((x, False), (y, True)):
        span = abs(scale(1.0) - scale(0.0))
        most = (HEIGHT if upright else WIDTH) / span
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if most / s <= 8)
        for i in range(int(most / step) + 1):
            at = scale(i * step)
            if upright:
                parts.append(_text(left - 6, at + 4, f"{i * step}", "end"))
                parts.append(_grid(left, at, left + WIDTH, at))
            else:
                parts.append(_text(at, TOP + HEIGHT + 16, f"{i * step}", "middle"))
                parts.append(_grid(at, TOP, at, TOP + HEIGHT))
    parts.append(_text(left + WIDTH / 2, TOP + HEIGHT + 32, across, "middle"))
    parts.append(_text(left - 40, TOP - 2, up, "start"))
    return parts


def _linear(low: float, high: float, start: float, length: float) -> Scale:
    return lambda value: start + length * (value - low) / (high - low)


def _frame(left: float) -> str:
    return (
        f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
    )


def _grid(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="#eee"/>'


def _text(x: float, y: float, said: str, anchor: str, size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{html.escape(said)}</text>"
    )
