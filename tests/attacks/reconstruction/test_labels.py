from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.reconstruction.labels import recover_labels, spread
from attacks.reconstruction.networks import convnet_small, lenet_sigmoid
from fedhive.learning.models import lenet
from tests.attacks.reconstruction.clients import answer, examples, scene_of, view_with

SHAPE = (3, 32, 32)


def found(net, n: int, seed: int, steps: int = 1) -> float:
    """Share of the labels that are recovered."""
    torch.manual_seed(seed)
    scene, sent = scene_of(net(SHAPE, 10), SHAPE)
    x, y = examples(n, seed)
    view = view_with(answer(scene, sent, x, y, steps=steps), scene)
    labels = recover_labels(view, scene, n, np.random.default_rng(seed))
    assert len(labels) == n
    counts = [np.bincount(one, minlength=10) for one in (labels, y.numpy())]
    return float(np.minimum(*counts).sum() / n)


@pytest.mark.parametrize("net", [lenet_sigmoid, convnet_small, lenet])
def test_the_label_of_one_example_is_always_found(net) -> None:
    assert all(found(net, 1, seed) == 1.0 for seed in range(4))


@pytest.mark.parametrize(("net", "n"), [(lenet_sigmoid, 4), (lenet_sigmoid, 16), (lenet, 16)])
def test_labels_of_a_batch_are_counted(net, n: int) -> None:
    assert np.mean([found(net, n, seed) for seed in range(3)]) >= 0.9


def test_labels_after_several_steps() -> None:
    assert np.mean([found(lenet, 8, seed, steps=4) for seed in range(3)]) >= 0.85


def test_what_is_known_is_not_guessed() -> None:
    scene, sent = scene_of(lenet(SHAPE, 10), SHAPE)
    x, y = examples(3)
    view = view_with(answer(scene, sent, x, y), scene, labels=(5, 2, 2))
    np.testing.assert_array_equal(
        recover_labels(view, scene, 3, np.random.default_rng(0)), [2, 2, 5]
    )


def test_a_hidden_bias_is_named() -> None:
    scene, sent = scene_of(lenet(SHAPE, 10), SHAPE)
    x, y = examples(2)
    view = view_with(answer(scene, sent, x, y), scene)
    visible = view.visible.copy()
    visible[-1] = False
    with pytest.raises(ValueError, match="hidden"):
        recover_labels(view.restrict(visible=visible), scene, 2, np.random.default_rng(0))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any))
def test_exact_counts_are_kept(counts: list[int]) -> None:
    labels = spread(np.array(counts, float), sum(counts))
    np.testing.assert_array_equal(np.bincount(labels, minlength=len(counts)), counts)
