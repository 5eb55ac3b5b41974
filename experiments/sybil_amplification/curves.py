"""The tables and the figure of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Found = Mapping[tuple[Any, ...], Mapping[str, Any]]
"""By (defence, data, kind, size, accounts, seed)."""

COLOURS = ("#1b1b1b", "#d9480f", "#1971c2", "#2f9e44", "#9c36b5", "#e8a200")
WIDTH, HEIGHT, LEFT, TOP = 250.0, 170.0, 52.0, 92.0


def tables(
    found: Found, defences: Sequence[str], kinds: Sequence[str], sizes: Sequence[int],
    data: Sequence[str], main: str,
) -> str:  # fmt: skip
    parts = [
        "Cells: test accuracy / attack success (share of test 1s taken for 7s), in points.\n",
        _claim(found, main),
        *(_by_size(found, defences, kind, sizes) for kind in kinds),
        _by_data(found, defences, data),
        _by_accounts(found, main),
    ]
    return "\n".join(parts)


def _points(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return ""
    return f"{100 * result['accuracy']:.1f} / {100 * result['success']:.0f}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"## {title}\n", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _claim(found: Found, main: str) -> str:
    """The main defence over all seeds: loss at S = 0, and S = 100 against S = 1."""
    seeds = sorted({key[-1] for key in found})
    rows = []
    for data in ("iid", "gamma 0.33", "twins"):

        def mean(
            defence: str, kind: str, size: int, what: str, data: str = data
        ) -> tuple[float, list[float]]:
            values = [100 * found[defence, data, kind, size, "one", s][what] for s in seeds]
            return float(np.mean(values)), values

        honest, one = mean("mean", "clones", 0, "accuracy"), mean(main, "clones", 1, "accuracy")
        rows.append([
            data, f"{honest[0]:.1f}", f"{mean(main, 'clones', 0, 'accuracy')[0]:.1f}",
            f"{honest[0] - mean(main, 'clones', 0, 'accuracy')[0]:+.1f}", f"{one[0]:.1f}",
            *(f"{mean(main, kind, 100, 'accuracy')[0]:.1f}" for kind in ("clones", "zero_sum")),
            f"{mean(main, 'clones', 1, 'success')[0]:.1f}",
            *(f"{mean(main, kind, 100, 'success')[0]:.1f}" for kind in ("clones", "zero_sum")),
        ])  # fmt: skip
    head = (
        "honest data", "mean, S = 0", "defended, S = 0", "honest loss", "S = 1",
        "S = 100 clones", "S = 100 zero-sum", "success, S = 1", "S = 100 clones",
        "S = 100 zero-sum",
    )  # fmt: skip
    return _table(f"{main}, true attributes: mean of {len(seeds)} seeds", head, rows)


def _by_size(found: Found, defences: Sequence[str], kind: str, sizes: Sequence[int]) -> str:
    rows = [
        [defence, _points(found.get((defence, "gamma 0.33", "clones", 0, "one", 0))),
         *(_points(_sized(found, defence, kind, size)) for size in sizes)]
        for defence in defences
    ]  # fmt: skip
    head = ["defence", "S = 0", *(f"S = {size}" for size in sizes)]
    return _table(f"{kind.replace('_', '-')}, data gamma 0.33, seed 0", head, rows)


def _sized(found: Found, defence: str, kind: str, size: int) -> Mapping[str, Any] | None:
    """One identity is the same whatever the kind, but for jitter's noise."""
    spread = "clones" if size == 1 else kind
    return found.get((defence, "gamma 0.33", spread, size, "one", 0))


def _by_data(found: Found, defences: Sequence[str], data: Sequence[str]) -> str:
    columns = (("clones", 0), ("clones", 1), ("clones", 10), ("zero_sum", 10))
    rows = [
        [defence, one, *(_points(found.get((defence, one, k, s, "one", 0))) for k, s in columns)]
        for defence in defences for one in data
    ]  # fmt: skip
    head = ["defence", "honest data", "S = 0", "S = 1", "10 clones", "10 zero-sum"]
    return _table("Similarity of the honest, seed 0", head, rows)


def _by_accounts(found: Found, main: str) -> str:
    rows = []
    for defence in ("groups + mean", main):
        for size in (10, 100):
            cells = [
                _points(found.get((defence, "gamma 0.33", "zero_sum", size, accounts, 0)))
                for accounts in ("one", "two", "five", "one each")
            ]
            rows.append([defence, str(size), *cells])
    head = ["defence", "S", "1 account", "2", "5", "one each"]
    title = "What the attributes are worth: accounts and devices of the adversary (zero-sum)"
    return _table(title, head, rows)


def figure(
    found: Found, defences: Sequence[str], kinds: Sequence[str], sizes: Sequence[int]
) -> str:
    """Accuracy above, attack success below, against S; a column a kind."""
    width, height = len(kinds) * (WIDTH + LEFT) + 20, TOP + 2 * (HEIGHT + 62)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        'font-family="sans-serif" font-size="11" role="img">'
        "<title>Damage by the number of identities</title>"
        '<rect width="100%" height="100%" fill="#fff"/>'
    ]
    for i, defence in enumerate(defences):
        x, y = LEFT + 270 * (i % 3), 20 + 20 * (i // 3)
        parts.append(
            f'<line x1="{x:g}" x2="{x + 22:g}" y1="{y - 4}" y2="{y - 4}" '
            f'stroke="{COLOURS[i]}" stroke-width="2.5"/><text x="{x + 28:g}" y="{y}">{defence}'
            "</text>"
        )
    for column, kind in enumerate(kinds):
        for line, what in enumerate(("accuracy", "success")):
            x, y = LEFT + column * (WIDTH + LEFT), TOP + line * (HEIGHT + 62)
            curves = [
                [
                    (result or {}).get(what)
                    for result in (
                        found.get((defence, "gamma 0.33", "clones", 0, "one", 0)),
                        *(_sized(found, defence, kind, size) for size in sizes),
                    )
                ]
                for defence in defences
            ]
            title = f"{kind.replace('_', '-')}: {'attack ' if what == 'success' else ''}{what}"
            parts.append(_panel(x, y, title, (0, *sizes), curves))
    return "".join(parts) + "</svg>\n"


def _panel(
    x: float, y: float, title: str, sizes: Sequence[int], curves: Sequence[Sequence[float | None]]
) -> str:
    parts = [f'<text x="{x:g}" y="{y - 10:g}" font-weight="bold">{title}</text>']
    for share in (0.0, 0.5, 1.0):
        at = y + HEIGHT * (1 - share)
        parts.append(
            f'<line x1="{x:g}" x2="{x + WIDTH:g}" y1="{at:g}" y2="{at:g}" stroke="#ddd"/>'
            f'<text x="{x - 6:g}" y="{at + 4:g}" text-anchor="end">{share:g}</text>'
        )
    places = [x + WIDTH * (i + 0.3) / (len(sizes) - 0.4) for i in range(len(sizes))]
    for place, size in zip(places, sizes, strict=True):
        parts.append(
            f'<text x="{place:g}" y="{y + HEIGHT + 16:g}" text-anchor="middle">{size}</text>'
        )
    parts.append(
        f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT + 32:g}" text-anchor="middle">'
        "identities of one adversary, beside 10 honest clients</text>"
    )
    for colour, curve in zip(COLOURS, curves, strict=False):
        points = [
            (place, y + HEIGHT * (1 - value))
            for place, value in zip(places, curve, strict=True)
            if value is not None
        ]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" '
            'stroke-opacity="0.85"/>'
        )
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{colour}"/>' for a, b in points
        ]
    return "".join(parts)
