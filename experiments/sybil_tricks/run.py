"""Do Sybils gain by baiting the selection, by sleeping, by coming back under new names?

    python experiments/sybil_tricks/run.py [--seeds 2] [--jobs 2] [--seconds N] [--out DIR]

Writes results.md and results.json beside this file; goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import torch

from fedhive.config import dumps
from fedhive.learning.workbench import workbench
from fedhive.results import checkpoint
from fedhive.results.rundir import RunDir

HERE = Path(__file__).resolve().parent
HONEST, SYBILS, SOURCE, TARGET = 20, 5, 1, 7
SETTING = (
    "data=mnist5k", "model=softmax_regression", "partition=outsiders", "partition.rows=400",
    f"partition.label={SOURCE}", f"partition.count={SYBILS}", "partition.inner.gamma=0.33",
    f"nodes={HONEST + SYBILS}", "local_work=steps", "local_work.steps=10", "client.lr=0.05",
    "client.batch_size=40", "lr_schedule=cosine",
    "attack=sybil", f"attack.count={SYBILS}", "attack.plot.spread._target_=attacks.sybil.jitter",
    "+attack.plot.spread.scale=0.3", "identities=simulated",
    f"attack.behaviours.0.poison.source={SOURCE}", f"attack.behaviours.0.poison.target={TARGET}",
)  # fmt: skip
BAITS = {
    "nothing": "null",
    "never leave": "{_target_: attacks.bait.Bait, always_on: true}",
    "say they are fast": "{_target_: attacks.bait.Bait, rate: 5000.0}",
    "say they are clean": "{_target_: attacks.bait.Bait, zone: CA-ON, train_w: 1.0}",
    "all three": "{_target_: attacks.bait.Bait, always_on: true, rate: 5000.0, zone: CA-ON, "
    "train_w: 1.0}",
}
"""What they pretend; Toronto has the cleanest electricity of the zones."""
PICKED = ("rounds=30", "availability=phones", "availability.start_s=-259200",
          "history_s=259200", "carbon=generated",
          "fleet.median_rate=2.0", "trigger=deadline", "trigger.seconds=1200")  # fmt: skip
SELECTIONS: dict[str, tuple[str, ...]] = {
    "uniform": ("selection=uniform", "selection.k=5"),
    "predictive": ("selection=predictive", "selection.k=5", "forecast=survival"),
    "Oort": ("selection=oort", "selection.k=5"),
    "carbon, ours": ("selection=all", "schedule=ours", "schedule.k=5", "schedule.least=5",
                     "forecast=survival"),
    "one of each account": ("selection=one_per_group", "selection.k=5"),
}  # fmt: skip
RULES: dict[str, tuple[str, ...]] = {
    "mean": ("combine=mean", "combine.weighting=uniform"),
    "groups + robust, f = 1": ("combine=sybil_resistant", "combine.f=1",
                               "combine.rule=trimmed_mean",
                               "combine.pre=[nearest_neighbor_mixing]"),
}  # fmt: skip
ALL_ASKED = ("rounds=40", "selection=all", "fleet=equal", "engine.cohort=true",
             f"identities.owners={SYBILS}", f"identities.devices={SYBILS}")  # fmt: skip


def _striking(**when: int) -> tuple[str, ...]:
    """Poison and spread in those rounds only."""
    words = ", ".join(f"{key}: {value}" for key, value in when.items())
    return (
        "+attack.behaviours.0.schedule={_target_: attacks.plot.Schedule, " + words + "}",
        *(f"attack.plot.schedule.{key}={value}" for key, value in when.items()),
    )


TIMING: dict[str, tuple[str, ...]] = {
    "always": (),
    "sleep until round 31": _striking(start=31),
    "every third round": _striking(every=3),
    "new names every 5 rounds": ("identities.churn=5",),
    "sleep, and new names": (*_striking(start=31), "identities.churn=5"),
}
_WEIGHED = ("combine=sybil_resistant", "combine.groups=[]", "combine.f=1",
            "combine.rule=trimmed_mean", "combine.pre=[nearest_neighbor_mixing]")  # fmt: skip
PATIENT: dict[str, tuple[str, ...]] = {
    "mean": RULES["mean"],
    "robust, f = 1": _WEIGHED,
    "robust, f = 5": (*_WEIGHED, f"combine.f={SYBILS}"),
    "hardened FoolsGold": ("combine=hardened_foolsgold",),
    "probation of 10, f = 1": (*_WEIGHED, "combine.probation_rounds=10"),
    "reputation, f = 1": (*_WEIGHED,
                          "combine.reputation={_target_: defenses.identities.Reputation}"),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One run: being picked (``selection`` and ``bait``) or being patient (``timing``)."""

    study: str
    defence: str
    how: str
    bait: str
    seed: int

    @property
    def name(self) -> str:
        return " / ".join(map(str, astuple(self)))


def everything(seeds: int) -> list[Case]:
    cases = []
    for seed in range(seeds):
        for rule in RULES:
            for selection in SELECTIONS:
                wanted = BAITS if rule == "mean" else ("nothing", "all three")
                cases += [Case("picked", rule, selection, bait, seed) for bait in wanted]
        for rule in PATIENT:
            cases += [Case("patient", rule, timing, "nothing", seed) for timing in TIMING]
    return cases


def overrides(case: Case) -> tuple[str, ...]:
    own = (
        (*PICKED, *SELECTIONS[case.how], *RULES[case.defence])
        if case.study == "picked"
        else (*ALL_ASKED, *TIMING[case.how], *PATIENT[case.defence])
    )
    return (*SETTING, *own, f"attack.bait={BAITS[case.bait]}", f"seed={case.seed}",
            "eval_every=10", "checkpoint_every=10")  # fmt: skip


def looked_at(run: RunDir, summary: Mapping[str, Any]) -> cells.Result:
    """Accuracy, success, and the Sybils' share of what was accepted."""
    bench = workbench(dumps(run.config()))
    model = torch.from_numpy(checkpoint.load(run).arrays["model"].copy())
    x, y = torch.from_numpy(bench.data.x_test), torch.from_numpy(bench.data.y_test)
    size = bench.data.x_test[0].size
    weight, bias = model[: 10 * size].view(10, size), model[10 * size :]
    said = (x.flatten(1) @ weight.T + bias).argmax(1)
    accepted = [event["node"] for event in run.events() if event["status"] == "accepted"]
    return {
        "accuracy": round(float((said == y).double().mean()), 4),
        "success": round(float((said[y == SOURCE] == TARGET).double().mean()), 4),
        "share": round(sum(node >= HONEST for node in accepted) / max(1, len(accepted)), 4),
    }


def measured(name: str, seeds: int) -> cells.Result:
    case = next(case for case in everything(seeds) if case.name == name)
    return cells.played(overrides(case), looked_at)


Found = Mapping[Case, Mapping[str, float]]


def tables(found: Found, seeds: int) -> str:
    """What they gain by being picked, and by patience; means over seeds."""

    def points(study: str, rule: str, how: str, bait: str, *keys: str) -> str:
        results = [found[Case(study, rule, how, bait, seed)] for seed in range(seeds)]
        return " / ".join(f"{100 * mean(r[key] for r in results):.0f}" for key in keys)

    def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [f"## {title}\n", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"

    share = 100 * SYBILS / (HONEST + SYBILS)
    rule = "groups + robust, f = 1"
    return "\n".join([
        f"Means of {seeds} seeds, in points. Success: share of test 1s that are taken for 7s.\n",
        table(
            f"Being picked: share of accepted replies / success, plain mean ({share:.0f} % of "
            "the identities are Sybils)",
            ["selection", *BAITS],
            [[s, *(points("picked", "mean", s, b, "share", "success") for b in BAITS)]
             for s in SELECTIONS],
        ),
        table(
            f"The same with {rule}: share / success / accuracy",
            ["selection", "nothing", "all three"],
            [[s, *(points("picked", rule, s, b, "share", "success", "accuracy")
                   for b in ("nothing", "all three"))] for s in SELECTIONS],
        ),
        table(
            "Being patient, with as many accounts as identities: accuracy / success",
            ["rule", *TIMING],
            [[r, *(points("patient", r, t, "nothing", "accuracy", "success") for t in TIMING)]
             for r in PATIENT],
        ),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cases = {case.name: case for case in everything(options.seeds)}
    results = cells.fill(
        options.out / "results.json", cases, partial(measured, seeds=options.seeds),
        options.seconds, options.jobs,
    )  # fmt: skip
    if results is not None:
        found = {cases[name]: result for name, result in results.items()}
        text = tables(found, options.seeds)
        (options.out / "results.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
