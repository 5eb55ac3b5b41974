"""A model's weights in a file: a NumPy archive with one array a parameter, no pickle."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhive.errors import UserError

Floats = NDArray[np.float32]
Layout = Sequence[tuple[str, tuple[int, ...]]]

NAME = "model.npz"
"""The final model's file in a run directory."""


def pack(params: Floats, layout: Layout) -> bytes:
    """The archive's bytes.

    Args:
        params: float32 [P], in the layout's order.
        layout: names and shapes of the parameters.
    """
    arrays, offset = {}, 0
    for name, shape in layout:
        size = int(np.prod(shape))
        arrays[name] = params[offset : offset + size].reshape(shape)
        offset += size
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def load(source: str | Path, layout: Layout) -> Floats:
    """Weights from a run directory or a file that `pack` made, float32 [P].

    Args:
        source: the run directory (its ``model.npz``) or the file.
        layout: names and shapes that the model has.

    Raises:
        UserError: nothing there, not such a file, another model's weights, or not finite ones.
    """
    path = Path(source).expanduser()
    path = path / NAME if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"init_from: cannot read weights from {path} ({reason}); give a run directory or its "
            f"{NAME}"
        ) from error
    wanted = dict(layout)
    for name in [*wanted, *arrays]:
        have = arrays[name].shape if name in arrays else None
        if have != wanted.get(name):
            raise UserError(
                f"init_from: {path} is of another model: parameter {name} is {_shown(have)} "
                f"there and {_shown(wanted.get(name))} here"
            )
        if arrays[name].dtype != np.float32:
            raise UserError(
                f"init_from: {path}: parameter {name} is {arrays[name].dtype}, not float32"
            )
    params = [arrays[name].reshape(-1) for name in wanted]
    vector = np.concatenate(params) if params else np.empty(0, np.float32)
    if not np.isfinite(vector).all():
        raise UserError(f"init_from: {path} holds weights that are not finite")
    return vector


def _shown(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"{shape}"
