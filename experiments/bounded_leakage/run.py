"""How much more does a malicious client learn if it may push the model within a ball?

    python experiments/bounded_leakage/run.py [--seeds 1,2,3,4,5] [--seconds N] [--out DIR]

Writes results.json, results.md and leakage.svg beside this file; goes on where it was stopped.
See README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import figure
import numpy as np
import torch
from hives import CLIENTS, HIVES, HONEST_KL
from scipy.special import ndtr

from fedhive.leakage.score_inference import proportion

HERE = Path(__file__).resolve().parent
RADII = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
ROUNDS = (1, 10)
TRIALS = 2000


def measure(cell: str) -> cells.Result:
    """One attack: "hive, rounds, rho, seed"."""
    hive, rounds, rho, seed = cell.split(", ")
    torch.set_num_threads(1)
    outcome = HIVES[hive](int(seed)).attack(float(rho), int(rounds), TRIALS)
    return asdict(outcome)


def accuracy(kl: float) -> float:
    """Of the best test of two Gaussians that far apart."""
    return float(ndtr(np.sqrt(kl / 2)))


def gathered(
    results: Mapping[str, cells.Result], hive: str, rounds: int, seeds: Sequence[int]
) -> list[dict[str, float]]:
    """One row a radius: means over seeds, and guesses of all seeds with their interval."""
    rows = []
    for rho in RADII:
        mine = [results[f"{hive}, {rounds}, {rho:g}, {seed}"] for seed in seeds]
        guessed = proportion(sum(r["hits"] for r in mine), sum(r["trials"] for r in mine))
        rows.append({
            "rho": rho,
            "loudness": float(np.mean([r["loudness"] for r in mine])),
            "predicted": float(np.mean([r["predicted"] for r in mine])),
            "measured": float(np.mean([r["measured"] for r in mine])),
            "worst": max(r["measured"] / r["predicted"] for r in mine),
            "expected": float(np.mean([accuracy(r["predicted"]) for r in mine])),
            "accuracy": guessed.value, "low": guessed.low, "high": guessed.high,
        })  # fmt: skip
    return rows


def table(curves: Mapping[tuple[str, int], list[dict[str, float]]], seeds: Sequence[int]) -> str:
    """The results as Markdown."""
    lines = [
        "# Leakage to a malicious client within a ball", "",
        f"{CLIENTS} clients, one malicious; {len(seeds)} seeds, {TRIALS} guesses each. rho is in "
        "median norms of honest updates; KL in nats, mean over seeds; noise is such that the "
        f"honest model before the attack leaks {HONEST_KL:g}. Loudness is the norm of the "
        "malicious update over the median. Right guesses: measured, with a 95 % interval, and "
        "what L(rho) allows.", "",
        "| hive | rounds of pushing | rho | loudness | L(rho) | KL measured | largest measured "
        "/ L | right guesses | L allows |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for (hive, rounds), rows in curves.items():
        for r in rows:
            lines.append(
                f"| {hive} | {rounds} | {r['rho']:g} | {r['loudness']:.1f} | {r['predicted']:.4f} "
                f"| {r['measured']:.4f} | {r['worst']:.4f} | {100 * r['accuracy']:.1f} % "
                f"({100 * r['low']:.1f} to {100 * r['high']:.1f}) | {100 * r['expected']:.1f} % |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    names = [f"{hive}, {rounds}, {rho:g}, {seed}" for hive in HIVES for rounds in ROUNDS
             for rho in RADII for seed in seeds]  # fmt: skip
    results = cells.fill(options.out / "results.json", names, measure, options.seconds)
    if results is None:
        print("time is up; run again to go on")
        return
    curves = {(hive, rounds): gathered(results, hive, rounds, seeds)
              for hive in HIVES for rounds in ROUNDS}  # fmt: skip
    (options.out / "results.md").write_text(table(curves, seeds))
    (options.out / "leakage.svg").write_text(figure.draw(curves))


if __name__ == "__main__":
    main()
