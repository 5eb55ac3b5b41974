"""Reading data files: IDX and packaged CSV files, checked, and parsed only once.

Decompressing and parsing cost far more than reading the result back, so parsed arrays are kept in
the user's cache folder under the SHA-256 of the file they came from. Losing the cache loses
nothing but time: an unreadable entry is rebuilt and an unwritable folder is left alone.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import io
import math
import os
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt

from fedhive.errors import UserError

Bytes = npt.NDArray[np.uint8]

#: Deflate cannot shrink anything more than this many times (zlib's technical notes).
MAX_DEFLATE_RATIO = 1032
#: Part of every cache entry's name; to be raised when a parser's result changes.
CACHE_VERSION = 1


def cache_dir() -> Path:
    """The folder for parsed data: ``$XDG_CACHE_HOME/fedhive``, or ``~/.cache/fedhive``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "fedhive"


def cached(source: Path, parse: Callable[[Path], Bytes]) -> Bytes:
    """``parse(source)``, remembered on disk under the content of ``source``.

    Args:
        source: the file to parse.
        parse: turns it into one array of bytes; called when the cache has no sound entry.

    Returns:
        The array, to be read only: it may be a view of the cache's file.

    Raises:
        UserError: ``source`` cannot be read, or ``parse`` refuses it.
    """
    try:
        digest = _digest(source)
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from error
    try:
        entry = cache_dir() / f"{parse.__name__}-v{CACHE_VERSION}-{digest}.npy"
    except RuntimeError:  # no home folder to be found
        return parse(source)
    kept = _recall(entry)
    if kept is not None:
        return kept
    array = parse(source)
    _store(entry, array)
    return array


def _digest(path: Path) -> str:
    """The file's SHA-256, in few large pieces: beside another thread, each waits for its turn."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            sha256.update(piece)
    return sha256.hexdigest()


def _recall(entry: Path) -> Bytes | None:
    """A cache entry mapped into memory (no copy, shared between processes), or None."""
    with contextlib.suppress(OSError, ValueError, EOFError, SyntaxError):
        array: Bytes = np.load(entry, mmap_mode="r", allow_pickle=False)
        with entry.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            checksum = int.from_bytes(file.read(4), "big")
        if array.dtype == np.uint8 and array.flags.c_contiguous and crc32(array.data) == checksum:
            return np.asarray(array)
    return None


def _store(entry: Path, array: Bytes) -> None:
    """Writes an entry, a NumPy file with a CRC-32 at its end, in one step or not at all."""
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=entry.parent, prefix=entry.stem, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.write(crc32(array.data).to_bytes(4, "big"))
            os.replace(name, entry)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def packaged_file(package: str, relative: str) -> Path:
    """A data file inside an installed package, found without importing the package.

    Raises:
        UserError: the package is not installed, or ships no such file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pip_name = {"sklearn": "scikit-learn"}.get(package, package)
        raise UserError(
            f"these images come with the Python package {pip_name}, which is not installed: "
            f"run 'pip install {pip_name}'"
        )
    path = Path(spec.submodule_search_locations[0]) / relative
    if not path.is_file():
        raise UserError(f"{path} is missing: reinstall the package {package}")
    return path


def parse_byte_csv(path: Path) -> Bytes:
    """A headerless, gzipped CSV of integers 0 to 255, as an array [rows, columns].

    Raises:
        UserError: not gzip, cut short, ragged, or not such integers.
    """
    try:
        text = gzip.decompress(path.read_bytes()).strip()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): install it again") from error
    lines = text.count(b"\n") + 1
    columns = text.partition(b"\n")[0].count(b",") + 1
    flat = text.replace(b"\r", b"").replace(b"\n", b",").decode("ascii", errors="replace")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            # The one text parser in NumPy that keeps to C: ten times faster than loadtxt.
            values = np.fromstring(flat, dtype=np.int64, sep=",")
        except (ValueError, DeprecationWarning) as error:
            raise UserError(f"{path} holds something that is not an integer: {error}") from error
    if values.size != lines * columns or values.min() < 0 or values.max() > 255:
        raise UserError(f"{path} is not {lines} rows of {columns} integers from 0 to 255")
    return values.astype(np.uint8).reshape(lines, columns)


def read_idx(path: Path) -> Bytes:
    """An IDX file of unsigned bytes, plain or gzipped (``.gz``); gzipped ones are cached.

    The format (as on the MNIST page): two zero bytes, the element type (8 for unsigned bytes),
    the number of axes, then each axis as a big-endian 32-bit integer, then the elements.

    Raises:
        UserError: missing, wrong magic number, or a length that differs from the header's.
    """
    return cached(path, parse_idx) if path.suffix == ".gz" else parse_idx(path)


def parse_idx(path: Path) -> Bytes:
    """``read_idx`` without the cache."""
    try:
        size = path.stat().st_size
        bound = size * MAX_DEFLATE_RATIO if path.suffix == ".gz" else size
        with _open(path) as file:
            return _read_idx(path, file, bound)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the IDX file {path}: {reason}") from error


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _read_idx(path: Path, file: io.BufferedIOBase, bound: int) -> Bytes:
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\x00\x00\x08" or head[3] == 0:
        raise UserError(
            f"{path} is not an IDX file of unsigned bytes: it starts with "
            f"{head.hex() or 'nothing'}, not 000008 and a number of axes"
        )
    axes = head[3]
    sizes = file.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise UserError(f"{path} is cut short: its header should list {axes} axes")
    shape = struct.unpack(f">{axes}I", sizes)
    count = math.prod(shape)
    # Checked before anything is allocated: a header may claim what no such file could hold.
    if count > bound:
        raise UserError(f"{path} is cut short: its header promises {count} bytes of data")
    array = np.empty(count, dtype=np.uint8)
    filled = 0
    while filled < count:
        got = file.readinto(array.data[filled:])
        if not got:
            raise UserError(f"{path} is cut short: {filled} bytes of data instead of {count}")
        filled += got
    if file.read(1):
        raise UserError(f"{path} is longer than the {count} bytes of data its header promises")
    return array.reshape(shape)
