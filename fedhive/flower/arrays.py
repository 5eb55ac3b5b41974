"""Model parameters as Flower's arrays, without copies and without trust."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any, cast

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
)
from numpy.typing import NDArray

Layout = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes of a model's parameters, in state-dict order."""
NUMPY_STYPE = "numpy.ndarray"
NPY_HEADER_LIMIT = 1024
NPY_MAGIC = b"\x93NUMPY\x01\x00"
NPY_HEADER = re.compile(
    rb"\{'descr': '([^']{1,16})', 'fortran_order': (True|False), 'shape': (\([\d, ]*\)), \} *\n"
)


class TensorArray(Array):
    """An ``Array`` that stays in memory and becomes bytes only when somebody asks for them.

    Args:
        values: float32 array, usually a view into one flat vector of all parameters.
        flat: that flat vector, or None.
        offset: where ``values`` begins in it.
        shared: whether several clients are given this memory.
    """

    values: NDArray[Any]
    flat: NDArray[np.float32] | None
    offset: int
    shared: bool

    def __init__(
        self,
        values: NDArray[Any],
        flat: NDArray[np.float32] | None = None,
        offset: int = 0,
        shared: bool = False,
    ) -> None:
        # Past Array.__setattr__, whose bookkeeping (is a cached hash stale?) costs more than this.
        dtype = "float32" if values.dtype == np.float32 else str(values.dtype)
        self.__dict__.update(
            dtype=dtype, shape=values.shape, stype=NUMPY_STYPE,
            values=values, flat=flat, offset=offset, shared=shared,
        )  # fmt: skip

    @property
    def data(self) -> bytes:
        """The bytes that Flower would put on the wire."""
        buffer = BytesIO()
        np.save(buffer, self.values, allow_pickle=False)
        return buffer.getvalue()

    @data.setter
    def data(self, value: bytes) -> None:
        raise AttributeError("a TensorArray is read-only: replace it in its record instead")

    def numpy(self) -> NDArray[Any]:
        """A private copy, as Flower's own arrays give: its QFedAvg writes into what it gets."""
        return self.values.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.dtype, self.shape, self.stype, self.data)


# On the wire an object is named after its class; to a SuperLink this one is an ordinary Array.
TensorArray.__qualname__ = Array.__qualname__


class Malformed(ValueError):
    """An array that is not what it claims, or not what the model needs."""


def from_flat(flat: NDArray[np.float32], layout: Layout, *, shared: bool = False) -> ArrayRecord:
    """An ArrayRecord whose arrays are views into ``flat`` (float32 [P]), without copying."""
    record = ArrayRecord()
    arrays: dict[str, Array] = record.__dict__["_data"]
    offset = 0
    for name, shape in layout:
        size = math.prod(shape)
        values = flat[offset : offset + size].reshape(shape)
        arrays[name] = TensorArray(values, flat, offset, shared)
        offset += size
    return record


def layout_of(record: ArrayRecord) -> Layout:
    """Names and shapes of a record's arrays, in its order."""
    return [(name, tuple(array.shape)) for name, array in record.items()]


def flatten_record(record: ArrayRecord, layout: Layout) -> NDArray[np.float32]:
    """All parameters as one float32 vector [P]; zero-copy for records made by ``from_flat``.

    The result may be a view of the sender's memory: do not write to it.

    Raises:
        Malformed: if names, shapes, dtypes or lengths differ from ``layout``. Nothing is
            allocated before the lengths have been checked.
    """
    if list(record.keys()) != [name for name, _ in layout]:
        raise Malformed(_name_difference(list(record.keys()), [name for name, _ in layout]))
    flat = _common_flat(record, layout)
    if flat is not None:
        return flat
    return np.concatenate([_read_array(record[name], name, shape) for name, shape in layout])


def shared_vector(record: ArrayRecord) -> tuple[NDArray[np.float32], Layout, bool] | None:
    """The vector, layout and ``shared`` flag with which `from_flat` makes this very record.

    None for any other record.
    """
    layout = [(name, array.shape) for name, array in record.items()]
    flat = _common_flat(record, layout)
    if flat is None or flat.ndim != 1:
        return None
    flags = {cast(TensorArray, array).shared for array in record.values()}
    return (flat, layout, flags.pop()) if len(flags) == 1 else None


def _name_difference(got: list[str], wanted: list[str]) -> str:
    missing, extra = set(wanted) - set(got), set(got) - set(wanted)
    if missing:
        return f"missing array {sorted(missing)[0]!r}"
    if extra:
        return f"unexpected array {min(extra)[:80]!r}"
    return "arrays are in another order than the model's"


def _common_flat(record: ArrayRecord, layout: Layout) -> NDArray[np.float32] | None:
    flat, expected = None, 0
    for (_, shape), array in zip(layout, record.values(), strict=True):
        if not isinstance(array, TensorArray) or array.flat is None or array.shape != shape:
            return None
        if flat is None:
            flat = array.flat
        if array.flat is not flat or array.offset != expected:
            return None
        expected += int(array.values.size)
    if flat is None or flat.size != expected or flat.dtype != np.float32:
        return None
    return flat


def _read_array(array: Array, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if tuple(array.shape) != shape:
        raise Malformed(f"array {name!r} has shape {tuple(array.shape)}, the model's is {shape}")
    if array.dtype != "float32":
        raise Malformed(f"array {name!r} is {str(array.dtype)[:40]}, the model's is float32")
    if isinstance(array, TensorArray):
        return cast(NDArray[np.float32], array.values.reshape(-1))
    if array.stype != NUMPY_STYPE:
        raise Malformed(f"array {name!r} is serialised as {str(array.stype)[:40]!r}, not NumPy")
    return _parse_npy(array.data, name, shape)


def _parse_npy(data: bytes, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The numbers in a .npy file, as NumPy writes it; nothing in the header is evaluated."""
    size = math.prod(shape)
    if len(data) > 4 * size + NPY_HEADER_LIMIT:
        raise Malformed(f"array {name!r} carries {len(data)} bytes, expected about {4 * size}")
    begin = 10 + int.from_bytes(data[8:10], "little")
    header = NPY_HEADER.fullmatch(data, 10, begin)
    if data[:8] != NPY_MAGIC or header is None or len(data) < begin:
        raise Malformed(f"array {name!r} has a broken .npy header")
    dtype, order, claimed = (part.decode("ascii", "replace") for part in header.groups())
    if dtype != "<f4" or claimed != str(shape):
        raise Malformed(f"array {name!r} claims {claimed} {dtype} in its bytes, not {shape} <f4")
    body = memoryview(data)[begin:]
    if len(body) != 4 * size:
        raise Malformed(f"array {name!r} holds {len(body)} bytes of numbers, expected {4 * size}")
    values = np.frombuffer(body, dtype="<f4")
    return values.reshape(shape, order="F").reshape(-1) if order == "True" else values


def in_memory(record: ArrayRecord) -> ArrayRecord:
    """The same record with its float32 arrays decoded once, for many clients to read.

    A record that holds anything else (ciphertext, other dtypes) is returned as it is.
    """
    arrays = list(record.items())
    if all(isinstance(array, TensorArray) and array.shared for _, array in arrays):
        return record
    if any(a.stype != NUMPY_STYPE or a.dtype != "float32" for _, a in arrays):
        return record
    layout = layout_of(record)
    flat = np.ascontiguousarray(flatten_record(record, layout))
    return from_flat(flat, layout, shared=True)
