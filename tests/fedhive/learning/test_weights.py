"""Weights in files: what was packed comes back, and nothing else passes for a model."""

from __future__ import annotations

import numpy as np
import pytest

from fedhive.compose import compose
from fedhive.errors import UserError
from fedhive.launch import launch
from fedhive.learning import weights
from fedhive.learning.workbench import sha256

LAYOUT = [("0.weight", (2, 3)), ("0.bias", (2,)), ("scale", ())]
VECTOR = np.arange(9, dtype=np.float32)


def written(path, params=VECTOR, layout=LAYOUT):
    path.write_bytes(weights.pack(params, layout))
    return path


def test_what_was_packed_comes_back(tmp_path):
    assert np.array_equal(weights.load(written(tmp_path / "w.npz"), LAYOUT), VECTOR)


def test_a_run_directory_stands_for_its_model(tmp_path):
    written(tmp_path / weights.NAME)
    assert np.array_equal(weights.load(tmp_path, LAYOUT), VECTOR)


def test_the_order_of_the_file_does_not_matter(tmp_path):
    arrays = {"scale": np.float32(8), "0.bias": VECTOR[6:8], "0.weight": VECTOR[:6].reshape(2, 3)}
    np.savez(tmp_path / "w.npz", **arrays)
    assert np.array_equal(weights.load(tmp_path / "w.npz", LAYOUT), VECTOR)


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (LAYOUT[:2], r"scale is \(\) there and missing here"),
        ([*LAYOUT, ("more", (1,))], "more is missing there"),
        ([("0.weight", (3, 2)), *LAYOUT[1:]], r"0.weight is \(2, 3\) there and \(3, 2\) here"),
    ],
)
def test_another_models_weights_are_refused(tmp_path, layout, reason):
    with pytest.raises(UserError, match=reason):
        weights.load(written(tmp_path / "w.npz"), layout)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(UserError, match="not finite"):
        weights.load(written(tmp_path / "w.npz", np.full(9, np.nan, np.float32)), LAYOUT)


def test_numbers_of_another_kind_are_refused(tmp_path):
    words = {name: np.full(shape, "1.0") for name, shape in LAYOUT}
    np.savez(tmp_path / "w.npz", **words)
    with pytest.raises(UserError, match=r"0.weight is <U3, not float32"):
        weights.load(tmp_path / "w.npz", LAYOUT)


def test_pickles_truncated_files_and_nothing_are_refused(tmp_path):
    np.savez(tmp_path / "pickle.npz", a=np.array([object()], dtype=object))
    whole = written(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "bare.npy", VECTOR)
    for name in ("pickle.npz", "cut.npz", "text.npz", "bare.npy", "missing.npz"):
        with pytest.raises(UserError, match=f"cannot read weights from .*{name}"):
            weights.load(tmp_path / name, LAYOUT)


def vector_of(run_dir):
    with np.load(run_dir / weights.NAME) as archive:
        return np.concatenate([archive[name].reshape(-1) for name in archive.files])


def test_a_run_goes_on_from_anothers_model(tmp_path):
    tiny = ["data=synthetic", "nodes=2", "model=softmax_regression", "selection.k=2", "rounds=1",
            "progress=false"]  # fmt: skip
    first = launch(compose(tiny), tmp_path / "first")
    assert sha256(vector_of(tmp_path / "first")) == first["model_sha256"]
    launch(compose([*tiny, f"init_from={tmp_path / 'first'}", "client.lr=1e-30"]), tmp_path / "on")
    moved = np.abs(vector_of(tmp_path / "on") - vector_of(tmp_path / "first"))
    assert moved.max() < 1e-6  # the mean of two equal models is theirs up to rounding
