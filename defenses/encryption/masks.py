"""Which coordinates are encrypted (group ``mask``): rules that look at the model only.

A mask says True where a coordinate is hidden. Masks that follow from the model's shapes need no
agreement, tell nothing about anybody's data, and every client works them out itself; masks that
follow from data are agreed upon once, see `defenses.encryption.agreement`.

**A linear first layer is hidden whole or does not count.** The gradient of a dense layer that sees
the input is an outer product: any entries of it that stay in the clear give the input back (random
half of them hidden: 48 dB in our measurements). So a mask that touches such a layer is extended to
all of it, or with ``linear_first: uncounted`` what it hides there is not called protected.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedhive import seeding
from fedhive.errors import UserError
from fedhive.flower import Layout

Bools = NDArray[np.bool_]
LinearFirst = Literal["whole", "uncounted"]


class Mask(Protocol):
    """Which coordinates are hidden."""

    from_data: ClassVar[bool]
    """Whether clients must agree on it first."""

    @property
    def linear_first(self) -> LinearFirst: ...  # noqa: D102

    def choose(self, layout: Layout) -> Bools:
        """True where hidden, bool [P].

        Raises:
            UserError: if it does not fit the model.
        """
        ...


@dataclass(frozen=True)
class Nothing:
    """No coordinate."""

    from_data: ClassVar[bool] = False
    linear_first: ClassVar[LinearFirst] = "whole"

    def choose(self, layout: Layout) -> Bools:
        """All False."""
        return np.zeros(size_of(layout), np.bool_)


@dataclass(frozen=True)
class Everything:
    """Every coordinate."""

    from_data: ClassVar[bool] = False
    linear_first: ClassVar[LinearFirst] = "whole"

    def choose(self, layout: Layout) -> Bools:
        """All True."""
        return np.ones(size_of(layout), np.bool_)


@dataclass(frozen=True)
class Layers:
    """Layers, or single parameters, by name.

    Args:
        names: names of layers or parameters, or patterns such as ``conv*`` or ``*.bias``.
        linear_first: ``whole`` extends the mask to all of a dense first layer that it touches;
            ``uncounted`` leaves it, and does not call it protected.
    """

    names: Sequence[str]
    linear_first: LinearFirst = "whole"

    from_data: ClassVar[bool] = False

    def choose(self, layout: Layout) -> Bools:
        """True for all parameters that a name or pattern fits."""
        parts = []
        for pattern in self.names:
            fits = [_fits(name, pattern) for name, _ in layout]
            if not any(fits):
                known = ", ".join(layers_of(layout))
                raise UserError(f"mask.names: no layer fits {pattern!r}; the model has {known}")
        for name, shape in layout:
            hidden = any(_fits(name, pattern) for pattern in self.names)
            parts.append(np.full(math.prod(shape), hidden))
        return whole_first(np.concatenate(parts), layout, self.linear_first)


@dataclass(frozen=True)
class FirstK:
    """The first layers: what sees the input tells most about it, and this costs nothing to find.

    Args:
        k: how many layers, weights and biases; used if ``share`` is null.
        share: instead, the first so large a part of all parameters, in order.
        linear_first: as for `Layers`.

    Raises:
        ValueError: if k is below 1 or the share not in (0, 1].
    """

    k: int = 1
    share: float | None = None
    linear_first: LinearFirst = "whole"

    from_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1 layer, got {self.k}")
        check_share(self.share)

    def choose(self, layout: Layout) -> Bools:
        """True in the first layers, or for the first parameters."""
        size = size_of(layout)
        hidden = np.zeros(size, np.bool_)
        if self.share is not None:
            hidden[: count_of(self.share, size)] = True
            return whole_first(hidden, layout, self.linear_first)
        layers = layers_of(layout)
        if self.k > len(layers):
            raise UserError(f"mask.k={self.k}: the model has {len(layers)} layers; use mask=all")
        chosen = set(layers[: self.k])
        for name, part in places(layout):
            hidden[part] = layer_of(name) in chosen
        return hidden


@dataclass(frozen=True)
class Random:
    """Coordinates drawn at random: for comparisons; it protects next to nothing.

    Args:
        share: of all coordinates, in (0, 1].
        seed: of the draw, which is public.
        linear_first: as for `Layers`.

    Raises:
        ValueError: if the share is not in (0, 1].
    """

    share: float = 0.1
    seed: int = 0
    linear_first: LinearFirst = "whole"

    from_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_share(self.share)

    def choose(self, layout: Layout) -> Bools:
        """True for the drawn ones."""
        size = size_of(layout)
        drawn = seeding.stream(self.seed, "mask").permutation(size)[: count_of(self.share, size)]
        hidden = np.zeros(size, np.bool_)
        hidden[drawn] = True
        return whole_first(hidden, layout, self.linear_first)


# ---- what masks have in common -----------------------------------------------------------------


def check_share(share: float | None) -> None:
    """Refuse a share that is none.

    Raises:
        ValueError: unless it is in (0, 1] or None.
    """
    if share is not None and not 0.0 < share <= 1.0:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")


def count_of(share: float, size: int) -> int:
    """How many coordinates a share is: at least one, rounded up."""
    return max(1, math.ceil(share * size - 1e-9))


def size_of(layout: Layout) -> int:
    """P, the number of parameters."""
    return sum(math.prod(shape) for _, shape in layout)


def places(layout: Layout) -> list[tuple[str, slice]]:
    """Where each parameter lies in the flat vector."""
    found, offset = [], 0
    for name, shape in layout:
        end = offset + math.prod(shape)
        found.append((name, slice(offset, end)))
        offset = end
    return found


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: its name without the last part."""
    return name.rpartition(".")[0] or name


def layers_of(layout: Layout) -> list[str]:
    """Names of the layers, in the model's order."""
    return list(dict.fromkeys(layer_of(name) for name, _ in layout))


def linear_first_of(layout: Layout) -> slice | None:
    """Where the first layer lies, weights and biases, if it is a dense one; None if it is not.

    The first weight decides: two dimensions are a dense layer (or an embedding, which tells even
    more), four a convolution.
    """
    first = next(((name, shape) for name, shape in layout if len(shape) > 1), None)
    if first is None or len(first[1]) != 2:
        return None
    own = [part for name, part in places(layout) if layer_of(name) == layer_of(first[0])]
    return slice(own[0].start, own[-1].stop)


def whole_first(hidden: Bools, layout: Layout, linear_first: LinearFirst) -> Bools:
    """The mask, extended to all of a dense first layer that it touches if it is to be whole."""
    first = linear_first_of(layout)
    if first is not None and linear_first == "whole" and hidden[first].any():
        hidden[first] = True
    return hidden


def protected(hidden: Bools, layout: Layout) -> Bools:
    """The hidden coordinates that may be called protected, bool [P].

    Those of a dense first layer only count if all of it is hidden.
    """
    first = linear_first_of(layout)
    if first is None or hidden[first].all():
        return hidden.copy()
    counted = hidden.copy()
    counted[first] = False
    return counted


def digest_of(hidden: Bools, layout: Layout) -> bytes:
    """16 bytes that name a mask on a model: SHA-256 of names, shapes and bits."""
    text = ";".join(f"{name}{tuple(shape)}" for name, shape in layout)
    digest = hashlib.sha256(text.encode() + b"\0" + packed(hidden))
    return digest.digest()[:16]


def packed(hidden: Bools) -> bytes:
    """A mask as bits."""
    return np.packbits(hidden).tobytes()


def unpacked(bits: bytes, size: int) -> Bools:
    """A mask from its bits.

    Raises:
        ValueError: if their number is wrong, or bits after the last coordinate are set.
    """
    if len(bits) != -(-size // 8):
        raise ValueError(
            f"a mask of {size} coordinates has {-(-size // 8)} bytes, not {len(bits)}"
        )
    found = np.unpackbits(np.frombuffer(bits, np.uint8)).astype(np.bool_)
    if found[size:].any():
        raise ValueError("the mask has bits beyond its last coordinate")
    return found[:size]


def top(scores: NDArray[np.floating] | NDArray[np.integer], count: int) -> Bools:
    """True for the ``count`` largest scores; of equal ones the first."""
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    hidden = np.zeros(scores.size, np.bool_)
    hidden[order[:count]] = True
    return hidden


def _fits(name: str, pattern: str) -> bool:
    layer = layer_of(name)
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(layer, pattern)
