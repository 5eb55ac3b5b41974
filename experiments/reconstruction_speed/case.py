"""The cases: a network, a batch of colour patches, and the gradient that a server would see.

The same for all contenders, from the seed alone; needs fedhive, not the peer.
"""

from __future__ import annotations

import numpy as np
import torch

from attacks.reconstruction.forward import SingleStep, Unrolled
from attacks.reconstruction.networks import convnet_small, lenet_sigmoid
from attacks.reconstruction.scene import Scene
from fedhive.leakage.patches import photo_patches
from fedhive.leakage.view import Exchange, Knowledge, View

SHAPE = (3, 32, 32)
NETS = {"lenet": lenet_sigmoid, "convnet": convnet_small}


class Case:
    """One victim.

    Args:
        net: ``lenet`` or ``convnet``.
        batch: examples.
        seed: of weights, patches and labels.
        steps: local steps, all on the whole batch.
        lr: of them.
    """

    def __init__(self, net: str, batch: int, seed: int, steps: int = 1, lr: float = 0.05) -> None:
        self.net = net
        torch.manual_seed(seed)
        self.model = NETS[net](SHAPE, 10)
        self.scene = Scene(self.model, SHAPE, 10)
        parts = [p.detach().reshape(-1) for p in self.model.state_dict().values()]
        self.sent = torch.cat(parts).numpy().copy()
        rng = np.random.default_rng(seed)
        images = photo_patches(200, 1, 0).x_train
        self.x = torch.from_numpy(images[rng.choice(200, batch, replace=False)])
        self.y = torch.from_numpy(rng.integers(0, 10, batch))
        self.steps, self.lr = steps, lr
        forward = Unrolled(self.scene, self.sent, lr, steps) if steps > 1 else None
        self.forward = forward or SingleStep(self.scene, self.sent)
        self.gradient = self.forward(self.x, self.y).detach()

    def view(self) -> View:
        """What the server sees, the pseudo-gradient in full precision as the peer gets it too."""
        update = -self.lr * self.steps * self.gradient.numpy()
        knows = Knowledge(None, len(self.y), self.lr, self.steps, len(self.y))
        return View(
            "server", (0,), (1.0,), (Exchange(1, self.sent, update),),
            np.ones(len(self.sent), np.bool_), self.scene.layout, knows=knows,
        )  # fmt: skip
