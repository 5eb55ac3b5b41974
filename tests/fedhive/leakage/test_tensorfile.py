from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedhive.leakage.tensorfile import Damaged, load, save

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bits": np.array([1, 2, 255], np.uint8),
    "none": np.empty((0, 4), np.float32),
    "i": np.array([-5], np.int64),
    "d": np.array([[np.pi]]),
}


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert save(path, ARRAYS, {"about": "ä"}) == path.stat().st_size
    arrays, texts = load(path)
    assert texts == {"about": "ä"}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_nothing_is_a_file_too(tmp_path: Path) -> None:
    save(tmp_path / "x", {})
    assert load(tmp_path / "x") == ({}, {})


def test_the_reference_reader_agrees(tmp_path: Path) -> None:
    reference = pytest.importorskip("safetensors.numpy")
    save(tmp_path / "x", ARRAYS, {"k": "v"})
    theirs = reference.load_file(tmp_path / "x")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(theirs[name], array)
    reference.save_file(ARRAYS, tmp_path / "y")
    ours, _ = load(tmp_path / "y")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(ours[name], array)


def test_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="complex"):
        save(tmp_path / "x", {"c": np.zeros(2, complex)})


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "OBJ", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [2]},
        7,
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, entry: object) -> None:
    text = json.dumps({"x": entry}).encode()
    path = tmp_path / "x"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(Damaged):
        load(path)


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"[]", b"\x03" + bytes(7)]
)
def test_rubbish_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(Damaged):
        load(tmp_path / "x")
