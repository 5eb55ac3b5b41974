"""Does the linear-Gaussian measure foretell how well an attack reconstructs?

    python experiments/predicted_leakage/run.py [--images 1,2] [--seconds N] [--out DIR]

Writes results.json, results.md and predicted.svg beside this file; goes on where it was stopped.
See README.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cells
import numpy as np
import torch
from scipy.stats import spearmanr

from attacks.reconstruction.forward import SingleStep
from attacks.reconstruction.match import Recipe, match
from attacks.reconstruction.networks import lenet_sigmoid
from attacks.reconstruction.scene import Scene
from fedhive.leakage.measures import of_jacobian, rounding
from fedhive.leakage.patches import photo_patches
from fedhive.leakage.tangent import Tangent
from fedhive.leakage.view import Channel, Exchange, Knowledge, View

HERE = Path(__file__).resolve().parent
SHAPE, LR = (3, 16, 16), 0.05
RECIPE = Recipe(adam_steps=100, tv=0.0, polish=240, polish_tv=(0.0,))
VIEWS: dict[str, tuple[str, float]] = {
    "all, exact": ("all", 0.0),
    "all, noise 1e-4": ("all", 1e-4),
    "all, noise 1e-3": ("all", 1e-3),
    "all, noise 1e-2": ("all", 1e-2),
    "half hidden at random": ("random 0.5", 0.0),
    "nine tenths hidden at random": ("random 0.1", 0.0),
    "all but 5 % hidden at random": ("random 0.05", 0.0),
    "all but 2 % hidden at random": ("random 0.02", 0.0),
    "nine tenths hidden, noise 1e-4": ("random 0.1", 1e-4),
    "largest half hidden": ("small 0.5", 0.0),
    "first layer hidden": ("without 0", 0.0),
    "first two layers hidden": ("without 0 2", 0.0),
    "only the last layer seen": ("without 0 2 4", 0.0),
    "largest tenth seen": ("large 0.1", 0.0),
    "all, noise 3e-2": ("all", 3e-2),
    "four fifths hidden at random": ("random 0.2", 0.0),
}
"""Name: which coordinates are seen, and noise on each of the gradient's."""


@lru_cache(maxsize=1)
def victim(image: int) -> tuple[Scene, np.ndarray, torch.Tensor, torch.Tensor, np.ndarray, float]:
    """Scene, model, image, label, the gradient's Jacobian, and how far pixels spread in public."""
    torch.set_num_threads(1)
    torch.manual_seed(image)
    net = lenet_sigmoid(SHAPE, 10)
    data = photo_patches(356, 1, 0)
    small = data.x_train.reshape(-1, 3, 16, 2, 16, 2).mean((3, 5))
    rng = np.random.default_rng(image)
    x = torch.from_numpy(small[rng.integers(256)][None].copy())
    y = torch.from_numpy(rng.integers(0, 10, 1))
    scene = Scene(net, SHAPE, 10)
    sent = torch.cat([p.detach().flatten() for p in net.parameters()]).numpy()
    forward = SingleStep(scene, sent)
    jacobian = Tangent(lambda z: forward(z, y), x).jacobian()
    return scene, sent, x, y, jacobian, float((small[256:] - 0.5).std())


def shown(law: str, gradient: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Which coordinates are seen, bool [P]."""
    kind, *rest = law.split()
    if kind == "all":
        return np.ones(len(gradient), bool)
    if kind == "random":
        return rng.random(len(gradient)) < float(rest[0])
    if kind == "without":
        hidden = [np.full(math.prod(s), n.split(".")[0] in rest) for n, s in scene.layout]
        return ~np.concatenate(hidden)
    ranks = np.argsort(np.argsort(np.abs(gradient))) / len(gradient)
    return ranks < float(rest[0]) if kind == "small" else ranks >= 1.0 - float(rest[0])


def measure(cell: str) -> cells.Result:
    """Predicted and measured PSNR of one view of one image: "view; image"."""
    name, image = cell.split("; ")
    scene, sent, x, y, jacobian, tau = victim(int(image))
    law, sigma = VIEWS[name]
    rng = np.random.default_rng([int(image), zlib.crc32(name.encode())])
    forward = SingleStep(scene, sent)
    gradient = forward(x, y).detach().numpy()
    visible = shown(law, gradient, scene, rng)
    seen = -LR * (gradient + sigma * rng.normal(size=len(gradient))) * visible
    knows = Knowledge(tuple(y.tolist()), 1, LR, 1, 1)
    view = View(
        "server", (0,), (1.0,), (Exchange(1, sent, np.asarray(seen, np.float32)),), visible,
        scene.layout, Channel(sigma=LR * sigma), knows,
    )  # fmt: skip
    noise = sigma or rounding([torch.from_numpy(gradient)])
    told = of_jacobian(jacobian[visible], noise, tau)
    found = match(view, scene, forward, y, 1, RECIPE, rng)
    error = float((found.x - x).square().mean())
    return {
        "predicted": round(told.psnr(), 2),
        "measured": round(-10.0 * math.log10(max(error, 1e-12)), 2),
        "nats": round(told.mutual_information, 1),
        "rank_share": round(float((told.spectrum.values * tau**2 > 1.0).mean()), 3),
    }


def agreement(found: Sequence[cells.Result]) -> float:
    """Spearman's rank correlation of predicted and measured PSNR."""
    return float(
        spearmanr([r["predicted"] for r in found], [r["measured"] for r in found]).statistic
    )


def write(results: Mapping[str, cells.Result], images: Sequence[int], out: Path) -> None:
    """The table and the figure."""
    keys = ("predicted", "measured", "nats", "rank_share")
    rows = []
    for name in VIEWS:
        mine = [results[f"{name}; {image}"] for image in images]
        rows.append((name, *(float(np.mean([r[key] for r in mine])) for key in keys)))
    overall = float(spearmanr([r[1] for r in rows], [r[2] for r in rows]).statistic)
    each = [agreement([results[f"{name}; {image}"] for name in VIEWS]) for image in images]

    def among(some: Callable[[float], bool], law: str = "") -> str:
        names = [n for n, (seen, sigma) in VIEWS.items() if some(sigma) and law in ("", seen)]
        found = [agreement([results[f"{n}; {image}"] for n in names]) for image in images]
        return f"{min(found):.3f} to {max(found):.3f}"

    lines = [
        "# Predicted and measured reconstruction", "",
        f"{len(VIEWS)} views of {len(images)} images, means. Spearman's rank correlation of "
        f"predicted and measured PSNR: {overall:.3f} over the means, "
        f"{min(each):.3f} to {max(each):.3f} within single images. Among views without noise "
        f"{among(lambda sigma: sigma == 0.0)}, among those that differ in noise alone "
        f"{among(lambda sigma: sigma > 0.0, 'all')}, within single images.", "",
        "| view | predicted dB | measured dB | information, nats | directions told |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, predicted, measured, nats, share in sorted(rows, key=lambda r: -r[1]):
        lines.append(f"| {name} | {predicted:.1f} | {measured:.1f} | {nats:.0f} | {share:.0%} |")
    (out / "results.md").write_text("\n".join(lines) + "\n")
    draw(rows, out / "predicted.svg")


def draw(rows: Sequence[tuple[str, float, float, float, float]], path: Path) -> None:
    """Predicted against measured PSNR, one point a view."""
    most = 5.0 * math.ceil(max(max(r[1], r[2]) for r in rows) / 5.0)
    scale = 400.0 / most
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 470" font-family="sans-serif" '
        'font-size="12"><rect width="480" height="470" fill="white"/>',
        '<path d="M60 10V410H460" fill="none" stroke="#444"/>',
        '<path d="M60 410L460 10" stroke="#bbb" stroke-dasharray="4 4"/>',
    ]
    for tick in range(0, int(most) + 1, 10 if most > 40 else 5):
        x, y = 60 + tick * scale, 410 - tick * scale
        parts.append(f'<text x="{x:.0f}" y="427" text-anchor="middle">{tick}</text>')
        parts.append(f'<text x="52" y="{y + 4:.0f}" text-anchor="end">{tick}</text>')
    for name, predicted, measured, *_ in rows:
        x, y = 60 + predicted * scale, 410 - measured * scale
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#b8860b" fill-opacity=".75">'
            f"<title>{name}: {predicted:.1f} predicted, {measured:.1f} measured</title></circle>"
        )
    parts.append('<text x="260" y="455" text-anchor="middle">predicted PSNR, dB</text>')
    parts.append(
        '<text x="18" y="210" text-anchor="middle" transform="rotate(-90 18 210)">'
        "measured PSNR, dB</text></svg>"
    )
    path.write_text("\n".join(parts) + "\n")


def main() -> None:
    """Measure what is missing and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="1,2")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    images = [int(image) for image in options.images.split(",")]
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}; {image}" for image in images for name in VIEWS]
    results = cells.fill(options.out / "results.json", wanted, measure, options.seconds)
    if results is not None:
        write(results, images, options.out)


if __name__ == "__main__":
    main()
