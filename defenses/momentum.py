"""Momentum that each client keeps from round to round: against attacks that hide in the noise.

A client's half of a method (group ``client``). Robust rules have to tell a lie from the noise of
stochastic gradients; averaged over rounds, honest clients differ less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedhive.learning.sgd import LocalResult
from strategies.local import SGD, Vectors


@dataclass(frozen=True)
class WorkerMomentum(SGD):
    """SGD along a running mean of the client's own gradients.

    Karimireddy, He, Jaggi: Learning from history for Byzantine robust optimization, ICML 2021,
    Algorithm 1: m_i <- (1 - beta) g_i + beta m_i, and m_i is what the server aggregates. With one
    local step the client's update is -lr m_i. With K steps the old m_i takes part in each, and
    the new one is the mean over them.

    The first round's m_i is (1 - beta) g_i, as there: the old one is zero. A machine that was
    away goes on with the m_i that it had.

    Args:
        beta: share of the past, in [0, 1).
    """

    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"beta must be in [0, 1), got {self.beta}")
        if self.momentum or self.lr == 0.0:
            raise ValueError("momentum across rounds needs momentum=0 and lr above 0")

    def options(self) -> dict[str, Any]:
        """SGD's; a gradient's own share of the step is 1 - beta."""
        return {**super().options(), "lr": self.lr * (1.0 - self.beta)}

    def drift(self, received: Vectors, memory: Vectors) -> Tensor | None:
        """beta / (1 - beta) m_i: times lr (1 - beta) that is the past's share of the step."""
        past = memory.get("momentum")
        return None if past is None else past * (self.beta / (1.0 - self.beta))

    def finish(
        self, received: Vectors, memory: Vectors, start: Tensor, result: LocalResult
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Remembers m_i, read off the way that the model went."""
        length = result.steps * self.lr * result.lr_factor
        if length == 0.0:  # a learning rate that has come to its end tells nothing
            return {}, dict(memory)
        return {}, {"momentum": torch.sub(start, result.params).div_(length)}
