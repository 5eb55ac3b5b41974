from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.reconstruction.adaptive import (
    AdaptiveImprint,
    class_weights,
    first_thresholds,
    read_adaptive,
)
from attacks.reconstruction.scene import Scene
from fedhive.leakage.recorded import Knower, Recorded, view_of
from fedhive.leakage.score import Leakage, Truth, score
from fedhive.leakage.tamper import detectability
from fedhive.learning.models import lenet, mlp
from tests.attacks.reconstruction.clients import LR, answer, examples, scene_of


def rounds_of(
    hidden: tuple[int, ...], batch: int, rounds: int, side: int = 32
) -> tuple[list[Leakage], list[int], Scene, list[Recorded], np.ndarray]:
    """Attack one client for some rounds; how far each came and what is open."""
    torch.manual_seed(0)
    shape = (3, side, side)
    scene, honest = scene_of(mlp(shape, 10, hidden=hidden), shape)
    x, y = examples(batch, 5, side)
    tamper, knower = (
        AdaptiveImprint(0.0, 1.0),
        Knower("server", {"lr": LR, "batch_size": batch}, True),
    )
    records: list[Recorded] = []
    leaks, still = [], []
    for number in range(1, rounds + 1):
        sent = tamper.edit(honest, scene.layout, 7, number)
        records.append(answer(scene, sent, x, y, number=number))
        tamper.learn(records[-1:], knower)
        guess = read_adaptive(view_of(records, scene.layout, knower), shape, 0.0, 1.0)
        leaks.append(score(guess.samples, Truth(x.numpy(), y.numpy()), guess.certified))
        still.append(guess.facts["open"])
        if len(guess):
            order = leaks[-1].found[leaks[-1].found >= 0]
            right = y.numpy()[leaks[-1].found >= 0]
            np.testing.assert_array_equal(guess.labels[order], right)
        if still[-1] == 0:
            break
    return leaks, still, scene, records, honest


def test_all_256_of_a_batch_within_eight_rounds() -> None:
    leaks, still, *_ = rounds_of((128,), 256, 8)
    assert still[-1] == 0
    assert leaks[-1].recall == 1.0
    assert leaks[-1].certified == 256
    assert all(leak.wrong == 0 for leak in leaks)
    assert np.median(leaks[-1].psnr) >= 80
    recalls = [leak.recall for leak in leaks]
    assert recalls == sorted(recalls)


@pytest.mark.parametrize("hidden", [(48, 16), (48, 12, 8)])
def test_deeper_models_and_the_detectability_of_it(hidden: tuple[int, ...]) -> None:
    leaks, still, scene, records, honest = rounds_of(hidden, 40, 8, side=8)
    assert still[-1] == 0
    assert leaks[-1].recall == 1.0
    assert leaks[-1].wrong == 0
    facts = detectability(honest, records[0].sent, scene.layout)
    assert facts["largest"] >= 1e20
    assert facts["twin_rows"] == 1.0


def test_deltas_of_one_example_are_far_from_those_of_two_or_three() -> None:
    weights = class_weights(10, np.random.default_rng(0))
    deltas = weights.mean() - weights
    pairs = deltas[:, None] + deltas[None, :]
    gap = np.abs(pairs.reshape(-1, 1) - deltas).min() / np.abs(deltas).max()
    assert gap > 4e-4


def test_the_first_threshold_lies_below_every_input() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=50)
    ladder = first_thresholds(16, direction, -1.0, 3.0)
    assert len(ladder) == 16
    assert ladder[0] < np.minimum(-direction, 3 * direction).sum()
    assert np.all(np.diff(ladder) >= 0)


def test_convolutional_models_are_refused() -> None:
    scene, honest = scene_of(lenet((3, 32, 32), 10), (3, 32, 32))
    with pytest.raises(ValueError, match="linear"):
        AdaptiveImprint(0.0, 1.0).edit(honest, scene.layout, 7, 1)


def test_the_number_of_examples_must_be_known() -> None:
    _, _, scene, records, _ = rounds_of((16,), 4, 1, side=8)
    view = view_of(records, scene.layout, Knower("server", {"lr": LR}))
    with pytest.raises(ValueError, match="how many examples"):
        read_adaptive(view.restrict(knows=view.knows.without("examples")), (3, 8, 8), 0.0, 1.0)
