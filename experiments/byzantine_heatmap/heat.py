"""The table and the figure of worst accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Row = tuple[str, Sequence[tuple[float, str]]]
"""(name, for each column (worst accuracy, the attack that did it))."""

SHORT = {
    "sign_flip_together": "SF", "optimised_alie": "ALIE*", "optimised_inner_product": "IPM*",
    "mimic": "mimic",
}  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP = 96, 30, 190, 52


def table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    lines = ["| rule | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, found in rows:
        cells = [f"{accuracy:.2f} ({SHORT[attack]})" for accuracy, attack in found]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    note = (
        "\nWorst accuracy over attacks, and the attack that did it. SF: sign flip; ALIE*, IPM*: "
        "magnitude searched for against the very pipeline; guessing is 0.10."
    )
    return "\n".join([*lines, note]) + "\n"


def hidden(results: Mapping[str, Mapping[str, float]]) -> str:
    """Rows for poison that lies only where it is encrypted, from the study ``hidden_poison``.

    Args:
        results: its cells, named "what is encrypted / way back / attack / liars / seed".
    """
    found: dict[str, list[tuple[float, str]]] = {}
    for name, cell in results.items():
        part, way, attack, liars, _ = name.split(" / ")
        if attack != "nobody" and liars == "4":
            found.setdefault(way, []).append((cell["accuracy"], f"{attack}, {part}"))
    lines = ["", "## Poison hidden in encrypted coordinates", "",
             "Four liars of 20, another setting: see ../hidden_poison.", "",
             "| way back of what is encrypted | worst accuracy | attack, encrypted part |",
             "|---|---|---|"]  # fmt: skip
    lines += [f"| {way} | {min(f)[0]:.2f} | {min(f)[1]} |" for way, f in sorted(found.items())]
    return "\n".join(lines) + "\n"


def figure(columns: Sequence[str], rows: Sequence[Row]) -> str:
    width, height = LEFT + WIDTH * len(columns) + 10, TOP + HEIGHT * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" role="img">'
        "<title>Worst test accuracy over attacks</title>"
        '<rect width="100%" height="100%" fill="#fff"/>'
    ]
    for j, column in enumerate(columns):
        first, _, second = column.partition(", ")
        x = LEFT + WIDTH * (j + 0.5)
        parts.append(
            f'<text x="{x:g}" y="20" text-anchor="middle">{first}</text>'
            f'<text x="{x:g}" y="38" text-anchor="middle">{second}</text>'
        )
    for i, (name, found) in enumerate(rows):
        y = TOP + HEIGHT * i
        parts.append(f'<text x="{LEFT - 8}" y="{y + 20}" text-anchor="end">{name}</text>')
        for j, (accuracy, attack) in enumerate(found):
            x, ink = LEFT + WIDTH * j, "#fff" if accuracy < 0.6 else "#111"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{WIDTH - 2}" height="{HEIGHT - 2}" '
                f'fill="{_colour(accuracy)}"><title>{name}, {columns[j]}: {accuracy:.3f}'
                f"</title></rect>"
                f'<text x="{x + WIDTH / 2 - 1:g}" y="{y + 19}" text-anchor="middle" '
                f'fill="{ink}">{accuracy:.2f} {SHORT[attack]}</text>'
            )
    return "".join(parts) + "</svg>\n"


def _colour(accuracy: float) -> str:
    """From dark blue (0) to pale yellow (1); readable in grey as well."""
    low, high = (38, 20, 82), (252, 246, 190)
    t = min(1.0, max(0.0, accuracy))
    return "#" + "".join(f"{round(a + (b - a) * t):02x}" for a, b in zip(low, high, strict=True))
