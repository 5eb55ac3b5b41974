"""LIE as FLANDERS' code has it, beside the paper's."""

from __future__ import annotations

from torch import Tensor


def flanders(honest: Tensor, *, n: int, f: int, z: float = 0.726) -> Tensor:
    """``mean + z sqrt(sigma)``: z from the wrong function, and the root of the deviation.

    Baruch et al. have ``mean + z sigma``. Where sigma is far below 1, as here, that is much less.
    """
    moved = honest.mean(0) + z * honest.std(0).sqrt()
    return moved.expand(f, -1).clone()
