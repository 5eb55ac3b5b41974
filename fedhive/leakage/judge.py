"""How good the guesses about a recorded run are: rebuilds the truth from the run's own config.

Attacks never come here. Results go to ``leakage.json``, with the images that the report shows.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhive import config
from fedhive.errors import UserError
from fedhive.leakage import tensorfile
from fedhive.leakage.score import Leakage, Truth, score
from fedhive.leakage.store import FOLDER, ViewStore
from fedhive.learning.workbench import Workbench, workbench
from fedhive.results.rundir import RunDir
from fedhive.world.grid import FIRST_NODE_ID

LEAKAGE = "leakage.json"
POOL = 1000
SHOWN = 8


def truth_of(bench: Workbench, client: int, bounds: tuple[float, float]) -> Truth:
    """What client ``client`` trained on; every example of its share, whichever a step took."""
    x, y = bench.samples(client)
    return Truth(x.numpy(), y.numpy(), *bounds)


def judge(directory: Path) -> list[dict[str, Any]]:
    """Score every guess in a run directory; also written to ``leakage.json``.

    Args:
        directory: of a simulated run with a folder ``views``.

    Raises:
        UserError: if there is nothing to judge.
    """
    run = RunDir(directory)
    store = ViewStore(directory / FOLDER)
    paths = sorted((store.path / "guesses").glob("*.safetensors"))
    if not paths:
        raise UserError(
            f"{store.path} holds no guesses; make some with python -m attacks.reconstruction"
        )
    bench = workbench(config.dumps(run.config()))
    bounds = store.public.bounds
    pool = bench.data.x_test[:POOL]
    rows, pictures = [], {}
    for path in paths:
        arrays, texts = tensorfile.load(path)
        about = json.loads(texts["about"])
        truth = truth_of(bench, about["node"] - FIRST_NODE_ID, bounds)
        leak = score(arrays["samples"], truth, arrays["certified"].astype(bool), pool)
        counts = {"examples": len(truth.x), "samples": len(arrays["samples"])}
        rows.append({**about, **counts, **_finite(leak.summary())})
        pictures[path.stem] = _picked(leak, truth, arrays["samples"])
    run.write_json(LEAKAGE, rows)
    kept = {
        f"{stem}/{name}": array
        for stem, found in pictures.items()
        for name, array in found.items()
    }
    tensorfile.save(directory / "leakage.safetensors", kept)
    return rows


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}


def _picked(
    leak: Leakage, truth: Truth, samples: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Originals and reconstructions from best over median to worst, scaled to [0, 1]."""
    some = np.flatnonzero(leak.found >= 0)
    order = some[np.argsort(-leak.psnr[some], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(SHOWN, len(order))).astype(int))
    chosen = order[places]
    span = truth.high - truth.low

    def unit(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.clip((images - truth.low) / span, 0, 1), np.float32)

    return {
        "original": unit(truth.x[chosen]),
        "reconstructed": unit(np.asarray(samples)[leak.found[chosen]]),
        "psnr": leak.psnr[chosen].astype(np.float32),
    }
