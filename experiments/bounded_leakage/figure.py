"""The study's figure as one SVG file, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, TOP, GAP = 340.0, 260.0, 56.0, 40.0, 70.0
COLOURS = {1: "#1d6fb8", 10: "#d9480f"}
LOW, HIGH = 50.0, 90.0
Rows = Sequence[Mapping[str, float]]


def draw(curves: Mapping[tuple[str, int], Rows]) -> str:
    """One panel a hive: right guesses against rho; lines are what L allows, dots what happened."""
    hives = list(dict.fromkeys(hive for hive, _ in curves))
    width, height = len(hives) * (WIDTH + GAP) + 20, HEIGHT + TOP + 86
    parts = []
    for i, hive in enumerate(hives):
        left = LEFT + i * (WIDTH + GAP)
        parts += _axes(
            left, hive, next(rows for (name, _), rows in curves.items() if name == hive)
        )
        for (name, rounds), rows in curves.items():
            if name == hive:
                parts += _curve(left, rows, COLOURS[rounds])
    for i, (rounds, colour) in enumerate(COLOURS.items()):
        x, y = LEFT + 330 * i, HEIGHT + TOP + 66
        parts.append(f'<line x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" '
                     'stroke-width="2"/>')  # fmt: skip
        plural = "" if rounds == 1 else "s"
        parts.append(f'<text x="{x + 30}" y="{y}">{rounds} round{plural} of pushing: line = '
                     'L(rho) allows, dots = measured</text>')  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        'font-family="sans-serif" font-size="11" role="img">'
        "<title>Right guesses of a secret by radius of the ball</title>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _x(left: float, rho: float) -> float:
    """Radii on a scale that shows 0 and doublings alike."""
    return left + WIDTH * math.log2(1 + 2 * rho) / math.log2(33)


def _y(percent: float) -> float:
    return TOP + HEIGHT * (HIGH - percent) / (HIGH - LOW)


def _axes(left: float, title: str, rows: Rows) -> list[str]:
    parts = [f'<text x="{left}" y="{TOP - 16}" font-size="13">{title}</text>',
             f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 34}" text-anchor="middle">rho, in '
             'median norms of honest updates</text>',
             f'<text x="{left - 42}" y="{TOP - 4}">right guesses, %</text>']  # fmt: skip
    for percent in range(int(LOW), int(HIGH) + 1, 5):
        y = _y(percent)
        parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" '
                     'stroke="#e4e4e4"/>')  # fmt: skip
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    for row in rows:
        x = _x(left, row["rho"])
        parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">'
                     f'{row["rho"]:g}</text>')  # fmt: skip
    return parts


def _curve(left: float, rows: Rows, colour: str) -> list[str]:
    points = " ".join(f"{_x(left, r['rho']):.1f},{_y(100 * r['expected']):.1f}" for r in rows)
    parts = [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for row in rows:
        x = _x(left, row["rho"])
        low, high = _y(100 * row["low"]), _y(100 * row["high"])
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
                     f'stroke="{colour}"/>')  # fmt: skip
        parts.append(f'<circle cx="{x:.1f}" cy="{_y(100 * row["accuracy"]):.1f}" r="3.5" '
                     f'fill="{colour}"/>')  # fmt: skip
    return parts
