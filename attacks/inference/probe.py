"""What a model says of single records: losses, confidences, and how their gradients point.

Inner products of every record's gradient with a direction u come from one forward-mode pass, as
the derivative of all losses along u: no gradient is ever stored for a record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

SOME = 32
"""Records whose gradients are held at a time, where they have to be."""


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
        """Euclidean norm of each record's gradient on the visible coordinates, float64 [n].

        A linear layer's gradient is an outer product, whose masked norm takes two matrix products
        and no gradient (Goodfellow, arXiv:1510.01799, with a mask); that of other layers is
        computed record by record.
        """
        shown = unflatten(torch.from_numpy(visible.astype(np.float32)), self.entries)
        vector = _tensor(weights).requires_grad_()
        state = unflatten(vector, self.entries)

        def norms(x: Tensor, y: Tensor) -> Tensor:
            outer, covered = self._outer_products(state, x, y, shown)
            rest = {name: value.detach() for name, value in state.items() if name not in covered}
            return torch.sqrt(outer + self._one_by_one(state, rest, x, y, shown))

        return self._each(records, norms)

    def _outer_products(
        self, state: Mapping[str, Tensor], x: Tensor, y: Tensor, shown: Mapping[str, Tensor]
    ) -> tuple[Tensor, set[str]]:
        """(squared norms [n] of linear layers' gradients, names of the parameters in them)."""
        seen: list[tuple[str, Tensor, Tensor]] = []

        def note(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
            return lambda _, inputs, output: seen.append((name, inputs[0], output))

        layers = [(name, layer) for name, layer in self.model.named_modules()
                  if type(layer) is nn.Linear]  # fmt: skip
        hooks = [layer.register_forward_hook(note(name)) for name, layer in layers]
        try:
            outputs = functional_call(self.model, dict(state), (x,))
        finally:
            for hook in hooks:
                hook.remove()
        names = [name for name, _, _ in seen]
        seen = [each for each in seen if each[1].dim() == 2 and names.count(each[0]) == 1]
        losses = F.cross_entropy(outputs, y, reduction="sum")
        deltas = torch.autograd.grad(losses, [output for _, _, output in seen])
        total, covered = torch.zeros(len(x)), set()
        for (name, inputs, _), delta in zip(seen, deltas, strict=True):
            prefix = f"{name}." if name else ""
            square = delta.detach() ** 2
            mask = shown[f"{prefix}weight"]
            total += ((square @ mask) * inputs.detach() ** 2).sum(1)
            covered.add(f"{prefix}weight")
            if f"{prefix}bias" in shown:
                total += square @ shown[f"{prefix}bias"]
                covered.add(f"{prefix}bias")
        return total, covered

    def _one_by_one(
        self, state: Mapping[str, Tensor], rest: dict[str, Tensor], x: Tensor, y: Tensor,
        shown: Mapping[str, Tensor],
    ) -> Tensor:  # fmt: skip
        """Squared norms [n] of the gradients of the parameters in ``rest``."""
        if not rest:
            return torch.zeros(len(x))
        fixed = {name: value.detach() for name, value in state.items() if name not in rest}

        def loss(moving: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
            outputs = functional_call(self.model, {**fixed, **moving}, (one[None],))
            return F.cross_entropy(outputs, label[None])

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))
        parts = [
            sum(((each * shown[name]) ** 2).flatten(1).sum(1)
                for name, each in gradients(rest, *some).items())
            for some in zip(torch.split(x, SOME), torch.split(y, SOME), strict=True)
        ]  # fmt: skip
        return torch.cat(parts)

    def _outputs(self, vector: Tensor, x: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.model, unflatten(vector, self.entries), (x,))
        return outputs

    def _each(self, records: Records, what: Callable[[Tensor, Tensor], Tensor]) -> Floats:
        chunks = zip(
            torch.split(records.x, self.chunk), torch.split(records.y, self.chunk), strict=True
        )
        parts = [what(x, y).detach().double().numpy() for x, y in chunks]
        return np.concatenate(parts) if parts else np.empty(0)


def _tensor(vector: Vector) -> Tensor:
    # A copy: what comes from a store is mapped from a file and cannot be written to.
    return torch.from_numpy(np.array(vector, np.float32))
