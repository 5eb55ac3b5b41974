from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.reconstruction.forward import Aggregate, SingleStep, Unrolled, forward_of
from attacks.reconstruction.match import (
    DEFAULT,
    DLG,
    IDLG,
    INVERTING_GRADIENTS,
    Recipe,
    match,
    total_variation,
)
from attacks.reconstruction.networks import convnet_small, lenet_sigmoid
from attacks.reconstruction.scene import Scene
from fedhive.leakage.score import Truth, score
from fedhive.leakage.view import Channel, View, together
from fedhive.learning.models import lenet, mlp
from fedhive.learning.sgd import LocalJob, LocalSGD
from tests.attacks.reconstruction.clients import answer, examples, scene_of, view_with

SHAPE = (3, 8, 8)
SHORT = Recipe(adam_steps=0, polish=200)


def victim(
    n: int, seed: int, steps: int = 1, lr: float = 0.05
) -> tuple[Scene, View, Tensor, Tensor]:
    """A client with a tiny sigmoid LeNet and the server's view of it, in full precision."""
    torch.manual_seed(seed)
    scene, sent = scene_of(lenet_sigmoid(SHAPE, 10, width=8), SHAPE)
    x, y = examples(n, seed, side=8)
    record = answer(scene, sent, x, y, steps=steps, lr=lr)
    view = view_with(record, scene, lr)
    forward = Unrolled(scene, sent, lr, steps) if steps > 1 else SingleStep(scene, sent)
    seen = np.asarray(-lr * steps * forward(x, y).detach().numpy(), np.float32)
    return scene, replace(view, exchanges=(replace(view.exchanges[0], seen=seen),)), x, y


def decibels(found: Tensor, x: Tensor, y: Tensor) -> float:
    return float(np.mean(score(found.numpy(), Truth(x.numpy(), y.numpy())).psnr))


def test_total_variation_by_hand() -> None:
    x = torch.tensor([[[[0.0, 1.0], [3.0, 1.0]]]])
    assert float(total_variation(x, 1.0)) == pytest.approx((1 + 2) / 2 + (3 + 0) / 2)
    assert float(total_variation(x, 2.0)) == pytest.approx(1.5)
    assert float(total_variation(torch.ones(3, 5), 1.0)) == 0.0


@pytest.mark.parametrize("net", [lenet_sigmoid, lenet, convnet_small])
def test_the_single_step_is_torchs_gradient(net) -> None:
    torch.manual_seed(0)
    module = net((3, 32, 32), 10)
    scene, sent = scene_of(module, (3, 32, 32))
    x, y = examples(2)
    torch.nn.functional.cross_entropy(module(x), y).backward()
    wanted = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])
    torch.testing.assert_close(SingleStep(scene, sent)(x, y).detach(), wanted)


@pytest.mark.parametrize(("n", "batch", "steps"), [(3, 3, 4), (5, 2, 7)])
def test_unrolled_steps_are_what_a_client_does(n: int, batch: int, steps: int) -> None:
    torch.manual_seed(0)
    module = mlp(SHAPE, 10, hidden=(12,))
    scene, sent = scene_of(module, SHAPE)
    x, y = examples(n, side=8)
    sizes = [len(x[part]) for part in Unrolled(scene, sent, 0.1, steps, batch).batches(n)]
    order = torch.arange(sum(sizes)) % n if n % batch == 0 else torch.cat(
        [torch.arange(n)] * steps
    )[: sum(sizes)]  # fmt: skip
    job = LocalJob(x, y, order, tuple(sizes))
    result = LocalSGD(module, lr=0.1).run(torch.from_numpy(sent), job)
    wanted = (torch.from_numpy(sent) - result.params) / (0.1 * steps)
    mine = Unrolled(scene, sent, 0.1, steps, batch)(x, y).detach()
    torch.testing.assert_close(mine, wanted, atol=2e-5, rtol=1e-3)


def test_an_aggregate_is_the_weighted_sum() -> None:
    scene, view, x, y = victim(2, 0)
    other = replace(view, subjects=(9,))
    both = together([view, other], [0.3, 0.7])
    forward = forward_of(both, scene, 2)
    assert isinstance(forward, Aggregate)
    one = SingleStep(scene, view.exchanges[0].sent)
    wanted = 0.3 * one(x[:1], y[:1]) + 0.7 * one(x[1:], y[1:])
    torch.testing.assert_close(forward(x, y), wanted)


def test_which_forward_model_fits_a_view() -> None:
    scene, view, *_ = victim(1, 0, steps=3)
    assert isinstance(forward_of(view, scene, 1), Unrolled)
    blind = view.restrict(knows=view.knows.without("lr"))
    assert isinstance(forward_of(blind, scene, 1), SingleStep)


def test_dlg_finds_image_and_label_on_three_of_four_seeds() -> None:
    found, labels = [], []
    for seed in range(4):
        scene, view, x, y = victim(1, seed)
        forward = forward_of(view, scene, 1)
        result = match(view, scene, forward, None, 1, replace(DLG, polish=400),
                       np.random.default_rng(seed))  # fmt: skip
        found.append(decibels(result.x, x, y))
        labels.append(int(result.y[0]) == int(y[0]))
    assert sum(value >= 30 for value in found) >= 3
    assert min(found) > 8  # a poor match, but none that ran away
    assert sum(labels) >= 3


def test_polishing_helps_and_the_box_holds() -> None:
    scene, view, x, y = victim(1, 1)
    forward = forward_of(view, scene, 1)
    rough = match(view, scene, forward, y, 1, Recipe(adam_steps=60, polish=0))
    fine = match(view, scene, forward, y, 1, Recipe(adam_steps=60, polish=150))
    assert decibels(fine.x, x, y) > decibels(rough.x, x, y) + 3
    assert fine.loss < rough.loss
    assert fine.evaluations > rough.evaluations
    assert float(fine.x.min()) >= 0
    assert float(fine.x.max()) <= 1


def test_knowing_the_mask_decides() -> None:
    aware, blind = [], []
    for seed in range(3):
        scene, view, x, y = victim(1, seed)
        size = np.abs(view.exchanges[0].seen)
        sparse = view.restrict(visible=size >= np.quantile(size, 0.9))
        fooled = replace(sparse, visible=np.ones(view.size, np.bool_))
        for seen, into in ((sparse, aware), (fooled, blind)):
            found = match(seen, scene, forward_of(seen, scene, 1), y, 1, SHORT,
                          np.random.default_rng(seed))  # fmt: skip
            into.append(decibels(found.x, x, y))
    assert np.mean(aware) >= np.mean(blind) + 3


def test_unrolling_reaches_what_one_gradient_gives() -> None:
    scene, single, x, y = victim(1, 2)
    ceiling = match(single, scene, forward_of(single, scene, 1), y, 1, SHORT)
    scene, several, x, y = victim(1, 2, steps=5)
    unrolled = match(several, scene, forward_of(several, scene, 1), y, 1, SHORT)
    naive = match(several, scene, SingleStep(scene, several.exchanges[0].sent), y, 1, SHORT)
    assert decibels(unrolled.x, x, y) >= decibels(ceiling.x, x, y) - 1
    assert decibels(unrolled.x, x, y) > decibels(naive.x, x, y) + 3


def test_an_unknown_scale_is_no_obstacle() -> None:
    scene, view, x, y = victim(1, 1)
    hidden = view.restrict(
        channel=Channel(scale_known=False), knows=view.knows.without("lr", "steps")
    )
    found = match(hidden, scene, SingleStep(scene, view.exchanges[0].sent), y, 1, SHORT)
    assert decibels(found.x, x, y) > 15


def test_noise_hurts_and_the_prior_makes_up_for_some_of_it() -> None:
    scene, view, x, y = victim(1, 1)
    length = float(np.linalg.norm(view.exchanges[0].seen))
    channel = Channel(sigma=0.3 * length / np.sqrt(view.size))
    noisy = view.restrict(channel=channel, rng=np.random.default_rng(0))
    unaware = noisy.come_through(Channel())
    clean, told, untold = (
        decibels(match(v, scene, forward_of(v, scene, 1), y, 1, SHORT).x, x, y)
        for v in (view, noisy, unaware)
    )
    assert clean > told + 5
    assert told > untold


def test_the_same_generator_gives_the_same_search() -> None:
    scene, view, _, y = victim(2, 3)
    quick = replace(DEFAULT, adam_steps=5, polish=3)
    one, two = (
        match(view, scene, forward_of(view, scene, 2), y, 2, quick, np.random.default_rng(4))
        for _ in range(2)
    )
    assert torch.equal(one.x, two.x)


def test_restarts_keep_the_best() -> None:
    scene, view, _, y = victim(1, 3)
    quick = replace(SHORT, polish=20)
    alone = match(view, scene, forward_of(view, scene, 1), y, 1, quick, np.random.default_rng(0))
    many = match(view, scene, forward_of(view, scene, 1), y, 1, replace(quick, restarts=3),
                 np.random.default_rng(0))  # fmt: skip
    assert many.loss <= alone.loss


def test_labels_must_be_known_or_searched() -> None:
    scene, view, *_ = victim(1, 0)
    for recipe in (DEFAULT, INVERTING_GRADIENTS, IDLG):
        with pytest.raises(ValueError, match="labels"):
            match(view, scene, forward_of(view, scene, 1), None, 1, recipe)
