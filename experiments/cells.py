"""What the studies with many runs share: cells that are measured once and kept in a file.

A study is a list of named cells. Each is measured in a run of its own, and the results so far are
written after each: a study that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedhive.compose import compose
from fedhive.launch import launch
from fedhive.results.rundir import RunDir

Result = dict[str, Any]


def fill(
    path: Path,
    cells: Iterable[str],
    measure: Callable[[str], Result],
    seconds: float = float("inf"),
) -> dict[str, Result] | None:
    """Measure the cells that ``path`` does not hold yet; all results, or None if time ran out.

    Args:
        path: JSON file of the results.
        cells: names of all cells.
        measure: measures one.
        seconds: begin no further cell after so many seconds.
    """
    results: dict[str, Result] = json.loads(path.read_text()) if path.is_file() else {}
    wanted, began = list(dict.fromkeys(cells)), time.monotonic()
    for i, cell in enumerate(wanted):
        if cell in results:
            continue
        if time.monotonic() - began > seconds:
            return None
        before = time.process_time()
        results[cell] = {**measure(cell), "cpu_s": round(time.process_time() - before, 1)}
        print(f"{i + 1}/{len(wanted)} {cell}: {json.dumps(results[cell])}", flush=True)
        lines = [f"{json.dumps(key)}: {json.dumps(results[key])}" for key in sorted(results)]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return {cell: results[cell] for cell in wanted}


def played(
    overrides: Sequence[str],
    look: Callable[[RunDir, Mapping[str, Any]], Result],
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Result:
    """Run a configuration in a folder that is thrown away, and look at what it wrote.

    Args:
        overrides: as on the command line.
        look: what to take from (run directory, summary).
        change: changes the composed configuration before the run.
    """
    cfg = compose([*overrides, "progress=false"])
    if change is not None:
        change(cfg)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        summary = launch(cfg, path)
        return look(RunDir(path), summary)


def last_accuracies(run: RunDir, count: int = 3) -> float:
    """Mean test accuracy of the last evaluations."""
    found = [r["accuracy"] for r in run.rounds() if r["accuracy"] is not None][-count:]
    return round(sum(found) / len(found), 4)
