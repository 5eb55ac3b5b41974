"""How much of a volatile hive's power becomes learning?

    python experiments/half_power/run.py [--jobs 2] [--seeds 5] [--seconds N] [--out DIR]

Writes results.json, results.md and eta.svg beside this file; goes on where it was stopped. About
an hour on two cores. Needs the full Fashion-MNIST (see docs/data.md).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import methods
import tables

from fedhive import config, seeding
from fedhive.compose import compose
from fedhive.launch import launch

HERE = Path(__file__).resolve().parent
TUNING_SEED = 100
BUDGETS = (15_000, 30_000, 60_000, 120_000, 180_000, 240_000, 300_000, 360_000, 450_000)
"""Samples of the ideal machine: from a twentieth to more than all that a hive has."""
IDEAL_RATES = (0.1, 0.2)
IDEAL_SEEDS = 3
ALWAYS = "always"


def start_point(folder: Path) -> Path:
    """The model that all runs fine-tune: ten passes over 4,000 images, by one machine."""
    place = folder / "start"
    if not (place / "model.npz").is_file():
        chosen = ("nodes=15", "partition=iid", "selection.k=1", "rounds=1", "fleet=equal",
                  "local_work.epochs=10", "client.lr=0.05", "progress=false")  # fmt: skip
        launch(compose([*methods.MODEL, *chosen]), place)
    return place


def everything() -> list[str]:
    """Names of all cells but those whose settings depend on others' results."""
    ideal = [f"ideal / {samples} / lr {lr} / seed {seed}" for samples in BUDGETS
             for lr in IDEAL_RATES for seed in range(IDEAL_SEEDS)]  # fmt: skip
    tuning = [f"{method} / phones / {regime} / lr {lr} / seed {TUNING_SEED}"
              for regime in methods.REGIMES for method in (*methods.RIVALS, methods.OURS)
              for lr in methods.RATES]  # fmt: skip
    return [*tuning, *ideal]


def final(results: dict[str, cells.Result], seeds: int) -> list[str]:
    """Every method with the learning rate that was best for it on the tuning seed."""
    names = []
    for seed in range(seeds):
        for hive in methods.HIVES:
            for regime in methods.REGIMES:
                for method in (*methods.RIVALS, methods.OURS):
                    lr = tables.best_rate(results, method, regime)
                    names.append(f"{method} / {hive} / {regime} / lr {lr} / seed {seed}")
    return names


def replaced(results: dict[str, cells.Result], seeds: int) -> list[str]:
    """Ours with one part replaced, on movable data, at ours's learning rate."""
    lr = tables.best_rate(results, methods.OURS, "movable")
    return [f"{part} / {hive} / movable / lr {lr} / seed {seed}"
            for seed in range(min(seeds, methods.PART_SEEDS)) for hive in methods.HIVES
            for part in methods.PARTS]  # fmt: skip


def always_on(results: dict[str, cells.Result], seeds: int) -> list[str]:
    """The reference of each of our runs: the same machines, never off, slower in proportion."""
    names = []
    for seed in range(seeds):
        for hive in methods.HIVES:
            for regime in methods.REGIMES:
                lr = tables.best_rate(results, methods.OURS, regime)
                run = f"{methods.OURS} / {hive} / {regime} / lr {lr} / seed {seed}"
                names.append(f"{ALWAYS} / {results[run]['available']} / {run}")
    return names


def measure(cell: str, start: Path) -> cells.Result:
    """Accuracy, the samples that counted and those that were to be had."""
    parts = cell.split(" / ")
    if parts[0] == "ideal":
        chosen = _ideal(int(parts[1]), float(parts[2][3:]), int(parts[3][5:]))
    elif parts[0] == ALWAYS:
        chosen = _always(float(parts[1]), *_named(parts[2:]))
    else:
        chosen = methods.overrides(*_named(parts))
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose([*chosen, f"init_from={start}", "progress=false"])
        summary = launch(cfg, Path(folder) / "run")
    useful, wasted = summary["energy_useful_j"], summary["energy_wasted_j"]
    return {
        "accuracy": summary["accuracy"], "samples": summary["samples"],
        "available": round(summary["samples"] / summary["eta_system"]),
        "wasted": round(wasted / (useful + wasted), 4), "rounds": summary["rounds"],
        "gigabytes": round((summary["bytes_up"] + summary["bytes_down"]) / 1e9, 3),
    }  # fmt: skip


def _named(parts: list[str]) -> tuple[str, str, str, float, int]:
    method, hive, regime, lr, seed = parts
    return method, hive, regime, float(lr[3:]), int(seed[5:])


def _ideal(samples: int, lr: float, seed: int) -> tuple[str, ...]:
    """One machine with all data; its learning rate falls to 0 over its budget."""
    rounds = 50
    return (
        *methods.MODEL, "nodes=1", f"rounds={rounds}", "eval_every=1000", "checkpoint_every=0",
        "partition=iid", "lr_schedule=cosine", "fleet=equal", "selection=all", "local_work=steps",
        f"local_work.steps={max(1, round(samples / rounds / 32))}", f"client.lr={lr}",
        f"seed={seed}",
    )  # fmt: skip


def _always(
    available: float, method: str, hive: str, regime: str, lr: float, seed: int
) -> tuple[str, ...]:
    """The same fleet always on, slowed down so that it has the same compute in the same time."""
    named = methods.overrides(method, hive, regime, lr, seed)
    on = [part for part in named if not part.startswith("availability")]
    fleet = config.build(compose(on)["fleet"], "fleet")
    machines = fleet(methods.NODES, seeding.stream(seed, "fleet"))
    power = sum(machine.rate for machine in machines) * methods.HOURS * 3600
    slower = fleet.median_rate * available / power
    return (*on, "availability=always", f"fleet.median_rate={slower}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        task = partial(measure, start=start_point(Path(folder)))
        fill = partial(
            cells.fill, options.out / "results.json", measure=task, seconds=options.seconds,
            jobs=options.jobs,
        )  # fmt: skip
        found = fill(cells=everything())
        for further in (final, always_on, replaced):
            more = None if found is None else fill(cells=further(found, options.seeds))
            found = None if found is None or more is None else found | more
    if found is None:
        return
    (options.out / "results.md").write_text(tables.table(found, options.seeds))
    (options.out / "eta.svg").write_text(tables.figure(found, options.seeds))
    print(tables.table(found, options.seeds))


if __name__ == "__main__":
    main()
