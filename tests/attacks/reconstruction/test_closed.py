from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.reconstruction.closed import (
    complete_rank_one,
    first_layer,
    read_imprint,
    read_rows,
)
from attacks.reconstruction.imprint import imprint, traps
from fedhive.leakage.score import Truth, score
from fedhive.learning.models import lenet, mlp
from tests.attacks.reconstruction.clients import answer, examples, patches, scene_of, view_with

SHAPE = (3, 32, 32)


def test_one_example_is_read_off_any_mlp() -> None:
    torch.manual_seed(0)
    scene, model = scene_of(mlp((3, 8, 8), 10, hidden=(20,)), (3, 8, 8))
    x, y = examples(1, side=8)
    guess = read_rows(view_with(answer(scene, model, x, y), scene), (3, 8, 8), 0.0, 1.0)
    assert len(guess) >= 1
    assert score(guess.samples[:1], Truth(x.numpy(), y.numpy())).psnr[0] > 60


def test_hidden_weights_are_filled_in_from_other_neurons() -> None:
    torch.manual_seed(0)
    scene, model = scene_of(mlp((3, 8, 8), 10, hidden=(40,)), (3, 8, 8))
    x, y = examples(2, side=8)
    view = view_with(answer(scene, model, x, y, lr=1.0), scene, lr=1.0)
    layer, visible = first_layer(scene.layout), view.visible.copy()
    layer.weights(visible)[:] = np.random.default_rng(0).random((40, 192)) < 0.6
    layer.weights(visible)[:, 5] = False
    guess = read_rows(view.restrict(visible=visible), (3, 8, 8), 0.0, 1.0)
    best = score(guess.samples, Truth(x.numpy(), y.numpy()))
    for i in range(2):
        gap = np.abs(guess.samples[best.found[i]] - x[i].numpy()).reshape(-1)
        assert np.mean(gap < 1e-3) > 0.95
        assert guess.samples[best.found[i]].reshape(-1)[5] == 0.5


def test_without_biases_nothing_is_read() -> None:
    torch.manual_seed(0)
    scene, model = scene_of(mlp((3, 8, 8), 10, hidden=(20,)), (3, 8, 8))
    x, y = examples(1, side=8)
    view = view_with(answer(scene, model, x, y), scene)
    visible = view.visible.copy()
    first_layer(scene.layout).biases(visible)[:] = False
    assert len(read_rows(view.restrict(visible=visible), (3, 8, 8), 0.0, 1.0)) == 0


def test_a_model_that_begins_with_a_convolution_is_refused() -> None:
    scene, _ = scene_of(lenet(SHAPE, 10), SHAPE)
    with pytest.raises(ValueError, match="linear layer"):
        first_layer(scene.layout)


@pytest.mark.parametrize("batch", [8, 64, 256])
def test_imprint_recall_with_public_calibration(batch: int) -> None:
    torch.manual_seed(1)
    bins = 256
    scene, honest = scene_of(mlp(SHAPE, 10, hidden=(bins,)), SHAPE)
    recovered = []
    for seed in range(2 if batch > 8 else 6):
        x, y = examples(batch, seed)
        sent = imprint(honest, scene.layout, patches()[1], np.random.default_rng(seed))
        guess = read_imprint(view_with(answer(scene, sent, x, y), scene), SHAPE, 0.0, 1.0)
        leak = score(guess.samples, Truth(x.numpy(), y.numpy()))
        recovered.append(leak.recall * batch)
    expected = batch * (1 - 1 / bins) ** (batch - 1)
    assert np.mean(recovered) >= 0.9 * expected


def test_traps_let_single_examples_through() -> None:
    torch.manual_seed(1)
    scene, honest = scene_of(mlp(SHAPE, 10, hidden=(256,)), SHAPE)
    x, y = examples(32, 3)
    sent = traps(honest, scene.layout, np.random.default_rng(0))
    guess = read_rows(view_with(answer(scene, sent, x, y), scene), SHAPE, 0.0, 1.0)
    plain = read_rows(view_with(answer(scene, honest, x, y), scene), SHAPE, 0.0, 1.0)
    truth = Truth(x.numpy(), y.numpy())
    assert score(guess.samples, truth).recall > 1.5 * score(plain.samples, truth).recall


def test_a_rank_one_matrix_from_a_tree_of_entries() -> None:
    left, right = np.array([2.0, -3.0, 0.5]), np.array([1.0, 4.0, -2.0, 5.0])
    whole = np.outer(left, right)
    visible = np.zeros((3, 4), np.bool_)
    visible[0, :2] = visible[1, 1:3] = visible[2, 2:] = True
    completed, known = complete_rank_one(np.where(visible, whole, 99.0), visible)
    assert known.all()
    np.testing.assert_allclose(completed, whole, rtol=1e-10)


def test_blocks_that_nothing_connects_stay_unknown() -> None:
    whole = np.outer([1.0, 2.0], [3.0, 4.0])
    visible = np.eye(2, dtype=np.bool_)
    completed, known = complete_rank_one(whole, visible)
    np.testing.assert_array_equal(known, visible)
    np.testing.assert_allclose(completed, np.diag([3.0, 8.0]))


def test_zeros_tell_of_their_own_factor_only() -> None:
    whole = np.outer([2.0, 0.0, 3.0], [1.0, 5.0])
    visible = np.array([[True, False], [True, True], [True, False]])
    completed, known = complete_rank_one(whole, visible)
    np.testing.assert_array_equal(known, [[True, False], [True, True], [True, False]])
    np.testing.assert_allclose(completed, np.where(known, whole, 0.0))


@given(st.integers(0, 2**31), st.floats(0.05, 0.95))
@settings(max_examples=25, deadline=None)
def test_what_is_determined_is_completed_exactly(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.uniform(0.5, 2, 12), rng.uniform(-2, 2, 15)
    right[np.abs(right) < 0.1] = 0.1
    whole, visible = np.outer(left, right), rng.random((12, 15)) < share
    completed, known = complete_rank_one(whole, visible)
    assert known[visible].all()
    np.testing.assert_allclose(completed[known], whole[known], rtol=1e-7)


def test_half_of_an_encrypted_layer_gives_the_example_away() -> None:
    torch.manual_seed(2)
    scene, model = scene_of(mlp((3, 8, 8), 10, hidden=(20,)), (3, 8, 8))
    x, y = examples(1, 4, side=8)
    view = view_with(answer(scene, model, x, y, lr=1.0), scene, lr=1.0)
    rng = np.random.default_rng(0)
    view = view.restrict(visible=rng.random(view.size) < 0.5)
    layer = first_layer(scene.layout)
    matrix = np.hstack(
        [layer.weights(view.gradient()), layer.biases(view.gradient())[:, None]]
    ).astype(np.float64)
    shown = np.hstack([layer.weights(view.visible), layer.biases(view.visible)[:, None]])
    completed, known = complete_rank_one(matrix, shown)
    k = int(np.argmax(np.abs(completed[:, -1])))
    told = known[k, :-1]
    assert told.mean() > 0.98
    sample = (completed[k, :-1] / completed[k, -1])[told]
    np.testing.assert_allclose(sample, x.numpy().reshape(-1)[told], atol=1e-3)
