"""How much more harm does one adversary do with S identities than with one?

    python experiments/sybil_amplification/run.py [--seeds 3] [--seconds N] [--out DIR]

Writes results.md, results.json and curves.svg beside this file; goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import curves
import torch

from fedhive.config import dumps
from fedhive.learning.workbench import workbench
from fedhive.results import checkpoint
from fedhive.results.rundir import RunDir

HERE = Path(__file__).resolve().parent
HONEST, SOURCE, TARGET = 10, 1, 7
SIZES = (1, 2, 5, 10, 30, 100)
SETTING = (
    "data=mnist5k", "model=softmax_regression", "partition=outsiders", "fleet=equal",
    "selection=all", "local_work=steps", "local_work.steps=3", "client.lr=0.1",
    "client.batch_size=4000", "lr_schedule=cosine", "engine.cohort=true", "rounds=40",
    "eval_every=40", "checkpoint_every=40", "partition.rows=100",
    f"partition.label={SOURCE}", "attack=sybil", "identities=simulated",
    f"attack.behaviours.0.poison.source={SOURCE}", f"attack.behaviours.0.poison.target={TARGET}",
)  # fmt: skip
ROBUST = ("combine.f=1", "combine.rule=trimmed_mean", "combine.pre=[nearest_neighbor_mixing]")
DEFENCES: dict[str, tuple[str, ...]] = {
    "mean": ("combine=mean", "combine.weighting=uniform"),
    "robust, f = 1": ("combine=robust", *ROBUST),
    "FoolsGold": ("combine=foolsgold",),
    "hardened FoolsGold": ("combine=hardened_foolsgold",),
    "groups + mean": ("combine=sybil_resistant", "combine.f=0", "combine.rule=mean",
                      "combine.pre=[]"),
    "groups + robust, f = 1": ("combine=sybil_resistant", *ROBUST),
}  # fmt: skip
MAIN = "groups + robust, f = 1"
SPREADS = {
    "clones": (), "jitter": ("+attack.plot.spread.scale=0.3",),
    "zero_sum": ("+attack.plot.spread.scale=3.0",),
}  # fmt: skip
DATA = {"iid": "1.0", "gamma 0.33": "0.33", "one class each": "0.0", "twins": "0.33"}


@dataclass(frozen=True)
class Case:
    """One run."""

    defence: str
    data: str
    kind: str
    size: int
    accounts: str
    seed: int

    @property
    def name(self) -> str:
        return " / ".join(map(str, astuple(self)))


def everything(seeds: int) -> list[Case]:
    """The runs, those that carry the main claim first."""
    cases = []
    for seed in range(seeds):
        for data in ("iid", "gamma 0.33", "twins"):
            cases += [Case("mean", data, "clones", 0, "one", seed)]
            cases += [Case(MAIN, data, "clones", size, "one", seed) for size in (0, 1, 100)]
            cases += [Case(MAIN, data, "zero_sum", 100, "one", seed)]
    for defence in DEFENCES:
        for kind in SPREADS:
            sizes = {"clones": SIZES, "jitter": SIZES[1:-1], "zero_sum": SIZES[1:]}[kind]
            for size in sizes:
                cases.append(Case(defence, "gamma 0.33", kind, size, "one", 0))
        for data in DATA:
            cases += [Case(defence, data, "clones", size, "one", 0) for size in (0, 1, 10)]
            cases += [Case(defence, data, "zero_sum", 10, "one", 0)]
    for accounts in ("two", "five", "one each"):
        for size in (10, 100):
            for defence in ("groups + mean", MAIN):
                cases.append(Case(defence, "gamma 0.33", "zero_sum", size, accounts, 0))
    return list(dict.fromkeys(cases))


def overrides(case: Case) -> tuple[str, ...]:
    owned = {"one": 1, "two": 2, "five": 5, "one each": max(1, case.size)}[case.accounts]
    return (
        *SETTING, *DEFENCES[case.defence], f"nodes={HONEST + case.size}", f"seed={case.seed}",
        f"attack.count={case.size}", f"partition.count={case.size}",
        f"partition.inner.gamma={DATA[case.data]}",
        f"attack.plot.spread._target_=attacks.sybil.{case.kind}", *SPREADS[case.kind],
        f"identities.owners={owned}", f"identities.devices={owned}",
    )  # fmt: skip


def twinned(cfg: dict[str, Any]) -> None:
    cfg["data"] = {"_target_": "twins.load"}
    cfg["partition"] = {
        "_target_": "twins.Twins", "inner": cfg["partition"],
        "outsiders": cfg["partition"]["count"],
    }  # fmt: skip


def looked_at(run: RunDir, summary: Mapping[str, Any]) -> cells.Result:
    """Accuracy, worst class, and how many of the source class are taken for the target."""
    bench = workbench(dumps(run.config()))
    model = torch.from_numpy(checkpoint.load(run).arrays["model"].copy())
    x, y = torch.from_numpy(bench.data.x_test), torch.from_numpy(bench.data.y_test)
    size = bench.data.x_test[0].size
    weight, bias = model[: 10 * size].view(10, size), model[10 * size :]
    said = (x.flatten(1) @ weight.T + bias).argmax(1)
    right = said == y
    assert abs(float(right.double().mean()) - summary["accuracy"]) < 0.002
    return {
        "accuracy": round(float(right.double().mean()), 4),
        "worst_class": round(min(float(right[y == c].double().mean()) for c in range(10)), 4),
        "success": round(float((said[y == SOURCE] == TARGET).double().mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    grid = {case.name: case for case in everything(options.seeds)}

    def measured(name: str) -> cells.Result:
        case = grid[name]
        return cells.played(overrides(case), looked_at, twinned if case.data == "twins" else None)

    results = cells.fill(options.out / "results.json", grid, measured, options.seconds)
    if results is not None:
        found = {astuple(grid[name]): result for name, result in results.items()}
        text = curves.tables(found, list(DEFENCES), list(SPREADS), SIZES, list(DATA), MAIN)
        (options.out / "results.md").write_text(text)
        (options.out / "curves.svg").write_text(
            curves.figure(found, list(DEFENCES), list(SPREADS), SIZES)
        )
        print(text)


if __name__ == "__main__":
    main()
