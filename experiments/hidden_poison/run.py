"""What becomes of poison that hides in encrypted coordinates, by the way sums come back?

    python experiments/hidden_poison/run.py [--seeds 1] [--seconds N] [--out DIR]

Writes results.md and results.json beside this file; goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells

from fedhive.results.rundir import RunDir

HERE = Path(__file__).resolve().parent
SETTING = (
    "data=digits", "model=mlp", "model.hidden=[32]", "partition=dirichlet", "partition.alpha=1.0",
    "nodes=20", "selection=all", "rounds=20", "local_work.epochs=2", "client.lr=0.2",
    "eval_every=3", "checkpoint_every=0", "attack.place=last",
)  # fmt: skip
"""Softer than the heat map's split: what matters here is what a rule can see."""
HIDDEN = {
    "last layer (14 %)": ("layers", "mask.names=['3']", {"names": ["3"]}),
    "first layer (86 %)": ("first_k", "mask.k=1", {"k": 1}),
}
"""(mask, its setting, the same for the attack)."""
CASES = {
    "last layer (14 %)": (("nobody", 0), ("against", 2), ("against", 4), ("flip", 4)),
    "first layer (86 %)": (("nobody", 0), ("flip", 4)),
}
"""(attack, how many of the 20 mount it)."""
KRUM = ("combine=robust", "combine.rule=multi_krum", "combine.pre=[]")
MEDIAN = ("combine=robust", "combine.rule=coordinate_median", "combine.pre=[]")
ENCRYPTED = ("protection=encryption", "cipher=plain", "combine.weighting=uniform")
SEALED = ("protection=encryption", "cipher=plain")
WAYS = {
    "plain text, mean": ("combine.weighting=uniform",),
    "plain text, Multi-Krum": KRUM,
    "plain text, median": MEDIAN,
    "encrypted, sum": (*ENCRYPTED, "path=sum"),
    "encrypted, select (Multi-Krum) then sum": (*SEALED, "path=select_then_sum", *KRUM),
    "encrypted, groups of 2, median": (*SEALED, "path=bucketed", "path.size=2", *MEDIAN),
    "encrypted, groups of 4, median": (*SEALED, "path=bucketed", "path.size=4", *MEDIAN),
}
ATTACKS = {
    "against": ("attack=hidden_poison", "attack.behaviour.step=0.25"),
    "flip": ("attack=hidden_poison", "attack.behaviour.kind=flip", "attack.behaviour.scale=10"),
}
"""The step is the cipher's clip: the most that an encrypted coordinate can carry."""


class Cell(NamedTuple):
    """One run."""

    hidden: str
    way: str
    attack: str
    liars: int
    seed: int

    def __str__(self) -> str:
        return " / ".join(str(part) for part in self)


def everything(seeds: int) -> dict[str, Cell]:
    found = [
        Cell(hidden, way, *case, seed)
        for seed, hidden, way in itertools.product(range(seeds), HIDDEN, WAYS)
        for case in CASES[hidden]
    ]
    return {str(cell): cell for cell in found}


def overrides(cell: Cell) -> tuple[str, ...]:
    """Of a run; rules are told that 4 of 20 may lie, however many do."""
    mask, setting, _ = HIDDEN[cell.hidden]
    words = [*SETTING, *WAYS[cell.way], f"seed={cell.seed}"]
    if "protection=encryption" in words:
        words += [f"mask={mask}", setting]
    if any(word.startswith("combine=robust") for word in words):
        words.append("combine.f=4")
    if cell.attack == "nobody":
        words = [word for word in words if not word.startswith("attack.")]
    else:
        words += [*ATTACKS[cell.attack], f"attack.count={cell.liars}"]
    return tuple(words)


def table(results: dict[str, cells.Result], seeds: int) -> str:
    """Accuracy in per cent, the mean of the seeds, by way back and attack."""
    lines = []
    for hidden, columns in CASES.items():
        heads = ["nobody lies", *(f"{attack}, {liars}" for attack, liars in columns[1:])]
        lines += [f"### Encrypted: {hidden}", "", f"| | {' | '.join(heads)} |"]
        lines += ["|---|" + "---|" * len(heads)]
        for way in WAYS:
            row = []
            for attack, liars in columns:
                found = [
                    results[str(Cell(hidden, way, attack, liars, seed))]["accuracy"]
                    for seed in range(seeds)
                ]
                row.append(f"{100 * sum(found) / seeds:.1f}")
            lines.append(f"| {way} | {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def measured(cell: Cell) -> cells.Result:
    """The accuracy of the last evaluations."""
    mask, _, options = HIDDEN[cell.hidden]
    rule = {"layers": "Layers", "first_k": "FirstK"}[mask]

    def aim(cfg: dict[str, Any]) -> None:
        if "behaviour" in cfg["attack"]:
            target = f"defenses.encryption.masks.{rule}"
            cfg["attack"]["behaviour"]["mask"] = {"_target_": target, **options}

    def look(run: RunDir, _: Any) -> cells.Result:
        return {"accuracy": cells.last_accuracies(run)}

    return cells.played(overrides(cell), look, aim)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    grid = everything(options.seeds)
    path = options.out / "results.json"
    results = cells.fill(path, grid, lambda name: measured(grid[name]), options.seconds)
    if results is not None:
        text = table(results, options.seeds)
        (options.out / "results.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
