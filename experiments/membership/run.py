"""Which protections hide who was in the training data, and from whom?

    python experiments/membership/run.py [--seeds 1,2,3] [--seconds N] [--out DIR]

Writes results.json and results.md beside this file; goes on where it was stopped. See README.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import numpy as np
import torch

from attacks.inference.membership import Cosine, Loss, LossDrop
from attacks.inference.probe import Probe, Records
from fedhive.compose import compose
from fedhive.config import dumps
from fedhive.launch import launch
from fedhive.leakage.question import Examples, ask, shares_of
from fedhive.leakage.remainder import as_client
from fedhive.leakage.score_inference import over_subjects, score_membership
from fedhive.leakage.store import ViewStore
from fedhive.leakage.view import Channel, View, together
from fedhive.learning.workbench import workbench
from fedhive.results.rundir import RunDir

HERE = Path(__file__).resolve().parent
OTHERS, SUBJECTS = 500, (1000, 1001, 1002, 1003)
SETTING = (
    "data=mnist5k", "partition=iid", "nodes=40", "rounds=10", "selection=all", "model=mlp",
    "model.hidden=[64]", "fleet=equal", "local_work.epochs=2", "client.lr=0.1",
    "client.batch_size=20", "observer=server", "observer.nodes=[0,1,2,3]", "eval_every=10",
    "checkpoint_every=0",
)  # fmt: skip
ATTACKS = {"loss": Loss(), "loss drop": LossDrop(), "cosine": Cosine()}


def variants(view: View, seed: int) -> Iterator[tuple[str, View]]:
    """What is left of a server's view of one client."""
    yield "everything in the clear", view
    sizes = [int(np.prod(shape)) for _, shape in view.layout]
    first, last = np.zeros(view.size, np.bool_), np.zeros(view.size, np.bool_)
    first[: sizes[0] + sizes[1]] = True
    last[-sizes[-2] - sizes[-1] :] = True
    coins = np.random.default_rng(seed).random(view.size)
    yield "first layer encrypted (98.7 %)", view.restrict(visible=~first)
    yield "last layer encrypted (1.3 %)", view.restrict(visible=~last)
    yield "90 % encrypted, drawn", view.restrict(visible=coins < 0.1)
    yield "99.9 % encrypted, drawn", view.restrict(visible=coins < 0.001)
    clip = float(np.median([np.linalg.norm(each.seen) for each in view.exchanges]))
    for noise in (1e-2, 1e-1, 1.0):
        channel = Channel(clip=clip, sigma=noise * clip)
        rng = np.random.default_rng(seed)
        yield f"clipped, noise {noise:g} of the clip", view.restrict(channel=channel, rng=rng)


def records(examples: Examples) -> Records:
    return Records(*map(torch.from_numpy, examples))


def measure(cell: str) -> cells.Result:
    """AUC by what is seen and by attack, one for each subject."""
    torch.set_num_threads(1)
    seed = int(cell)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        launch(compose([*SETTING, f"seed={seed}", "progress=false"]), place)
        run, store = RunDir(place), ViewStore(place / "views")
        probe = Probe(workbench(dumps(run.config())).model)
        views = {node: store.view(node) for node in SUBJECTS}
        found: dict[str, dict[str, list[float]]] = {}

        def note(name: str, view: View, nodes: Sequence[int]) -> None:
            asked = ask(run, nodes, SUBJECTS[0], OTHERS, seed)
            for attack, score in ATTACKS.items():
                scores = score(view, (), probe, records(asked.candidates))
                area = score_membership(scores, asked.member).auc.value
                found.setdefault(name, {}).setdefault(attack, []).append(round(area, 4))

        for node, view in views.items():
            for name, less in variants(view, seed):
                note(name, less, [node])
        note("sum of four clients", together(list(views.values())), SUBJECTS)
        shares = shares_of(run)
        others = [node for node in shares if node != SUBJECTS[0]]
        note("another client: average of 39", as_client(views, SUBJECTS[0], shares), others)
    return found


def table(results: Mapping[str, cells.Result]) -> str:
    """The results as Markdown: means over subjects and seeds, and the interval over both."""
    names = next(iter(results.values()))
    rule = "|---|" + "---|" * len(ATTACKS)
    lines = ["# Who was in the training data?", "",
             "AUC of membership attacks: mean over four clients and the seeds (over seeds in the "
             "last two rows), with a 95 % interval.", "",
             f"| what is seen | {' | '.join(ATTACKS)} |", rule]  # fmt: skip
    for name in names:
        if name == "cpu_s":
            continue
        shown = []
        for attack in ATTACKS:
            mean = over_subjects([a for one in results.values() for a in one[name][attack]])
            shown.append(f"{mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f})")
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    path = options.out / "results.json"
    results = cells.fill(path, options.seeds.split(","), measure, options.seconds)
    if results is None:
        print("time is up; run again to go on")
        return
    (options.out / "results.md").write_text(table(results))


if __name__ == "__main__":
    main()
