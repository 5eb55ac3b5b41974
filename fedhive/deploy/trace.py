"""A real hive's history as a trace file, so that it replays in simulation.

``fedhive run availability=csv availability.path=RUN/availability.csv
availability.length_column=watched_s``
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

COLUMNS = ("node", "on_s", "off_s", "watched_s")


def write_trace(
    path: Path, presence: Mapping[str, Sequence[tuple[float, float]]], watched_s: float
) -> None:
    """Write one session a row, machines in ascending order.

    Args:
        path: the CSV file.
        presence: when each machine was there, by number: [(on, off), ...], seconds.
        watched_s: for how long somebody looked.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for node in sorted(presence, key=int):
            for on_s, off_s in presence[node]:
                # Rounded down and up to milliseconds, never past the end.
                row = (node, f"{on_s:.3f}", f"{min(off_s, watched_s):.3f}", f"{watched_s:.3f}")
                if float(row[2]) > float(row[1]):
                    writer.writerow(row)
    os.replace(temporary, path)
