"""Victims for tests: what a client would have sent, and the truth beside it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.reconstruction.forward import SingleStep, Unrolled
from attacks.reconstruction.scene import Scene
from fedhive.leakage.patches import photo_patches
from fedhive.leakage.recorded import Recorded
from fedhive.leakage.view import Exchange, Knowledge, View

LR = 0.05


@lru_cache(maxsize=1)
def patches() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(private, public) colour patches [n, 3, 32, 32] of one kind."""
    data = photo_patches(1256, 1, 0)
    return data.x_train[:256], data.x_train[256:]


def examples(n: int, seed: int = 0, side: int = 32) -> tuple[Tensor, Tensor]:
    """n private patches, possibly made smaller, and random classes."""
    x = patches()[0][np.random.default_rng(seed).choice(256, n, replace=False)]
    step = 32 // side
    x = x.reshape(n, 3, side, step, side, step).mean((3, 5))
    return torch.from_numpy(x), torch.from_numpy(np.random.default_rng(seed).integers(0, 10, n))


def scene_of(net: nn.Module, shape: tuple[int, ...]) -> tuple[Scene, NDArray[np.float32]]:
    """The scene and the network's weights as one vector."""
    scene = Scene(net, shape, 10)
    parts = [part.detach().reshape(-1) for part in net.state_dict().values()]
    return scene, torch.cat(parts).numpy().copy()


def answer(
    scene: Scene, sent: NDArray[np.float32], x: Tensor, y: Tensor, *, lr: float = LR,
    steps: int = 1, number: int = 1, batch_size: int | None = None,
) -> Recorded:  # fmt: skip
    """What an honest client returns after plain SGD."""
    forward: Any = SingleStep(scene, sent)
    if steps > 1:
        forward = Unrolled(scene, sent, lr, steps, batch_size)
    gradient = forward(x, y).detach().numpy()
    returned = np.asarray(sent - np.float32(lr * steps) * gradient, np.float32)
    return Recorded(number, 7, sent, returned, facts={"num-examples": len(y), "steps": steps})


def view_with(
    record: Recorded, scene: Scene, lr: float = LR, batch_size: int | None = None, **knows: Any
) -> View:
    """The server's view of it."""
    seen = record.exchange().seen
    facts = record.facts
    knowledge = Knowledge(
        examples=facts["num-examples"], lr=lr, steps=facts["steps"], batch_size=batch_size, **knows
    )
    return View(
        "server", (7,), (1.0,), (Exchange(record.round, record.sent, seen),),
        np.ones(len(seen), np.bool_), scene.layout, knows=knowledge,
    )  # fmt: skip
