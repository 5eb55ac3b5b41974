"""Which robust rule keeps how much accuracy, whatever the attack?

    python experiments/byzantine_heatmap/run.py [--seeds 1] [--seconds N] [--out DIR]

Writes results.md, results.json and heatmap.svg beside this file; goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import heat

HERE = Path(__file__).resolve().parent
HONEST = 10
LIARS = (1, 3)
GAMMAS = (1.0, 0.33, 0.0)
RULES = {
    "mean": {"name": "mean", "turns": True},
    "coordinate median": {"name": "coordinate_median", "turns": False},
    "trimmed mean": {"name": "trimmed_mean", "turns": False},
    "geometric median": {"name": "geometric_median", "turns": True},
    "Multi-Krum": {"name": "multi_krum", "turns": True},
    "centered clipping": {"name": "centered_clipping", "turns": True},
}
STAGES = {"": "", "NNM + ": "nearest_neighbor_mixing"}
ATTACKS = ("sign_flip_together", "optimised_alie", "optimised_inner_product", "mimic")
SETTING = (
    "experiment=r1", "data=digits", "model.hidden=[32]", "rounds=80", "eval_every=10",
    "checkpoint_every=0", "partition.rows=3", "attack.place=last",
)  # fmt: skip
TAU = 0.1
"""Radius of centered clipping; the median IID update of this setting is 0.03 to 0.17 long."""


def cell(rule: str, stage: str, f: int, gamma: float, attack: str, seed: int) -> str:
    return f"{stage}{rule} / f {f} / gamma {gamma:g} / {attack} / seed {seed}"


def everything(seeds: int) -> dict[str, tuple[str, str, int, float, str, int]]:
    grid = itertools.product(range(seeds), LIARS, GAMMAS, RULES, STAGES, ATTACKS)
    return {
        cell(rule, stage, f, gamma, attack, seed): (rule, stage, f, gamma, attack, seed)
        for seed, f, gamma, rule, stage, attack in grid
    }


def overrides(
    rule: str, stage: str, f: int, gamma: float, attack: str, seed: int
) -> tuple[str, ...]:
    """Of a run; an attack that searches knows the whole pipeline."""
    name, stages = RULES[rule]["name"], STAGES[stage]
    options = f"{{{name}: {{tau: {TAU}}}}}" if name == "centered_clipping" else name
    known: tuple[str, ...] = ()
    if attack.startswith("optimised"):
        steps = f"{{_target_: defenses.preaggregation.{stages}, _partial_: true}}"
        known = (
            f"attack.plot.rule.rule._target_=defenses.aggregation.{name}",
            f"attack.plot.rule.pre=[{steps if stages else ''}]",
            f"attack.plot.craft.turns={str(RULES[rule]['turns']).lower()}",
        )
        if name == "centered_clipping":
            known += (f"+attack.plot.rule.rule.tau={TAU}",)
    return (
        *SETTING, f"nodes={HONEST + f}", f"attack={attack}", f"attack.count={f}",
        f"partition.inner.gamma={gamma}", f"combine.rule={options}", f"combine.pre=[{stages}]",
        f"seed={seed}", *known,
    )  # fmt: skip


def worst(results: dict[str, cells.Result], seeds: int) -> list[heat.Row]:
    """Rows of (rule, [(accuracy, attack) by column]); the mean of seeds, then the worst attack."""
    rows = []
    for rule, stage in itertools.product(RULES, STAGES):
        found = []
        for f, gamma in itertools.product(LIARS, GAMMAS):
            means = {
                attack: sum(
                    results[cell(rule, stage, f, gamma, attack, seed)]["accuracy"]
                    for seed in range(seeds)
                ) / seeds
                for attack in ATTACKS
            }  # fmt: skip
            attack = min(means, key=lambda name: means[name])
            found.append((means[attack], attack))
        rows.append((stage + rule, found))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    grid = everything(options.seeds)

    def measured(name: str) -> cells.Result:
        found = overrides(*grid[name])
        return cells.played(found, lambda run, _: {"accuracy": cells.last_accuracies(run)})

    results = cells.fill(options.out / "results.json", grid, measured, options.seconds)
    if results is not None:
        columns = [f"f = {f}, gamma {gamma:g}" for f, gamma in itertools.product(LIARS, GAMMAS)]
        rows = worst(results, options.seeds)
        text = heat.table(columns, rows)
        encrypted = HERE.parent / "hidden_poison" / "results.json"
        if encrypted.is_file():
            text += heat.hidden(json.loads(encrypted.read_text()))
        (options.out / "results.md").write_text(text)
        (options.out / "heatmap.svg").write_text(heat.figure(columns, rows))
        print(text)


if __name__ == "__main__":
    main()
