"""Named arrays in one file, in the safetensors format: a JSON header, then plain numbers.

The format is small enough (length of the header in 8 bytes, the header, the bytes of the arrays)
to be written here; any safetensors reader opens the files. Reading checks every length first.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS: dict[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in {"F32": "<f4", "F64": "<f8", "U8": "u1", "I64": "<i8"}.items()
}
NAMES = {kind: name for name, kind in KINDS.items()}
HEADER_LIMIT = 100_000_000


class Damaged(ValueError):
    """A file that is not what its header says, or has none."""


def save(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> int:
    """Write a file at once or not at all; its length in bytes.

    Args:
        path: where; an existing file is replaced.
        arrays: float32, float64, uint8 or int64, of any shape.
        metadata: texts for the header.

    Raises:
        TypeError: for arrays of other types.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    bodies, offset = [], 0
    for name, array in arrays.items():
        if array.dtype not in NAMES:
            raise TypeError(f"{name}: cannot write {array.dtype}")
        body = np.ascontiguousarray(array)
        end = offset + body.nbytes
        header[name] = {
            "dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        bodies.append(body)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb", buffering=0) as file:
            for part in (len(text).to_bytes(8, "little"), text):
                _write_all(file.fileno(), memoryview(part))
            for body in bodies:
                _write_all(file.fileno(), body.reshape(-1).view(np.uint8).data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return 8 + len(text) + offset


def _write_all(descriptor: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays (read-only, mapped from the file) and the texts of a file.

    Raises:
        Damaged: if lengths, types or offsets do not fit together.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            raise Damaged(f"{path}: its header would be longer than the file")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise Damaged(f"{path}: the header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise Damaged(f"{path}: the header is no object")
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise Damaged(f"{path}: the metadata are not texts")
    body = 8 + length
    data = np.memmap(path, np.uint8, "r") if header and size > body else np.empty(size, np.uint8)
    return dict(_parts(path, header, data, body)), texts


def _parts(
    path: Path, header: Mapping[str, Any], data: NDArray[Any], body: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, row in header.items():
        try:
            kind, shape = KINDS[row["dtype"]], tuple(int(n) for n in row["shape"])
            begin, end = (int(n) for n in row["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{path}: the header's entry {name[:80]!r} is malformed") from error
        fits = 0 <= begin <= end <= data.size - body and min(shape, default=0) >= 0
        if not fits or end - begin != math.prod(shape) * kind.itemsize:
            raise Damaged(f"{path}: {name[:80]!r} does not lie in the file")
        raw = data[body + begin : body + end]
        if (body + begin) % kind.itemsize:
            raw = raw.copy()
        yield name, raw.view(kind).reshape(shape)
