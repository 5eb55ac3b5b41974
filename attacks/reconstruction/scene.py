"""The public side of an attack: the architecture and what inputs look like; no data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedhive import config
from fedhive.errors import UserError
from fedhive.flower import Layout
from fedhive.leakage.store import Public, ViewStore
from fedhive.leakage.view import Vector


@dataclass(frozen=True, eq=False)
class Scene:
    """What everybody knows about model and inputs.

    Args:
        model: the architecture; its weights are never used.
        input_shape: of one example.
        classes: how many.
        low: smallest value of an input.
        high: largest.
    """

    model: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    low: float = 0.0
    high: float = 1.0
    names: tuple[str, ...] = field(init=False, default=())
    shapes: tuple[tuple[int, ...], ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        state = self.model.state_dict()
        object.__setattr__(self, "names", tuple(state))
        object.__setattr__(self, "shapes", tuple(tuple(t.shape) for t in state.values()))
        if any(buffer is not None for _, buffer in self.model.named_buffers()):
            raise ValueError("models with buffers (batch norm) are not attacked here")

    @classmethod
    def of(cls, store: ViewStore) -> Scene:
        """The scene that a store's manifest describes; see `from_public`."""
        return cls.from_public(store.public)

    @classmethod
    def from_public(cls, public: Public) -> Scene:
        """The scene that a run's public side describes.

        Raises:
            UserError: if the model it names cannot be built.
        """
        if public.model is None:
            raise UserError("the recorded views do not say which model was trained")
        model = config.build(public.model, "model")(public.input_shape, public.classes)
        return cls(model, public.input_shape, public.classes, *public.bounds)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return list(zip(self.names, self.shapes, strict=True))

    @property
    def grey(self) -> float:
        """The middle of the inputs' range."""
        return 0.5 * (self.low + self.high)

    def split(self, flat: Vector | Tensor) -> list[Tensor]:
        """A vector [P] as one tensor a parameter, own memory."""
        vector = flat if isinstance(flat, Tensor) else torch.from_numpy(flat.copy())
        parts = torch.split(vector, [math.prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def param(self, sent: Vector) -> list[Tensor]:
        """The model's parameters as leaves that gradients are taken to."""
        return [part.clone().requires_grad_() for part in self.split(sent)]

    def loss(self, params: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of the model with these parameters.

        Args:
            params: in state-dict order.
            x: inputs [n, ...].
            y: classes int64 [n], or probabilities float32 [n, classes].
        """
        named = dict(zip(self.names, params, strict=True))
        out = torch.func.functional_call(self.model, named, (x,))
        return nn.functional.cross_entropy(out, y)
