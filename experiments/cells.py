"""What the studies with many runs share: cells that are measured once and kept in a file.

A study is a list of named cells. Each is measured in a run of its own, and the results so far are
written after each: a study that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
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
    jobs: int = 1,
) -> dict[str, Result] | None:
    """Measure the cells that ``path`` does not hold yet; all results, or None if time ran out.

    Args:
        path: JSON file of the results.
        cells: names of all cells.
        measure: measures one.
        seconds: begin no further cell after so many seconds.
        jobs: processes; with several, ``measure`` must be a function of a module.
    """
    results: dict[str, Result] = json.loads(path.read_text()) if path.is_file() else {}
    wanted, began = list(dict.fromkeys(cells)), time.monotonic()
    missing = [cell for cell in wanted if cell not in results]
    for cell, result in _measured(missing, partial(_timed, measure), jobs, began + seconds):
        results[cell] = result
        print(f"{sum(c in results for c in wanted)}/{len(wanted)} {cell}: {json.dumps(result)}")
        sys.stdout.flush()
        lines = [f"{json.dumps(key)}: {json.dumps(results[key])}" for key in sorted(results)]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return {cell: results[cell] for cell in wanted} if results.keys() >= set(wanted) else None


def _timed(measure: Callable[[str], Result], cell: str) -> Result:
    before = time.process_time()
    return {**measure(cell), "cpu_s": round(time.process_time() - before, 1)}


def _measured(
    cells: Sequence[str], measure: Callable[[str], Result], jobs: int, until_s: float
) -> Iterator[tuple[str, Result]]:
    """(cell, result) as they come; no further one is begun after ``until_s``."""
    if jobs == 1:
        for cell in cells:
            if time.monotonic() < until_s:
                yield cell, measure(cell)
        return
    left = list(reversed(cells))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running: dict[Future[Result], str] = {}
        while True:
            while left and len(running) < jobs and time.monotonic() < until_s:
                cell = left.pop()
                running[pool.submit(measure, cell)] = cell
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


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
