"""Do robust rules stand where averaging falls, as FLANDERS' authors report for Fashion-MNIST?

    python experiments/flanders_direction/run.py [--seconds N] [--out DIR]

Writes results.md and results.json beside this file; goes on where it was stopped. See README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells

HERE = Path(__file__).resolve().parent
NODES, LIARS, ROUNDS, IMAGES = 100, 20, 20, 5000
SETTING = (
    "data=mnist5k", "partition=dirichlet", "partition.alpha=0.5", "model=mlp",
    "model.hidden=[256,128,64]", "fleet=equal", "selection=all", f"nodes={NODES}",
    f"rounds={ROUNDS}", "eval_every=5", "checkpoint_every=0", "local_work.epochs=2",
    "client.lr=0.05", "client.momentum=0.9", "client.batch_size=32", "client.max_grad_norm=5.0",
    "engine.cohort=true",
)  # fmt: skip
ATTACKS = {
    "nobody": ("attack=none",),
    "Gaussian": ("attack=gaussian", f"attack.count={LIARS}"),
    "LIE as they run it": ("attack=alie", f"attack.count={LIARS}"),
    "Min-Max": ("attack=min_max", f"attack.count={LIARS}"),
    "LIE of its paper": ("attack=alie", f"attack.count={LIARS}"),
}
RULES = {
    "mean": ("combine=mean", "combine.weighting=uniform"),
    "median": ("combine=robust", "combine.rule=coordinate_median"),
    "Multi-Krum": ("combine=robust", "combine.rule=multi_krum"),
}
PUBLISHED = {
    "mean": ("0.68", "0.25", "0.17", "0.11"),
    "median": ("0.71", "0.66", "0.65", "0.60"),
    "Multi-Krum": ("0.66", "0.74", "0.65", "0.67"),
}
"""Of the authors' README, b = 0 and b = 20 of 100, in the order of ATTACKS."""


def overrides(attack: str, rule: str) -> tuple[str, ...]:
    told = () if rule == "mean" else (f"combine.f={LIARS}", "combine.pre=[]")
    return (*SETTING, *ATTACKS[attack], *RULES[rule], *told)


def measured(cell: str) -> cells.Result:
    attack, _, rule = cell.partition(" / ")

    def change(cfg: dict[str, Any]) -> None:
        cfg["data"] = {"_target_": "tenth.load", "train": IMAGES}
        if attack == "LIE as they run it":
            cfg["attack"]["plot"]["craft"] = {"_target_": "lie.flanders", "_partial_": True}

    return cells.played(
        overrides(attack, rule), lambda run, _: {"accuracy": cells.last_accuracies(run, 1)},
        change,
    )  # fmt: skip


def table(results: dict[str, cells.Result]) -> str:
    lines = ["| rule | " + " | ".join(ATTACKS) + " |", "|---" * (len(ATTACKS) + 1) + "|"]
    for rule in RULES:
        found = [f"{results[f'{attack} / {rule}']['accuracy']:.2f}" for attack in ATTACKS]
        said = [f" ({theirs})" for theirs in PUBLISHED[rule]] + [""]
        both = [ours + theirs for ours, theirs in zip(found, said, strict=True)]
        lines.append(f"| {rule} | " + " | ".join(both) + " |")
    note = (
        f"\nTest accuracy after {ROUNDS} rounds, one seed; in brackets what the authors publish."
    )
    return "\n".join([*lines, note]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = [f"{attack} / {rule}" for attack in ATTACKS for rule in RULES]
    results = cells.fill(options.out / "results.json", names, measured, options.seconds)
    if results is not None:
        text = table(results)
        (options.out / "results.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
