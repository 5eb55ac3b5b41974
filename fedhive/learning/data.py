"""What a data set is once loaded, and the two things every loader does: normalise, hold out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedhive import seeding
from fedhive.errors import UserError

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification task held in memory.

    Attributes:
        name: what it is called in reports.
        x_train: float32 [n, ...], contiguous and normalised; images are [n, channels, height,
            width].
        y_train: int64 [n], each from 0 to ``len(classes) - 1``.
        x_test: float32 [m, ...], in the units of ``x_train``.
        y_test: int64 [m].
        classes: the classes' names, in label order.
        groups: int64 [n], the natural owner of each training row (writer, hospital, ...), or None.
        unit: what one row is, for people: ``"image"`` or ``"row"``.
    """

    name: str
    x_train: Floats
    y_train: Ints
    x_test: Floats
    y_test: Ints
    classes: tuple[str, ...]
    groups: Ints | None = None
    unit: str = "row"

    def __post_init__(self) -> None:
        """Refuses what training could only fail on later, and less clearly."""
        for part, x, y in (
            ("training", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            if x.dtype != np.float32 or y.dtype != np.int64 or not x.flags.c_contiguous:
                raise TypeError(
                    f"data set {self.name}: the {part} part needs contiguous float32 rows and "
                    f"int64 labels, got {x.dtype} and {y.dtype}"
                )
            if y.ndim != 1 or len(x) != len(y) or len(y) == 0:
                raise UserError(
                    f"data set {self.name}: the {part} part has {len(x)} {self.unit}s and "
                    f"{y.size} labels; both numbers must be equal and positive"
                )
            if y.min() < 0 or y.max() >= len(self.classes):
                raise UserError(
                    f"data set {self.name}: the {part} labels run from {y.min()} to {y.max()}, "
                    f"but its {len(self.classes)} classes are 0 to {len(self.classes) - 1}"
                )
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise UserError(
                f"data set {self.name}: training {self.unit}s have shape "
                f"{self.x_train.shape[1:]}, test {self.unit}s {self.x_test.shape[1:]}"
            )
        if self.groups is not None and self.groups.shape != self.y_train.shape:
            raise UserError(
                f"data set {self.name}: {self.groups.size} groups for {self.y_train.size} labels"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one row, e.g. ``(1, 28, 28)``."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)


def normalise(pixels: npt.NDArray[np.uint8], mean: float, std: float, top: float = 255) -> Floats:
    """``(pixels / top - mean) / std`` as contiguous float32 of the same shape.

    Args:
        pixels: uint8, any shape.
        mean: the mean of ``pixels / top``.
        std: its standard deviation, positive.
        top: the value of a full pixel.
    """
    if std <= 0 or top <= 0:
        raise UserError(f"std and top must be positive, got std={std} and top={top}")
    out = np.empty(pixels.shape, dtype=np.float32)
    flat, source = out.reshape(-1), np.ascontiguousarray(pixels).reshape(-1)
    scale, shift = np.float32(1 / (top * std)), np.float32(mean / std)
    # Fresh memory costs more than arithmetic, so few large blocks are as fast as many small
    # ones, and beside an importing thread much faster: each block waits for its turn.
    for start in range(0, flat.size, 1 << 22):
        block = flat[start : start + (1 << 22)]
        np.multiply(source[start : start + (1 << 22)], scale, out=block, dtype=np.float32)
        block -= shift
    return out


def hold_out(labels: Ints, share: float, seed: int) -> tuple[Ints, Ints]:
    """Splits rows into training and test rows, each class in the same proportion.

    Args:
        labels: int64 [n].
        share: the share of each class that is held out, in (0, 1); at least one row of a class
            always stays in training.
        seed: of the draw. It is not the run's seed: runs that differ in theirs are tested on the
            same rows.

    Returns:
        Two sorted index arrays, for training and for test.
    """
    if not 0 < share < 1:
        raise UserError(f"the test share must lie between 0 and 1, got {share}")
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(round(share * len(rows)), len(rows) - 1)
        rng = seeding.stream(seed, "hold-out", int(label))
        chosen.append(rng.permutation(rows)[:count])
    test = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
    train = np.setdiff1d(np.arange(len(labels)), test, assume_unique=True)
    return train.astype(np.int64), test.astype(np.int64)
