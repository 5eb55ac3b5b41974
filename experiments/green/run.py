"""Which schedule trains for the fewest grams, and what does it cost in hours and fairness?

    python experiments/green/run.py [--seeds 1,2,3,4,5] [--only ours,now] [--cells DIR] [--table]

Writes results.json, results.md and green.svg beside this file; see README.md. Runs that are in the
folder of cells already are not repeated, so that the study can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import figure
import tables

from fedhive import config
from fedhive.compose import compose
from fedhive.launch import launch
from fedhive.results.rundir import RunDir

HERE = Path(__file__).resolve().parent
TARGET = 0.92
ZONES = "DE-LU,GB,US-CAL-CISO,CA-ON,AU-VIC,BR-SP,IN-WE,ZA,KR"
WORLD = (
    "data=mnist5k", "partition=dirichlet", "partition.alpha=0.3", "model=mlp", "nodes=36",
    "carbon=generated", "fleet=phones", "fleet.median_rate=0.5", f"fleet.zones=[{ZONES}]",
    "availability=phones", "availability.days=14", "availability.start_s=-604800",
    "history_s=604800", "forecast=survival", "local_work.epochs=5", "trigger=all",
    "trigger.timeout_s=7200", "engine.cohort=true", "rounds=2000", "time_limit_s=604800",
    f"target_accuracy={TARGET}", "stop_at_target=true", "checkpoint_every=0", "progress=false",
)  # fmt: skip
OURS = (
    "schedule=ours", "selection=all", "schedule.rounds=50", "schedule.deadline_h=96",
    "schedule.delay_price=0.005",
)  # fmt: skip
METHODS: dict[str, tuple[str, ...]] = {
    "FedAvg-now": ("schedule=now", "selection=uniform", "selection.k=10"),
    "FedAvg-now, five machines": ("schedule=now", "selection=uniform", "selection.k=5"),
    "LowCarb": ("schedule=lowcarb", "selection=all", "schedule.k=10"),
    "LowCarb, five machines": ("schedule=lowcarb", "selection=all", "schedule.k=5"),
    "FedZero": ("schedule=fedzero", "selection=all", "schedule.k=6"),
    "CAFE": (
        "schedule=cafe", "selection=all", "schedule.budget_g=150", "schedule.rounds=60",
        "schedule.value=0.2",
    ),
    "alpha-fair": (
        "schedule=alpha_fair", "selection=all", "schedule.hours=72", "schedule.slack_h=60",
        "schedule.budget_share=0.3",
    ),
    "ours": OURS,
    "ours, perfect forecasts": (*OURS, "carbon_forecast=perfect", "forecast=oracle"),
}  # fmt: skip
PRICES = (0.0, 0.002, 0.02, 0.1)
SWEEP = {f"ours, delay price {p:g}": (*OURS[:-1], f"schedule.delay_price={p}") for p in PRICES}
KEPT = (
    "accuracy", "time_to_target_s", "time_virtual_s", "time_wall_s", "rounds", "samples",
    "energy_useful_j", "energy_wasted_j", "carbon_useful_g", "carbon_wasted_g",
    "energy_server_j", "carbon_server_g", "participation_gini", "model_sha256",
    "carbon_forecast_mae_g_per_kwh", "carbon_forecast_mape", "carbon_forecast_rank",
)  # fmt: skip


def cell(method: str, overrides: Sequence[str], seed: int, cells: Path) -> dict[str, Any]:
    """One run's figures and its curve of (hours, grams, accuracy); from the folder if there."""
    cfg = compose([*WORLD, *overrides, f"seed={seed}"])
    text = config.dumps(cfg)
    name = "".join(c if c.isalnum() else "-" for c in method)
    path = cells / f"{name}-{seed}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["config"] == text:
            return found
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        summary = launch(cfg, Path(folder) / "run")
        rounds = RunDir(Path(folder) / "run").rounds()
    found = {"method": method, "seed": seed, "config": text}
    found |= {key: summary[key] for key in KEPT}
    # Late work is booked in later rounds or after the last; the summary has it all.
    found["grams"] = summary["carbon_useful_g"] + summary["carbon_wasted_g"]
    found["cpu_s"] = time.process_time() - began
    found["curve"] = curve(rounds)
    path.write_text(json.dumps(found))
    return found


def curve(rounds: Sequence[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """(hours, grams so far, accuracy) at about 60 rounds."""
    grams, points = 0.0, []
    for record in rounds:
        grams += record["carbon_useful_g"] + record["carbon_wasted_g"]
        if record["accuracy"] is not None:
            row = record["time_s"] / 3600.0, grams, record["accuracy"]
            points.append(tuple(round(x, 4) for x in row))
    step = max(1, len(points) // 60)
    return [*points[:-1:step], points[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--only", default="", help="methods, separated by semicolons")
    parser.add_argument("--cells", type=Path, default=Path("runs/green"))
    parser.add_argument("--table", action="store_true", help="only write the tables")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    methods = {**METHODS, **SWEEP}
    wanted = options.only.split(";") if options.only else list(methods)
    if not options.table:
        for seed in map(int, options.seeds.split(",")):
            for method in wanted:
                found = cell(method, methods[method], seed, options.cells)
                hours = found["time_to_target_s"]
                reached = "not reached" if hours is None else f"{hours / 3600.0:.1f} h"
                print(f"seed {seed} {method}: {found['grams']:.1f} g, {reached}", flush=True)
    runs = [json.loads(path.read_text()) for path in sorted(options.cells.glob("*.json"))]
    for run in runs:
        run.pop("config")
    runs = [run for run in runs if run["method"] in methods]
    runs.sort(key=lambda run: (list(methods).index(run["method"]), run["seed"]))
    world = {"target": TARGET, "world": WORLD, "methods": methods}
    rows = ",\n".join(json.dumps(run) for run in runs)
    head = json.dumps(world, indent=1)[1:-2]
    (HERE / "results.json").write_text("{" + head + ',\n "runs": [\n' + rows + "\n]}\n")
    (HERE / "results.md").write_text(tables.report(runs, list(METHODS), list(SWEEP), TARGET))
    (HERE / "green.svg").write_text(figure.draw(runs, list(METHODS), list(SWEEP), TARGET))


if __name__ == "__main__":
    main()
