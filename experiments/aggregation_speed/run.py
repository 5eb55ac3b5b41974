"""How fast are the robust rules? See README.md here.

python experiments/aggregation_speed/run.py --byzfl-python ~/byzfl/bin/python
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SIZES = (10, 50, 100)
RULES = (
    "mean", "coordinate_median", "trimmed_mean", "meamed", "krum", "multi_krum", "bulyan",
    "geometric_median", "centered_clipping", "caf", "minimum_diameter_averaging", "mixing",
    "clip+mixing+krum", "mixing+geometric_median", "mixing+trimmed_mean",
    "bucketing+centered_clipping",
)  # fmt: skip
FLOWERS = {"mean", "coordinate_median", "trimmed_mean", "krum", "multi_krum", "bulyan"}
BYZFLS = set(RULES) - {"bulyan"}
GRAM = {"krum", "multi_krum", "geometric_median", "centered_clipping", "caf",
        "minimum_diameter_averaging", "clip+mixing+krum", "mixing+geometric_median",
        "bucketing+centered_clipping"}  # fmt: skip
ORDERED, KRUMS = ["coordinate_median", "trimmed_mean"], ["krum", "multi_krum"]
BARS = [
    ("median and trimmed mean, to Flower", ORDERED, "flower", SIZES, 5),
    ("median and trimmed mean, to ByzFL", ORDERED, "byzfl", SIZES, 5),
    ("Krum and Multi-Krum, to Flower", KRUMS, "flower", SIZES, 5),
    ("Krum and Multi-Krum, to ByzFL", KRUMS, "byzfl", SIZES, 5),
    ("geometric median, centered clipping, CAF, to ByzFL",
     ["geometric_median", "centered_clipping", "caf"], "byzfl", SIZES, 8),
    ("mixing at n = 10, to ByzFL", ["mixing"], "byzfl", (10,), 10),
    ("mixing at n = 50, to ByzFL", ["mixing"], "byzfl", (50,), 80),
]  # fmt: skip

Cell = dict[str, Any]
Cells = dict[tuple[str, int, str], Cell]


def faulty(rule: str, n: int) -> int:
    """n / 5, but what Bulyan and the buckets can stand."""
    return {"bulyan": (n - 3) // 4, "bucketing+centered_clipping": (n // 2 - 1) // 2}.get(
        rule, n // 5
    )


def one(python: str, library: str, rule: str, n: int, d: int, limit: argparse.Namespace) -> Cell:
    """A contender's result, or why there is none."""
    command = [python, str(HERE / "contender.py"), library, rule, "--n", str(n), "--d", str(d),
               "--f", str(faulty(rule, n))]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shell = f'ulimit -v {limit.memory_gb * 1_000_000}; exec "$@"'
    try:
        done = subprocess.run(["sh", "-c", shell, "sh", *command], env=environment, text=True,
                              capture_output=True, timeout=limit.timeout_s)  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": f"> {limit.timeout_s:g} s"}
    if done.returncode:
        lack = any(word in done.stderr for word in ("allocate", "MemoryError", "memory"))
        return {"failed": "out of memory" if lack else done.stderr.strip().splitlines()[-1][:80]}
    result: Cell = json.loads(done.stdout.splitlines()[-1])
    return result


def better(old: Cell | None, new: Cell) -> Cell:
    if old is None or "failed" in old:
        return new
    if "failed" in new or new["cpu_ms"] >= old["cpu_ms"]:
        return old
    return new


def measure(options: argparse.Namespace, save: Callable[[Cells], None]) -> Cells:
    """All cells; those so far are saved after each rule."""
    pythons = {"floor": sys.executable, "fedhive": sys.executable, "flower": sys.executable,
               "byzfl": options.byzfl_python}  # fmt: skip
    cells: Cells = {}
    for repetition in range(options.repetitions):
        for n in options.n:
            for rule in options.rules:
                libraries = ["floor", "fedhive"] if rule == "mean" else ["fedhive"]
                libraries += ["flower"] if rule in FLOWERS else []
                libraries += ["byzfl"] if rule in BYZFLS and options.byzfl_python else []
                for library in libraries[:: -1 if repetition % 2 else 1]:
                    key = (rule, n, library)
                    if "failed" in cells.get(key, {}):
                        continue
                    new = one(pythons[library], library, rule, n, options.d, options)
                    cells[key] = better(cells.get(key), new)
                    print(repetition + 1, *key, new, file=sys.stderr, flush=True)
                save(cells)
    return cells


def ratio(cells: Cells, rule: str, n: int, library: str) -> float | None:
    """How many times our CPU time they take; infinite if they do not finish."""
    ours, theirs = cells.get((rule, n, "fedhive")), cells.get((rule, n, library))
    if ours is None or theirs is None or "failed" in ours:
        return None
    return math.inf if "failed" in theirs else theirs["cpu_ms"] / ours["cpu_ms"]


def shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return cell.get("failed") or f"{cell['cpu_ms']:.1f} (+{cell['extra_mb']:.0f})"


def times(value: float | None) -> str:
    if value is None:
        return ""
    return "∞" if math.isinf(value) else f"{value:.1f}"


def markdown(cells: Cells, about: dict[str, Any]) -> str:
    lines = ["# Speed of robust rules", "",
             ", ".join(f"{key} {value}" for key, value in about.items()) + ".", "",
             "CPU milliseconds of one thread, least of the runs (+ megabytes of memory beside the "
             "input).", "",
             "| n | rule | f | fedhive | Flower | ByzFL | Flower / fedhive | ByzFL / fedhive | "
             "fedhive / one pass |",
             "|--:|--|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for n in sorted({key[1] for key in cells}):
        floor = cells.get(("mean", n, "floor"))
        for rule in RULES:
            ours = cells.get((rule, n, "fedhive"))
            if ours is None:
                continue
            passes = ""
            if floor and "failed" not in floor and "failed" not in ours:
                passes = f"{ours['cpu_ms'] / floor['cpu_ms']:.1f}"
            row = [n, rule.replace("_", " "), faulty(rule, n), shown(ours),
                   shown(cells.get((rule, n, "flower"))), shown(cells.get((rule, n, "byzfl"))),
                   times(ratio(cells, rule, n, "flower")), times(ratio(cells, rule, n, "byzfl")),
                   passes]  # fmt: skip
            lines.append("| " + " | ".join(map(str, row)) + " |")
    lines += ["", "| claim | least ratio measured | at least | holds |", "|--|--:|--:|--|"]
    for name, rules, library, sizes, least in BARS:
        found = [ratio(cells, rule, n, library) for rule in rules for n in sizes]
        known = [value for value in found if value is not None]
        if known:
            holds = "yes" if min(known) >= least else "no"
            lines.append(f"| {name} | {times(min(known))} | {least} | {holds} |")
    extra = [cell["extra_mb"] for (rule, _, library), cell in cells.items()
             if library == "fedhive" and rule in GRAM and "failed" not in cell]  # fmt: skip
    if extra:
        holds = "yes" if max(extra) < 64 else "no"
        lines.append(
            f"| most extra memory of a Gram pipeline, MB | {max(extra):.0f} | < 64 | {holds} |"
        )
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    import flwr
    import torch

    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]  # fmt: skip
    return {"processor": names[0] if names else platform.processor(),
            "Python": platform.python_version(), "torch": torch.__version__,
            "flwr": getattr(flwr, "__version__", "?"), "ByzFL": "0.0.11",
            "load at start": f"{os.getloadavg()[0]:.1f}"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--byzfl-python", help="Python of an environment with ByzFL (README.md)")
    parser.add_argument("--n", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--d", type=int, default=1_000_000)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--timeout-s", type=float, default=60.0)
    parser.add_argument("--memory-gb", type=int, default=12)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    about = {**machine(), "d": f"{options.d:,}", "repetitions": options.repetitions}
    options.out.mkdir(parents=True, exist_ok=True)

    def save(cells: Cells) -> None:
        (options.out / "results.md").write_text(markdown(cells, about))
        raw = [{"rule": rule, "n": n, "library": library, **cell}
               for (rule, n, library), cell in cells.items()]  # fmt: skip
        lines = ",\n".join(json.dumps(each) for each in raw)
        (options.out / "results.json").write_text(
            f'{{"about": {json.dumps(about)},\n"cells": [\n{lines}\n]}}\n'
        )

    print(markdown(measure(options, save), about))


if __name__ == "__main__":
    main()
