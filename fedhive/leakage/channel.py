"""What happens to an update on its way to who looks, and what else that one knows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""Model-sized numbers, float32 [P], in state-dict order."""
Mask = NDArray[np.bool_]
"""One truth value a parameter, bool [P]."""


class Gain(ValueError):
    """A restriction that would have added information."""


@dataclass(frozen=True)
class Channel:
    """What happened to an update on its way, in this order; its law is public.

    Args:
        clip: L2 norm that updates were scaled down to where they were longer; None for no limit.
        sigma: standard deviation of the Gaussian noise on each coordinate of what is seen.
        step: width of the quantiser's bins; 0 for none.
        scale_known: whether the length of what is seen means anything to who looks (an unknown
            positive factor, such as a private clipping factor, leaves only the direction).
    """

    clip: float | None = None
    sigma: float = 0.0
    step: float = 0.0
    scale_known: bool = True

    def __post_init__(self) -> None:
        numbers = (self.sigma, self.step, self.clip if self.clip is not None else 1.0)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or self.clip == 0:
            raise ValueError(f"clip must be positive, sigma and step at least 0, got {self}")

    @property
    def variance(self) -> float:
        """Variance a coordinate: the noise's, and a uniform quantisation error's, step^2 / 12."""
        return self.sigma**2 + self.step**2 / 12.0

    def within(self, other: Channel) -> bool:
        """Whether this channel tells no more than ``other``."""
        return (
            self.sigma >= other.sigma
            and _coarser(self.step, other.step)
            and (other.clip is None or (self.clip is not None and self.clip <= other.clip))
            and (other.scale_known or not self.scale_known)
        )

    def apply(self, update: Vector, rng: np.random.Generator | None = None) -> Vector:
        """The update after this channel; a new vector of the same shape.

        Args:
            update: float32 [P].
            rng: where the noise comes from; needed if there is any.
        """
        out = update.astype(np.float64)
        norm = float(np.linalg.norm(out))
        if self.clip is not None and norm > self.clip:
            out *= self.clip / norm
        if self.sigma > 0:
            if rng is None:
                raise ValueError("a channel with noise needs a random generator")
            out += rng.normal(0.0, self.sigma, out.shape)
        if self.step > 0:
            out = np.rint(out / self.step) * self.step
        return out.astype(np.float32)


@dataclass(frozen=True)
class Knowledge:
    """What an adversary knows beside the numbers; None is "does not know".

    Args:
        labels: class of each of the subject's examples, in any order.
        examples: how many examples the subject trained on.
        lr: its learning rate.
        steps: its local steps.
        batch_size: examples a step.
        may_edit_model: may change what is sent to the subject.
        public_data: has data of the same kind, not the subject's.
    """

    labels: tuple[int, ...] | None = None
    examples: int | None = None
    lr: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    may_edit_model: bool = False
    public_data: bool = False

    def within(self, other: Knowledge) -> bool:
        """Whether this is no more than ``other``: each field equal, or unknown here."""
        for name in ("labels", "examples", "lr", "steps", "batch_size"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and mine != theirs and not _counted(name, mine, other):
                return False
        may = not self.may_edit_model or other.may_edit_model
        return may and (not self.public_data or other.public_data)

    def without(self, *names: str) -> Knowledge:
        """The same without knowing these fields."""
        blank = Knowledge()
        return replace(self, **{name: getattr(blank, name) for name in names})


def _counted(name: str, value: object, other: Knowledge) -> bool:
    """The number of examples follows from the labels."""
    return name == "examples" and other.labels is not None and value == len(other.labels)


def _coarser(step: float, other: float) -> bool:
    """Whether rounding to ``step`` follows from rounding to ``other``: a multiple of its bins."""
    if other == 0 or step == other:
        return True
    ratio = step / other
    return ratio >= 1 and abs(ratio - round(ratio)) < 1e-9
