"""How much each coordinate of an update tells about the data: the maps behind masks from data.

All are functions of a client's own data at the current model, float32 [P], larger for what ought
to be hidden. Derivatives of the gradient are taken in forward mode: a Jacobian-vector product
gives a whole column of d gradient / d something in one pass, where the published code of FedML-HE
walks backwards once for every parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from fedhive.learning import models

Vector = NDArray[np.float32]
CHUNK_BYTES = 64 * 2**20
"""The largest stack of per-sample gradients that is held at once."""
RANK_CUTOFF = 1e-4
"""Directions with smaller singular values, relative to the largest, are float32 noise."""


@dataclass(frozen=True)
class Sample:
    """What a map is made of.

    Args:
        model: the network; its own parameters are not used.
        params: the current model, float32 [P].
        x: inputs [n, ...].
        y: labels int64 [n].
        rng: for probes.
        trained: the parameters [P] after so many local steps from ``params``.
    """

    model: nn.Module
    params: Tensor
    x: Tensor
    y: Tensor
    rng: np.random.Generator
    trained: Callable[[int], Tensor]

    def loss(self, params: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy with soft labels ``target`` [n, c], summed over the n samples."""
        logits = functional_call(self.model, params, (x,))
        return -(target * F.log_softmax(logits, dim=1)).sum()

    def tree(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return models.unflatten(self.params, models.layout(self.model))

    def onehot(self) -> Tensor:
        """The labels as float32 [n, c]."""
        with torch.no_grad():
            classes = functional_call(self.model, self.tree(), (self.x[:1],)).shape[1]
        return F.one_hot(self.y, int(classes)).to(torch.float32)

    def signs(self, like: Tensor) -> Tensor:
        """Random signs of the same shape."""
        drawn = self.rng.integers(0, 2, size=tuple(like.shape), dtype=np.int8)
        return torch.from_numpy(drawn).to(torch.float32).mul_(2.0).sub_(1.0)


Score = Callable[[Sample], Vector]


def magnitude(sample: Sample) -> Vector:
    """|g|: the magnitude of the mean gradient."""
    return np.abs(_flat(_gradient(sample)) / len(sample.y))


def fisher(sample: Sample) -> Vector:
    """The diagonal of the empirical Fisher information: mean over samples of g squared."""
    per_sample = grad(_single(sample))

    def squares(x: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {k: g.square() for k, g in per_sample(sample.tree(), x, target).items()}

    return _mean_over_samples(sample, squares)


def label_jacobian(sample: Sample) -> Vector:
    """FedML-HE's sensitivity: mean over samples k of |d/dy_k (d loss / d w_m)|.

    Jin et al., "FedML-HE", 2023, section 2.4: J_m(y_k) with respect to the entry of the true
    label, for the loss of the batch (its mean). One forward-mode product for each batch of
    samples: the tangent is the label itself.
    """
    gradient = grad(_single(sample))

    def columns(x: Tensor, target: Tensor) -> dict[str, Tensor]:
        def of_label(label: Tensor) -> dict[str, Tensor]:
            found: dict[str, Tensor] = gradient(sample.tree(), x, label)
            return found

        column: dict[str, Tensor] = jvp(of_label, (target,), (target,))[1]
        return {name: value.abs() for name, value in column.items()}

    return _mean_over_samples(sample, columns) / np.float32(len(sample.y))


def input_jacobian(sample: Sample, probes: int = 8) -> Vector:
    """Row norms of d gradient / d inputs, estimated with Hutchinson's probes.

    For signs v, E[(J v)_m^2] = |row m|^2. Signs that are independent between samples make the
    batch's one product (of the summed gradient) unbiased for the sum over samples.

    Args:
        sample: the data.
        probes: how many products; the relative error of a squared norm falls as 1 / sqrt(probes).
    """
    target, total = sample.onehot(), torch.zeros_like(sample.params)
    for _ in range(probes):
        total += _input_product(sample, target, sample.signs(sample.x)).square()
    found: Vector = (total / (probes * len(sample.y))).sqrt().numpy()
    return found


def leverage(sample: Sample, probes: int = 32) -> Vector:
    """How much a coordinate alone decides about some direction of the inputs, in [0, 1].

    Statistical leverage of the rows of J = d gradient / d inputs: the squared row norms of an
    orthonormal basis of J's column space, which is sketched by ``probes`` products with random
    signs (Drineas et al., "Fast approximation of matrix coherence and statistical leverage",
    JMLR 2012). A row that is large for the same reason as many others has a small leverage.
    """
    target = sample.onehot()
    columns = [_input_product(sample, target, sample.signs(sample.x)) for _ in range(probes)]
    sketch = torch.stack(columns, dim=1).to(torch.float64)
    left, sizes, _ = torch.linalg.svd(sketch, full_matrices=False)
    kept = left[:, sizes > sizes[0] * RANK_CUTOFF] if sizes[0] > 0.0 else left[:, :0]
    found: Vector = kept.square().sum(dim=1).to(torch.float32).numpy()
    return found


def maskcrypt(sample: Sample, steps: int = 5) -> Vector:
    """MaskCrypt's priority: gradient times (what is exposed minus what would be).

    Hu and Li, "MaskCrypt", TDSC 2024: the coordinates whose exposure moves the adversary's model
    most towards lower loss. Before the first round the exposed model is the common one, and the
    client's own is what ``steps`` local steps make of it.
    """
    gradient = _flat(_gradient(sample)) / len(sample.y)
    product = gradient * (sample.params - sample.trained(steps)).numpy()
    found: Vector = product - product.min()
    return found


# ---- inside ------------------------------------------------------------------------------------


def _single(sample: Sample) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    """The loss of one sample [...] with one soft label [c]."""

    def loss(params: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return sample.loss(params, x[None], target[None])

    return loss


def _gradient(sample: Sample) -> dict[str, Tensor]:
    found: dict[str, Tensor] = grad(sample.loss)(sample.tree(), sample.x, sample.onehot())
    return found


def _input_product(sample: Sample, target: Tensor, tangent: Tensor) -> Tensor:
    """J v [P], J the derivative of the summed gradient by all inputs."""
    tree = sample.tree()

    def of_input(x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = grad(sample.loss)(tree, x, target)
        return found

    product: dict[str, Tensor] = jvp(of_input, (sample.x,), (tangent,))[1]
    return torch.from_numpy(_flat(product))


def _mean_over_samples(
    sample: Sample, of_one: Callable[[Tensor, Tensor], dict[str, Tensor]]
) -> Vector:
    """The mean of what ``of_one(input, soft label)`` gives, chunk by chunk."""
    target, n = sample.onehot(), len(sample.y)
    width = max(1, CHUNK_BYTES // (4 * sample.params.numel()))
    total = np.zeros(sample.params.numel(), np.float64)
    for begin in range(0, n, width):
        part = slice(begin, begin + width)
        rows = vmap(of_one)(sample.x[part], target[part])
        total += _flat({name: value.sum(dim=0) for name, value in rows.items()})
    return (total / n).astype(np.float32)


def _flat(tree: dict[str, Tensor]) -> Vector:
    """One vector, in the order of `Sample.tree`, which is the model's."""
    joined = torch.cat([value.detach().reshape(-1) for value in tree.values()])
    found: Vector = joined.to(torch.float32).numpy()
    return found
