"""What a model says of single records: losses, confidences, and how their gradients point.

Inner products of every record's gradient with a direction u come from one forward-mode pass, as
the derivative of all losses along u: no gradient is ever stored for a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from fedhive.leakage.view import Mask, Vector
from fedhive.learning.models import layout, unflatten

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Records:
    """Records that an adversary holds: candidates to ask about, or data of its own.

    Args:
        x: inputs as the model takes them, float32 [n, ...].
        y: labels, int64 [n].
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or self.y.dim() != 1:
            raise ValueError(f"{len(self.x)} inputs and {tuple(self.y.shape)} labels")

    def __len__(self) -> int:
        return len(self.y)

    def at(self, rows: NDArray[np.int64]) -> Records:
        """Some of them, in this order."""
        index = torch.from_numpy(rows)
        return Records(self.x[index], self.y[index])


class Probe:
    """Asks a public model architecture, with any weights, about records.

    Args:
        model: the architecture; its own weights do not matter and are left alone.
        chunk: records per pass; bounds the memory.
    """

    def __init__(self, model: nn.Module, chunk: int = 512) -> None:
        self.model = model.eval()
        self.entries = layout(model)
        self.chunk = chunk

    def losses(self, weights: Vector, records: Records) -> Floats:
        """Cross entropy of each record, float64 [n]."""
        return self._each(
            records,
            lambda x, y: F.cross_entropy(self._outputs(_tensor(weights), x), y, reduction="none"),
        )

    def confidences(self, weights: Vector, records: Records) -> Floats:
        """log(p / (1 - p)) of each record's own label, float64 [n], without cancellation."""

        def stable(x: Tensor, y: Tensor) -> Tensor:
            outputs = self._outputs(_tensor(weights), x).double()
            own = outputs.gather(1, y[:, None])[:, 0]
            others = outputs.scatter(1, y[:, None], -torch.inf)
            return own - torch.logsumexp(others, 1)

        return self._each(records, stable)

    def slopes(self, weights: Vector, direction: Vector, records: Records) -> Floats:
        """<gradient of the record's loss, direction> of each, float64 [n].

        Args:
            weights: where the gradients are taken, float32 [P].
            direction: float32 [P].
            records: n of them.
        """

        def along(x: Tensor, y: Tensor) -> Tensor:
            def losses(vector: Tensor) -> Tensor:
                return F.cross_entropy(self._outputs(vector, x), y, reduction="none")

            point, tangent = _tensor(weights), _tensor(direction)
            derivative: Tensor = jvp(losses, (point,), (tangent,))[1]
            return derivative

        return self._each(records, along)

    def gradient_norms(self, weights: Vector, records: Records, visible: Mask) -> Floats:
        """Euclidean norm of each record's gradient on the visible coordinates, float64 [n]."""
        shown = torch.from_numpy(visible.astype(np.float32))

        def loss(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self._outputs(vector, x[None]), y[None])

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))

        def norms(x: Tensor, y: Tensor) -> Tensor:
            each: Tensor = gradients(_tensor(weights), x, y)
            found: Tensor = torch.linalg.vector_norm(each * shown, dim=1)
            return found

        return self._each(records, norms, max(1, self.chunk // 16))

    def _outputs(self, vector: Tensor, x: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.model, unflatten(vector, self.entries), (x,))
        return outputs

    def _each(
        self,
        records: Records,
        what: Callable[[Tensor, Tensor], Tensor],
        chunk: int | None = None,
    ) -> Floats:
        chunks = _chunks(records, chunk or self.chunk)
        parts = [what(x, y).detach().double().numpy() for x, y in chunks]
        return np.concatenate(parts) if parts else np.empty(0)


def _chunks(records: Records, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(records.x, size), torch.split(records.y, size), strict=True)


def _tensor(vector: Vector) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(vector, np.float32))
