"""The leakage matrix as a picture: decibels by attack and protection."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

WIDE, TALL, LEFT, TOP = 150, 30, 230, 54


def draw(path: Path, rows: Sequence[str], columns: Sequence[str],
         values: Mapping[tuple[str, str], float | None]) -> None:  # fmt: skip
    """Write an SVG table shaded from 10 dB (white) to 60 dB (dark red).

    Args:
        path: where.
        rows: protections.
        columns: attacks.
        values: mean PSNR of (protection, attack), None where nothing was found; missing: blank.
    """
    width, height = LEFT + WIDE * len(columns) + 10, TOP + TALL * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for j, column in enumerate(columns):
        for line, words in enumerate(_broken(column)):
            parts.append(_text(LEFT + WIDE * (j + 0.5), 14 + 15 * line, words, "middle"))
    for i, row in enumerate(rows):
        parts.append(_text(LEFT - 8, TOP + TALL * i + 20, row, "end"))
        for j, column in enumerate(columns):
            if (row, column) not in values:
                continue
            value = values[row, column]
            strength = 0.0 if value is None else min(1.0, max(0.0, (value - 10) / 50))
            red, rest = 255 - int(90 * strength), 255 - int(205 * strength)
            x, y = LEFT + WIDE * j, TOP + TALL * i
            parts.append(
                f'<rect x="{x + 1}" y="{y + 1}" width="{WIDE - 2}" height="{TALL - 2}" '
                f'fill="rgb({red},{rest},{rest})" stroke="#ccc"/>'
            )
            said = "nothing" if value is None else f"{value:.0f} dB"
            colour = "#fff" if strength > 0.55 else "#222"
            parts.append(_text(x + WIDE / 2, y + 20, said, "middle", colour))
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _text(x: float, y: float, words: str, anchor: str, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(words)}</text>"
    )


def _broken(words: str, most: int = 21) -> list[str]:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) + 1 > most and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
