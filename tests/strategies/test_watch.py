"""What a server remembers of its nodes, and what it goes on believing of what they declared."""

from __future__ import annotations

import math

import numpy as np
import pytest

from defenses.containment import Update
from fedhive.world.devices import Device
from strategies.view import NodeHistory
from strategies.watch import DISPROVED, Watch, transfers_s

FAST = Device("liar", "DE-LU", 0.0, 0.0, rate=100.0, down_bps=8e6, up_bps=8e6, latency_s=0.0)


class Grid:
    """Two nodes that declare the same."""

    def __init__(self) -> None:
        self.profiles = {1: FAST, 2: FAST}

    def get_node_ids(self):
        return [1, 2]


@pytest.fixture
def watch():
    made = Watch(None, 0, lambda: math.inf)
    made.view(1, Grid(), set())
    return made


def reply(watch, node, duration_s, samples=100):
    update = Update(
        model=np.zeros(1, np.float32), examples=10, loss=None, steps=1, samples=samples, extra={}
    )
    watch.remember(node, update, 1, duration_s)


def test_a_speed_is_believed_until_two_replies_in_a_row_disprove_it(watch):
    grid = Grid()
    reply(watch, 1, 1.0)  # 100 samples at 100 samples/s, as declared
    reply(watch, 2, 50.0)
    assert watch.view(2, grid, set()).profiles is grid.profiles
    reply(watch, 2, 50.0)
    believed = watch.view(3, grid, set()).profiles
    assert believed[1] is FAST
    assert believed[2].rate == pytest.approx(2.0)  # 100 samples in 50 s
    assert grid.profiles[2] is FAST
    reply(watch, 2, 1.0)
    assert watch.view(4, grid, set()).profiles is grid.profiles


def test_slowness_within_the_tolerance_is_chance(watch):
    for _ in range(3):
        reply(watch, 1, 0.99 * DISPROVED)
    assert watch.of(1).slow == 0


def test_transfers_are_not_training(watch):
    assert transfers_s(FAST, 1_000_000) == pytest.approx(2.0)
    watch._model_bytes = 1_000_000
    for _ in range(2):
        reply(watch, 1, 22.0)
    assert watch.view(2, Grid(), set()).profiles[1].rate == pytest.approx(100 / 20.0)


def test_doubts_survive_a_break(watch):
    for _ in range(2):
        reply(watch, 1, 50.0)
    again = Watch(None, 0, lambda: math.inf)
    again.restore(watch.state())
    assert again.view(2, Grid(), set()).profiles[1].rate == pytest.approx(2.0)
    assert NodeHistory(**{"examples": 3}).slow == 0  # checkpoints of earlier versions
