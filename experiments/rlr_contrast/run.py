"""Does the robust learning rate close a backdoor that is open without it, as its authors report?

    python experiments/rlr_contrast/run.py [--seeds 1] [--seconds N] [--out DIR]

Writes results.md and results.json beside this file; goes on where it was stopped. See README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import numpy as np
import torch

from attacks.poisoning import Backdoor, Trigger
from fedhive.config import dumps
from fedhive.learning.workbench import workbench
from fedhive.results import checkpoint
from fedhive.results.rundir import RunDir

HERE = Path(__file__).resolve().parent
SOURCE, TARGET, ROUNDS = 5, 7, 36
SETTING = (
    "data=mnist5k", "partition=iid", "model=lenet", "fleet=equal", "selection=all", "nodes=10",
    f"rounds={ROUNDS}", f"eval_every={ROUNDS}", f"checkpoint_every={ROUNDS}",
    "local_work.epochs=2", "client.lr=0.1", "client.momentum=0.9", "client.batch_size=64",
    "client.max_grad_norm=10.0", "attack=backdoor", "attack.place=last",
    f"attack.behaviour.poison.source={SOURCE}", f"attack.behaviour.poison.target={TARGET}",
)  # fmt: skip
MEAN = ("combine=mean", "combine.weighting=uniform")
CELLS = {
    "nobody lies, mean": ("attack.count=0", *MEAN),
    "nobody lies, RLR 4": ("attack.count=0", "combine=robust", "combine.f=0", "combine.pre=[]",
                           "combine.rule={robust_learning_rate: {threshold: 4}}"),
    "backdoor, mean": ("attack.count=1", *MEAN),
    "backdoor, RLR 4": ("attack.count=1", "combine=robust", "combine.f=1", "combine.pre=[]",
                        "combine.rule={robust_learning_rate: {threshold: 4}}"),
}  # fmt: skip


def fashion(cfg: dict[str, Any]) -> None:
    cfg["data"] = {"_target_": "tenth.load"}


def looked_at(run: RunDir, summary: Mapping[str, Any]) -> cells.Result:
    """Accuracy, and how many stamped pictures of the source class are taken for the target."""
    bench = workbench(dumps(run.config()))
    x, y = torch.from_numpy(bench.data.x_test), torch.from_numpy(bench.data.y_test)
    door = Backdoor(TARGET, source=SOURCE, trigger=Trigger("plus", 5))
    model = torch.from_numpy(checkpoint.load(run).arrays["model"].copy())
    _, success = bench.evaluate_on(model, *door.test(x, y))
    return {"accuracy": round(summary["accuracy"], 4), "success": round(success, 4)}


def table(results: dict[str, cells.Result], seeds: int) -> str:
    lines = ["| setting | accuracy | backdoor success | of each seed |", "|---|---|---|---|"]
    for name in CELLS:
        found = [results[f"{name} / seed {seed}"] for seed in range(seeds)]
        accuracy, success = ([one[key] for one in found] for key in ("accuracy", "success"))
        each = ", ".join(f"{value:.2f}" for value in success)
        lines.append(f"| {name} | {np.mean(accuracy):.3f} | {np.mean(success):.3f} | {each} |")
    return "\n".join(lines) + f"\n\n{seeds} seeds, after {ROUNDS} rounds.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def measured(cell: str) -> cells.Result:
        name, _, seed = cell.rpartition(" / seed ")
        return cells.played((*SETTING, *CELLS[name], f"seed={seed}"), looked_at, fashion)

    names = [f"{name} / seed {seed}" for seed in range(options.seeds) for name in CELLS]
    results = cells.fill(options.out / "results.json", names, measured, options.seconds)
    if results is not None:
        text = table(results, options.seeds)
        (options.out / "results.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
