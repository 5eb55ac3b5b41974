"""How much of an image does an attacker who knows of the mask rebuild from what a mask leaves?

    python experiments/mask_quality/run.py [--seeds 2] [--seconds N] [--out DIR]

Writes results.md and results.json beside this file; goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from functools import lru_cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import numpy as np
import torch
from torch import Tensor

from attacks.reconstruction.attacks import Matching
from attacks.reconstruction.forward import SingleStep
from attacks.reconstruction.match import Recipe
from attacks.reconstruction.networks import lenet_sigmoid
from attacks.reconstruction.scene import Scene
from defenses.encryption import masks, sensitivity
from defenses.encryption.agreement import Sensitive
from defenses.encryption.sensitivity import Sample
from fedhive.leakage.patches import photo_patches
from fedhive.leakage.score import Truth, score
from fedhive.leakage.view import Exchange, Knowledge, View

HERE = Path(__file__).resolve().parent
SHAPE, LR = (3, 16, 16), 0.05
VOTERS, SAMPLES = 4, 16
SHARES = (0.03, 0.1, 0.3)
MAPS = {
    "input Jacobian": partial(sensitivity.input_jacobian, probes=8),
    "label Jacobian": sensitivity.label_jacobian,
    "magnitude": sensitivity.magnitude,
    "leverage": partial(sensitivity.leverage, probes=32),
}
MASKS = ("first parameters", *MAPS, "random", "last parameters")
SEARCH = Matching(Recipe(adam_steps=60, polish=240, polish_tv=(0.0,)))


@lru_cache(maxsize=1)
def patches() -> tuple[Tensor, Tensor]:
    """16 x 16 colour patches and their brightness classes."""
    data = photo_patches(1000, 1, 0)
    small = data.x_train.reshape(-1, 3, 16, 2, 16, 2).mean((3, 5))
    return torch.from_numpy(small), torch.from_numpy(data.y_train)


def hidden(name: str, share: float, scene: Scene, sent: Tensor, seed: int) -> np.ndarray:
    """The mask, bool [P]; those from data are agreed upon by other clients than the victim."""
    layout, size = scene.layout, sent.numel()
    count = masks.count_of(share, size)
    if name == "first parameters":
        return masks.FirstK(share=share).choose(layout)
    if name == "last parameters":
        return np.arange(size) >= size - count
    if name == "random":
        return masks.Random(share=share, seed=seed).choose(layout)
    x, y = patches()
    total = np.zeros(size)
    for voter in range(VOTERS):
        rows = slice(600 + voter * SAMPLES, 600 + (voter + 1) * SAMPLES)
        rng = np.random.default_rng([seed, voter])
        own = Sample(scene.model, sent, x[rows], y[rows], rng, lambda steps: sent)
        scores = MAPS[name](own)
        total += scores / scores.max()
    return Sensitive(score=MAPS[name], share=share).agreed(total, layout)


def measured(cell: str) -> cells.Result:
    """PSNR of the rebuilt image, and whether it is told from 500 others."""
    name, share, seed = cell.split(" / ")
    torch.set_num_threads(1)
    torch.manual_seed(int(seed))
    net = lenet_sigmoid(SHAPE, 10)
    scene = Scene(net, SHAPE, 10)
    sent = torch.cat([p.detach().reshape(-1) for p in net.state_dict().values()])
    x, y = patches()
    i = int(np.random.default_rng(int(seed)).integers(500))
    gradient = SingleStep(scene, sent.numpy().copy())(x[i : i + 1], y[i : i + 1])
    update = np.float32(-LR) * gradient.detach().numpy()
    knows = Knowledge((int(y[i]),), 1, LR, 1, 1)
    whole = View(
        "server", (0,), (1.0,), (Exchange(1, sent.numpy(), update),),
        np.ones(len(update), np.bool_), scene.layout, knows=knows,
    )  # fmt: skip
    left = whole
    if name != "nothing encrypted":
        left = whole.restrict(visible=~hidden(name, float(share), scene, sent, int(seed)))
    truth = Truth(x[i : i + 1].numpy(), y[i : i + 1].numpy())
    found = SEARCH(left, scene, np.random.default_rng(int(seed)))
    leak = score(found.samples, truth, pool=x[:500].numpy())
    flat = score(np.full((1, *SHAPE), truth.x.mean(), np.float32), truth)
    return {
        "psnr": round(float(np.mean(leak.psnr)), 2), "identified": leak.identified,
        "flat_psnr": round(float(np.mean(flat.psnr)), 2), "hidden": round(left.hidden_share, 4),
    }  # fmt: skip


def names(seeds: int) -> list[str]:
    grid = itertools.product(range(seeds), SHARES, MASKS)
    bare = [f"nothing encrypted / 0 / {seed}" for seed in range(seeds)]
    return bare + [f"{name} / {share} / {seed}" for seed, share, name in grid]


def table(results: dict[str, cells.Result], seeds: int) -> str:
    """PSNR in dB (mean over the images), and how many images were told from 500 others."""
    lines = [f"| mask | {' | '.join(f'{100 * share:g} %' for share in SHARES)} |"]
    lines += ["|---|" + "---|" * len(SHARES)]
    for name in MASKS:
        row = []
        for share in SHARES:
            found = [results[f"{name} / {share} / {seed}"] for seed in range(seeds)]
            told = sum(one["identified"] for one in found)
            row.append(f"{np.mean([one['psnr'] for one in found]):.1f}, {told:.0f}/{seeds}")
        lines.append(f"| {name} | {' | '.join(row)} |")
    bare = [results[f"nothing encrypted / 0 / {seed}"] for seed in range(seeds)]
    lines.append("")
    lines.append(f"Nothing encrypted: {np.mean([one['psnr'] for one in bare]):.1f} dB. ")
    lines[-1] += f"One flat colour: {np.mean([one['flat_psnr'] for one in bare]):.1f} dB."
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    results = cells.fill(path, names(options.seeds), measured, options.seconds)
    if results is not None:
        text = table(results, options.seeds)
        (options.out / "results.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
