"""What listening adds to a round's wall time, for a model of 1e6 parameters and ten clients.

python tests/benchmarks/bench_observer.py

Runs with and without an observer alternate; wanted: at most 5 % more (medians of all rounds but
the first of each run).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from fedhive.compose import compose
from fedhive.launch import launch
from fedhive.results.rundir import RunDir

BASE = (
    "data=mnist5k", "partition=iid", "model=mlp", "model.hidden=[1000,200]", "nodes=10",
    "rounds=6", "progress=false",
)  # fmt: skip


def round_s(epochs: int, *more: str) -> list[float]:
    """Wall times of the rounds of one run, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        launch(compose([*BASE, f"local_work.epochs={epochs}", *more]), path)
        return [float(line["wall_s"]) for line in RunDir(path).rounds()][1:]


def main(repeats: int = 3) -> None:
    for epochs in (1, 5):
        off: list[float] = []
        on: list[float] = []
        for _ in range(repeats):
            off += round_s(epochs)
            on += round_s(epochs, "observer=server")
        before, after = statistics.median(off), statistics.median(on)
        print(
            f"{epochs} local epochs: {before:.3f} s a round, {after:.3f} s with an observer, "
            f"{100 * (after / before - 1):+.1f} %"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
