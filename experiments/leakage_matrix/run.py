"""Attack x protection: what each attack reconstructs from what each protection leaves to see.

python experiments/leakage_matrix/run.py [--seconds 100]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import numpy as np
import torch
from figure import draw
from torch import Tensor, nn

from attacks.reconstruction.attacks import Matching, Reading
from attacks.reconstruction.closed import read_rows
from attacks.reconstruction.forward import SingleStep
from attacks.reconstruction.match import Recipe
from attacks.reconstruction.networks import lenet_sigmoid
from attacks.reconstruction.offline import attempt
from attacks.reconstruction.scene import Scene
from defenses.encryption.sensitivity import Sample, leverage
from fedhive.leakage.patches import photo_patches
from fedhive.leakage.score import Truth, score
from fedhive.leakage.view import Channel, Exchange, Knowledge, View, together
from fedhive.learning.models import lenet, mlp, resnet8

HERE = Path(__file__).resolve().parent
SHAPE, LR, SEEDS = (3, 16, 16), 0.05, 2
Victim = tuple[Scene, list[View], list[Truth]]


@lru_cache(maxsize=1)
def patches() -> tuple[Tensor, Tensor]:
    """16 x 16 colour patches and their brightness classes."""
    data = photo_patches(1500, 1, 0)
    small = data.x_train.reshape(-1, 3, 16, 2, 16, 2).mean((3, 5))
    return torch.from_numpy(small), torch.from_numpy(data.y_train)


@lru_cache(maxsize=4)
def trained(name: str) -> nn.Module:
    """A network after three epochs on patches that are not attacked."""
    torch.manual_seed(0)
    net = {"relu": lenet, "groupnorm": resnet8}[name](SHAPE, 10)
    x, y = (part[500:] for part in patches())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        for rows in torch.randperm(len(x)).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    return net.eval()


def clients(net: nn.Module, batch: int, seed: int, count: int = 4) -> Victim:
    """Views of the server on some clients that all took one step; the first is the victim."""
    scene = Scene(net, SHAPE, 10)
    sent = torch.cat([p.detach().reshape(-1) for p in net.state_dict().values()]).numpy().copy()
    x, y = patches()
    rows = np.random.default_rng(seed).choice(500, (count, batch), replace=False)
    views, truths = [], []
    for i in range(count):
        gradient = SingleStep(scene, sent)(x[rows[i]], y[rows[i]]).detach().numpy()
        labels = tuple(int(v) for v in y[rows[i]])
        knows = Knowledge(labels, batch, LR, 1, batch)
        views.append(
            View(
                "server", (i,), (1.0,), (Exchange(1, sent, np.float32(-LR) * gradient),),
                np.ones(len(sent), np.bool_), scene.layout, knows=knows,
            )
        )  # fmt: skip
        truths.append(Truth(x[rows[i]].numpy(), y[rows[i]].numpy()))
    return scene, views, truths


def hide(view: View, scores: np.ndarray, share: float) -> View:
    """The coordinates with the largest scores hidden."""
    hidden = np.argsort(-scores, kind="stable")[: round(share * view.size)]
    visible = np.ones(view.size, np.bool_)
    visible[hidden] = False
    return view.restrict(visible=visible)


def noised(part: float) -> Callable[..., View]:
    """Clipped at its own length and noised to ``part`` of it (per coordinate, in all)."""

    def protect(victim: Victim, rng: np.random.Generator) -> View:
        view = victim[1][0]
        length = float(np.linalg.norm(view.exchanges[0].seen))
        channel = Channel(clip=length, sigma=part * length / np.sqrt(view.size))
        return replace(
            view.restrict(channel=channel, rng=rng), channel=replace(channel, clip=None)
        )

    return protect


def sparse(share: float) -> Callable[..., View]:
    def protect(victim: Victim, rng: np.random.Generator) -> View:
        size = np.abs(victim[1][0].exchanges[0].seen)
        return hide(victim[1][0], -size, 1 - share)

    return protect


def encrypted(by: str, share: float) -> Callable[..., View]:
    """Selective encryption with a mask made from public patches, not from the victim's."""

    def protect(victim: Victim, rng: np.random.Generator) -> View:
        scene, [view, *_], _ = victim
        x, y = (part[600:616] for part in patches())
        sent = view.exchanges[0].sent
        if by == "random":
            scores = rng.random(view.size)
        elif by == "magnitude":
            scores = np.abs(SingleStep(scene, sent)(x, y).detach().numpy())
        else:
            start = torch.from_numpy(sent)
            sample = Sample(scene.model, start, x[:1], y[:1], rng, lambda steps: start)
            scores = leverage(sample)
        return hide(view, scores, share)

    return protect


def shielded(victim: Victim, rng: np.random.Generator) -> View:
    view = victim[1][0]
    scores = np.zeros(view.size)
    scores[: sum(int(np.prod(shape)) for _, shape in view.layout[:2])] = 1.0
    return hide(view, scores, float(scores.mean()))


def summed(victim: Victim, rng: np.random.Generator) -> View:
    return together(victim[1])


PROTECTIONS: dict[str, Callable[..., View]] = {
    "none": lambda victim, rng: victim[1][0],
    "noise, 1 % of the update": noised(0.01),
    "noise, 10 %": noised(0.1),
    "noise, as long as the update": noised(1.0),
    "top 10 % sent": sparse(0.1),
    "10 % encrypted, random": encrypted("random", 0.1),
    "10 % encrypted, largest": encrypted("magnitude", 0.1),
    "10 % encrypted, leverage": encrypted("leverage", 0.1),
    "30 % encrypted, leverage": encrypted("leverage", 0.3),
    "first layer shielded": shielded,
    "sum of 4 clients": summed,
}


def sigmoid_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return lenet_sigmoid(SHAPE, 10)


def dense_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(SHAPE, 10, hidden=(64,))


SEARCH = Matching(Recipe(adam_steps=60, polish=240, polish_tv=(0.0,)))
MANY = Matching(Recipe(adam_steps=120, polish=80, polish_tv=(0.0,)))
ATTACKS: dict[str, tuple[Any, Callable[[int], nn.Module], int, tuple[str, ...]]] = {
    "search, 1 image, sigmoid LeNet": (SEARCH, sigmoid_net, 1, tuple(PROTECTIONS)),
    "rows, 4 images, MLP": (Reading(read_rows), dense_net, 4, tuple(PROTECTIONS)),
    "search, 16 images, trained ReLU LeNet": (
        MANY, lambda seed: trained("relu"), 16, ("none", "noise, 10 %")
    ),
    "search, 16 images, trained GroupNorm ResNet": (
        MANY, lambda seed: trained("groupnorm"), 16, ("none",)
    ),
}  # fmt: skip
"""Attack, network, images a client, protections."""


def names() -> Iterable[str]:
    for seed in range(SEEDS):
        for attack, (_, _, _, protections) in ATTACKS.items():
            for protection in protections:
                yield f"{attack} | {protection} | {seed}"


def measure(cell: str) -> dict[str, Any]:
    while os.environ.get("WAIT_WHILE") and Path(os.environ["WAIT_WHILE"]).exists():
        time.sleep(5)
    torch.set_num_threads(1)
    name, protection, seed = cell.split(" | ")
    attack, net, batch, _ = ATTACKS[name]
    victim = clients(net(int(seed)), batch, int(seed))
    view = PROTECTIONS[protection](victim, np.random.default_rng(int(seed)))
    guess = attempt(attack, view, victim[0], int(seed))
    truth = victim[2][0]
    grey = score(np.full((batch, *SHAPE), truth.x.mean(), np.float32), truth)
    if isinstance(guess, str):
        return {"psnr": None, "recall": 0.0, "reason": guess}
    leak = score(guess.samples, truth, pool=patches()[0].numpy()[:500])
    found = leak.psnr[np.isfinite(leak.psnr)]
    return {
        "psnr": round(float(np.mean(found)), 2) if len(found) else None,
        "recall": leak.recall, "identified": leak.identified if len(found) else None,
        "samples": len(guess), "flat_guess_psnr": round(float(np.mean(grey.psnr)), 2),
    }  # fmt: skip


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| protection | " + " | ".join(ATTACKS) + " |",
        "|---|" + "---|" * len(ATTACKS),
    ]
    for protection in PROTECTIONS:
        row = []
        for attack in ATTACKS:
            found = [
                results[key]
                for seed in range(SEEDS)
                if (key := f"{attack} | {protection} | {seed}") in results
            ]
            if not found:
                row.append("")
                continue
            decibels = [one["psnr"] for one in found if one["psnr"] is not None]
            said = f"{np.mean(decibels):.1f} dB" if decibels else "nothing"
            row.append(f"{said}, {100 * np.mean([one['recall'] for one in found]):.0f} %")
        lines.append(f"| {protection} | " + " | ".join(row) + " |")
    flat = [one["flat_guess_psnr"] for one in results.values() if "flat_guess_psnr" in one]
    lines.append(f"\nOne flat colour for all images: {np.mean(flat):.1f} dB.")
    return "\n".join(lines) + "\n"


def means(results: dict[str, dict[str, Any]]) -> dict[tuple[str, str], float | None]:
    """Mean PSNR by protection and attack; None where no sample came out."""
    found: dict[tuple[str, str], list[float]] = {}
    for key, one in results.items():
        attack, protection, _ = key.split(" | ")
        some = found.setdefault((protection, attack), [])
        some += [] if one["psnr"] is None else [one["psnr"]]
    return {pair: float(np.mean(some)) if some else None for pair, some in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    path = HERE / "results.json"
    done = cells.fill(path, names(), measure, options.seconds)
    if path.is_file():
        results = json.loads(path.read_text())
        (HERE / "results.md").write_text(table(results))
        draw(HERE / "matrix.svg", list(PROTECTIONS), list(ATTACKS), means(results))
    if done is None:
        print("time is up; run again to go on")


if __name__ == "__main__":
    main()
