"""Momentum across rounds: the paper's recursion by hand, in whole runs and when resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import conf
from defenses.momentum import WorkerMomentum
from fedhive.learning.sgd import LocalResult

CHOICE = Path(conf.__file__).parent / "client" / "worker_momentum.yaml"


def result(*values: float, steps: int = 1, factor: float = 1.0) -> LocalResult:
    return LocalResult(torch.tensor(values), 0.0, 8, steps, factor)


def test_two_rounds_by_hand():
    """g = 1, then 3, with beta 3/4: m = 1/4, then 3/16 + 3/4 = 15/16."""
    client = WorkerMomentum(lr=0.5, beta=0.75)
    assert client.options()["lr"] == 0.125
    start = torch.tensor([2.0])
    assert client.drift({}, {}) is None
    _, memory = client.finish({}, {}, start, result(2.0 - 0.125 * 1.0))
    assert memory["momentum"].tolist() == [0.25]
    drift = client.drift({}, memory)
    assert drift.tolist() == [0.75]
    step = 0.125 * (3.0 + 0.75)
    _, memory = client.finish({}, memory, start, result(2.0 - step))
    assert memory["momentum"].tolist() == [15 / 16]
    assert step == 0.5 * 15 / 16


def test_several_steps_and_a_factor_are_divided_out():
    client = WorkerMomentum(lr=0.5, beta=0.5)
    _, memory = client.finish({}, {}, torch.tensor([1.0]), result(0.0, steps=4, factor=0.5))
    assert memory["momentum"].tolist() == [1.0]


def test_a_learning_rate_of_zero_leaves_the_memory():
    client = WorkerMomentum(lr=0.5)
    old = {"momentum": torch.tensor([7.0])}
    _, memory = client.finish({}, old, torch.tensor([1.0]), result(1.0, factor=0.0))
    assert memory["momentum"].tolist() == [7.0]


@pytest.mark.parametrize("bad", [{"beta": 1.0}, {"beta": -0.1}, {"lr": 0.0}, {"momentum": 0.9}])
def test_refused(bad):
    with pytest.raises(ValueError, match=r"beta|momentum"):
        WorkerMomentum(**bad)


def chosen(tiny, beta: float, **options) -> dict:
    cfg = tiny("selection.k=null", "rounds=4", "local_work=steps", "local_work.steps=1")
    node = yaml.safe_load(CHOICE.read_text())
    cfg["client"] = {**node, "lr": 0.3, "batch_size": 1000, "beta": beta, **options}
    return cfg


def test_without_a_past_it_is_sgd(play, tiny):
    plain = chosen(tiny, 0.0)
    plain["client"] = {"_target_": "strategies.local.SGD", "lr": 0.3, "batch_size": 1000}
    np.testing.assert_allclose(
        play(cfg=chosen(tiny, 0.0)).model(), play(cfg=plain).model(), rtol=1e-5, atol=1e-6
    )


def test_full_batches_are_momentum_on_the_server(play, tiny):
    """Equal sizes, full batches, one step: the mean momentum is that of the mean gradient."""
    plain = chosen(tiny, 0.5)
    plain["client"] = {"_target_": "strategies.local.SGD", "lr": 0.3, "batch_size": 1000}
    plain["strategy"]["server_opt"] = {
        "_target_": "strategies.server_opt.FedAvgM", "lr": 0.5, "momentum": 0.5,
    }  # fmt: skip
    np.testing.assert_allclose(
        play(cfg=chosen(tiny, 0.5)).model(), play(cfg=plain).model(), rtol=1e-4, atol=1e-5
    )
