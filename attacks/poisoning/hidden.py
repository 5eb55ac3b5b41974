"""Poison where nobody looks: in the coordinates that a protection encrypts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from flwr.app import Context, Message
from numpy.typing import NDArray
from torch import Tensor

from attacks.exchange import Handler, Trained, trained
from fedhive import seeding
from fedhive.client import bench_of, task_of
from fedhive.flower import Layout

Kind = Literal["against", "flip", "push"]


class Chooser(Protocol):
    """Which coordinates the poison goes into (``defenses.encryption.masks``)."""

    def choose(self, layout: Layout) -> NDArray[np.bool_]:
        """True where poison goes, bool [P]."""
        ...


@dataclass(frozen=True)
class HiddenPoison:
    """A lone machine that is honest in the clear and poisons what is encrypted.

    A rule that judges clients by what it can see takes its reply for an honest one.

    Args:
        mask: the coordinates: those that the run's protection hides, or, to show what a server
            without encryption would see of the same poison, any.
        kind: ``against`` moves every one of them by ``step`` against the honest update; ``push``
            by as much in a direction that is drawn once for all such machines of a run, with no
            word between them; ``flip`` sends the honest update there times ``-scale``.
        step: how far a weight is moved in a round; the cipher's clip bounds it.
        scale: factor of ``flip``.

    Raises:
        ValueError: if step or scale are not above 0.
    """

    mask: Chooser
    kind: Kind = "against"
    step: float = 0.1
    scale: float = 10.0

    def __post_init__(self) -> None:
        if not (self.step > 0.0 and self.scale > 0.0):
            raise ValueError(f"step and scale must be above 0, got {self.step} and {self.scale}")

    def __call__(self, message: Message, context: Context, call_next: Handler) -> Message:
        """A Flower client mod: poisons training replies."""
        reply = call_next(message, context)
        taken = trained(message, reply)
        if taken is None:
            return reply
        hidden = torch.from_numpy(self._where(taken, message))
        poison = self._poison(taken.update, bench_of(context).seed)
        return taken.send(torch.where(hidden, poison, taken.update))

    def _poison(self, update: Tensor, seed: int) -> Tensor:
        if self.kind == "flip":
            return -self.scale * update
        if self.kind == "against":
            return -self.step * torch.sign(update)
        signs = seeding.stream(seed, "hidden poison").integers(0, 2, update.numel(), np.int8)
        return (torch.from_numpy(signs).to(update.dtype) * 2.0 - 1.0) * self.step

    def _where(self, taken: Trained, message: Message) -> NDArray[np.bool_]:
        """The mask that the server sent if it follows from data, else that of the rule."""
        bits: Any = task_of(message).get("seal-bits")
        if isinstance(bits, bytes):
            found = np.unpackbits(np.frombuffer(bits, np.uint8))[: taken.update.numel()]
            return found.astype(np.bool_)
        return self.mask.choose([(name, tuple(shape)) for name, shape in taken.layout])
