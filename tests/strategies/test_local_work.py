"""How much each machine trains, and what that comes to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhive import seeding
from fedhive.errors import UserError
from fedhive.world.devices import Device
from strategies.local_work import Epochs, Steps, mean_batch, pace, planned_samples
from strategies.local_work_fit import EqualTime, FitBatch, FitDeadline, FitStay, longest_stay
from strategies.view import NodeHistory, View


class Fading:
    """Sojourns with a constant hazard a second of each node; counts the questions."""

    def __init__(self, hazard: dict[int, float]) -> None:
        self.hazard, self.questions = hazard, 0

    def p_on(self, nodes, after_s):
        raise NotImplementedError

    def p_stay(self, nodes, for_s):
        self.questions += 1
        return np.array([math.exp(-self.hazard[node] * for_s) for node in nodes])


def device(rate: float = 10.0, transfer_s: float = 4.0) -> Device:
    """1,000 bytes take ``transfer_s`` seconds in all."""
    bps = 16_000.0 / transfer_s
    return Device("d", "GB", 51.5, 0.0, rate, down_bps=bps, up_bps=bps, latency_s=0.0)


def view(profiles=None, history=None, target_s=None, outlook=None) -> View:
    nodes = tuple(sorted({*(profiles or {}), *(history or {})}))
    return View(
        round=1, now_s=0.0, online=nodes, idle=nodes, history=history or {},
        rng=lambda name: seeding.stream(0, name), profiles=profiles or {}, model_bytes=1000,
        target_s=target_s, **({"outlook": outlook} if outlook else {}),
    )  # fmt: skip


def steps(work, seen: View, node: int = 1) -> int:
    [(key, value)] = work.settings(seen, node).items()
    assert key == "local-steps"
    assert isinstance(value, int)
    return value


def test_settings_that_travel():
    assert Epochs(epochs=2).settings(None, 0) == {"local-epochs": 2.0}
    assert isinstance(Epochs(epochs=2).settings(None, 0)["local-epochs"], float)
    assert Steps(steps=7).settings(None, 5) == {"local-steps": 7}


@pytest.mark.parametrize("epochs", [0.0, -1.0, 1e6, math.nan, math.inf])
def test_epochs_are_positive(epochs: float):
    with pytest.raises(ValueError, match="epochs must be above 0"):
        Epochs(epochs=epochs)


def test_steps_are_positive():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Steps(steps=0)


@pytest.mark.parametrize(
    ("overrides", "steps", "samples"),
    [
        (["local_work.epochs=1"], 3, 24),  # 24 samples, batches of 8
        (["local_work.epochs=0.5"], 2, 12),
        (["local_work.epochs=0.001"], 1, 8),
        (["local_work=steps", "local_work.steps=5"], 5, 40),
    ],
)
def test_work_is_asked_and_done(play, overrides: list, steps: int, samples: int):
    played = play("rounds=1", *overrides)
    assert {(e["steps_asked"], e["steps_done"], e["samples"]) for e in played.events} == {
        (steps, steps, samples)
    }


def test_stock_strategies_get_the_work_too(play):
    played = play("rounds=1", "strategy=flower_fedavg", "local_work=steps", "local_work.steps=5")
    assert {e["samples"] for e in played.events} == {40}


# ---- what others know about the machine -------------------------------------------------------


def test_pace_by_profile_by_history_or_not_at_all():
    assert pace(view({1: device(10.0, 4.0)}), 1) == pytest.approx((4.0, 0.1))
    assert pace(view(history={1: NodeHistory(duration_s=30.0, samples=60)}), 1) == (0.0, 0.5)
    assert pace(view(history={1: NodeHistory(duration_s=30.0)}), 1) is None


@pytest.mark.parametrize(("examples", "mean"), [(None, 8.0), (24, 8.0), (20, 20 / 3), (5, 5.0)])
def test_an_epochs_last_batch_is_short(examples, mean: float):
    assert mean_batch(view(history={1: NodeHistory(examples=examples)}), 1, 8) == mean


def test_planned_samples():
    seen = view({1: device(), 2: device()}, {1: NodeHistory(examples=20)})
    assert planned_samples(Steps(3), seen, [1, 2], 8) == [20.0, 24.0]
    assert planned_samples(Epochs(2.0), seen, [1, 2], 8) == [40.0, 40.0]
    assert planned_samples(Epochs(2.0), view({1: device()}), [1], 8) == [16.0]
    fitted = FitStay(batch_size=8, seconds=100.0)
    assert planned_samples(fitted, seen, [2], 8) == [8.0 * steps(fitted, seen, 2)]


# ---- work that fits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        # 100 s * 0.9 - 4 s = 86 s of training; a step of 8 samples takes 0.8 s
        (100.0, {}, 107),
        (100.0, {"safety": 1.0}, 120),
        (None, {"seconds": 12.0, "safety": 1.0}, 10),  # exactly ten steps, rounding or not
        (50.0, {"seconds": 12.0, "safety": 1.0}, 10),  # its own limit goes before the trigger's
        (4.0, {}, 1),
        (1.0, {"min_steps": 5}, 5),
    ],
)
def test_steps_that_fit_the_deadline(target, options, expected: int):
    work = FitDeadline(batch_size=8, **options)
    assert steps(work, view({1: device(10.0, 4.0)}, target_s=target)) == expected


def test_passes_are_bounded_once_the_data_is_known():
    seen = view({1: device()}, {1: NodeHistory(examples=20)}, target_s=1000.0)  # 3 steps a pass
    assert steps(FitDeadline(batch_size=8, max_passes=10.0), seen) == 30
    assert steps(FitDeadline(batch_size=8, max_passes=0.1), seen) == 1
    # Without a bound: (900 - 4) s at 0.1 s a sample and 20/3 samples a step.
    assert steps(FitDeadline(batch_size=8, max_passes=None), seen) == 1344


def test_fitting_needs_something_to_fit():
    with pytest.raises(UserError, match=r"local_work\.seconds.*trigger=deadline"):
        FitDeadline().settings(view({1: device()}), 1)


def test_machines_of_unknown_speed():
    seen = view(history={1: NodeHistory()}, target_s=100.0, outlook=Fading({1: 0.0}))
    for work in (
        FitDeadline(unknown_steps=7),
        EqualTime(unknown_steps=7),
        FitStay(unknown_steps=7),
    ):
        assert steps(work, seen) == 7


def test_a_reply_that_took_no_time_asks_for_no_infinity():
    seen = view(history={1: NodeHistory(duration_s=0.0, samples=10)}, target_s=100.0)
    assert steps(FitDeadline(max_passes=None), seen) == 1_000_000


def test_equal_time_is_the_same_training_time():
    seen = view({1: device(10.0, 40.0), 2: device(40.0, 1.0)})
    work = EqualTime(batch_size=8, seconds=60.0)
    assert (steps(work, seen, 1), steps(work, seen, 2)) == (75, 300)


@given(st.floats(0.5, 500.0), st.floats(0.0, 60.0), st.floats(1.0, 1e4), st.floats(0.1, 1.0))
def test_fitted_work_fits_and_one_step_more_does_not(rate, transfer, target, safety):
    seen = view({1: device(rate, max(transfer, 0.01))}, target_s=target)
    work = FitDeadline(batch_size=8, max_passes=None, safety=safety)
    n = steps(work, seen)
    if n > 1:
        assert seen.seconds(1, 8 * n) <= safety * target * (1 + 1e-6)
    assert seen.seconds(1, 8 * (n + 1)) > safety * target * (1 - 1e-6)


# ---- how long it will stay --------------------------------------------------------------------


def test_longest_stay_of_an_exponential_sojourn():
    hazard = {1: 0.001, 2: 0.01, 3: 0.0, 4: 1e9}
    found = longest_stay(view(outlook=Fading(hazard)), [1, 2, 3, 4], 0.8, 1000.0)
    assert found == pytest.approx([-math.log(0.8) / 0.001, -math.log(0.8) / 0.01, 1000.0, 0.0], abs=0.25)  # noqa: E501  # fmt: skip
    assert (found <= [223.2, 22.4, 1000.0, 0.0]).all()
    assert longest_stay(view(), [], 0.8, 1000.0).size == 0


def test_fit_stay_by_hand():
    # 0.8 = exp(-0.001 d): d = 223.1 s, less 4 s for transfers, at 0.8 s a step
    seen = view({1: device(10.0, 4.0)}, outlook=Fading({1: 0.001}))
    assert steps(FitStay(batch_size=8, seconds=1000.0, safety=1.0), seen) == 273
    assert steps(FitStay(batch_size=8, seconds=100.0, safety=0.9), seen) == 107
    assert steps(FitStay(batch_size=8, q=1.0), seen) == 1
    with_limit = view({1: device(10.0, 4.0)}, outlook=Fading({1: 0.0}), target_s=100.0)
    assert steps(FitStay(batch_size=8, safety=0.9), with_limit) == 107


def test_questions_are_asked_together():
    nodes = range(1000)
    outlook = Fading({node: 1e-5 * (node + 1) for node in nodes})
    seen = view({node: device() for node in nodes}, outlook=outlook)
    together = FitStay(seconds=600.0).steps_for(seen, list(nodes))
    assert outlook.questions < 2000  # and not 13 for each of them
    for node in (0, 17, 999):
        assert steps(FitStay(seconds=600.0), seen, node) == together[node]


@given(st.floats(1e-6, 1.0), st.floats(0.05, 1.0), st.floats(10.0, 1e5))
def test_fitted_stays_are_probable_enough(hazard: float, q: float, limit: float):
    seen = view({1: device(10.0, 4.0)}, outlook=Fading({1: hazard}))
    n = steps(FitStay(batch_size=8, q=q, seconds=limit, max_passes=None), seen)
    if n > 1:
        assert math.exp(-hazard * seen.seconds(1, 8 * n)) >= q * (1 - 1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FitDeadline(batch_size=0), "batch_size must be at least 1"),
        (lambda: FitDeadline(min_steps=0), "min_steps must be at least 1"),
        (lambda: FitDeadline(unknown_steps=0), "unknown_steps must be at least 1"),
        (lambda: FitDeadline(max_passes=0.0), "max_passes must be above 0"),
        (lambda: FitDeadline(seconds=-1.0), "seconds must be above 0"),
        (lambda: FitDeadline(safety=1.1), "safety must be above 0 and at most 1"),
        (lambda: EqualTime(seconds=math.inf), "seconds must be above 0"),
        (lambda: FitBatch(FitDeadline(batch_size=1), steps=0), "steps must be at least 1"),
        (lambda: FitBatch(FitDeadline()), "fit.batch_size must be 1"),
        (lambda: FitStay(q=0.0), "q must be above 0 and at most 1"),
        (lambda: FitStay(safety=math.nan), "safety must be above 0 and at most 1"),
    ],
)
def test_impossible_fits(make, says: str):
    with pytest.raises(ValueError, match=says):
        make()


# ---- larger batches for faster machines ---------------------------------------------------------


def fitted_batch(rate: float, **options) -> dict[str, int]:
    """10 s of training at ``rate`` samples a second."""
    fit = FitDeadline(batch_size=1, safety=1.0, max_passes=None)
    seen = view({1: device(rate=rate)}, target_s=14.0)
    return FitBatch(fit, **options).settings(seen, 1)


@pytest.mark.parametrize(
    ("rate", "options", "steps", "batch"),
    [
        (10.0, {"steps": 5}, 5, 20),  # 100 samples
        (100.0, {"steps": 5}, 5, 200),  # ten times as fast: ten times the batch
        (0.3, {"steps": 5}, 3, 1),  # 3 samples: as many steps of one
        (1.2, {"steps": 5}, 5, 2),  # 12 samples: never more than fit, but 10
        (1.4, {"steps": 5}, 4, 3),  # 14 samples: 12 of them
        (100.0, {"steps": 5, "max_batch": 100}, 10, 100),  # the rest in more steps
    ],
)
def test_batches_that_fit_by_hand(rate, options, steps: int, batch: int):
    assert fitted_batch(rate, **options) == {"local-steps": steps, "batch-size": batch}


@given(samples=st.integers(1, 5000), steps=st.integers(1, 40), largest=st.integers(1, 600))
def test_fitted_batches_fit_and_waste_little(samples: int, steps: int, largest: int):
    work = fitted_batch(samples / 10.0, steps=steps, max_batch=largest)
    done = work["local-steps"] * work["batch-size"]
    assert 1 <= work["batch-size"] <= largest
    assert done <= samples
    assert done > samples / 2 - 1


def test_planned_samples_count_the_batch_that_is_asked_for():
    work = FitBatch(FitDeadline(batch_size=1, safety=1.0, max_passes=None), steps=5)
    seen = view({1: device(rate=100.0), 2: device(rate=10.0)}, target_s=14.0)
    assert planned_samples(work, seen, [1, 2], batch_size=32) == [1000, 100]


def test_batch_sizes_are_asked_and_done(play):
    played = play(
        "rounds=1", "selection=all", "trigger=deadline", "trigger.seconds=20",
        "local_work=fit_batch", "local_work.steps=3", "fleet=equal", "fleet.median_rate=0.7",
    )  # fmt: skip
    # 0.9 * 20 s at 0.7 samples a second, less the transfers: 12 samples in 3 steps of 4.
    assert {(e["steps_done"], e["samples"]) for e in played.events} == {(3, 12)}


def test_batch_size_replaces_the_clients_own(tiny):
    from fedhive import config
    from fedhive.learning.workbench import Workbench

    bench = Workbench(config.dumps(tiny()))
    assert bench.work(0, {"local-steps": 3}).batches == (8, 8, 8)
    assert bench.work(0, {"local-steps": 3, "batch-size": 5}).batches == (5, 5, 5)
    assert bench.work(0, {"local-epochs": 1.0, "batch-size": 10}).batches == (10, 10, 4)
    with pytest.raises(ValueError, match="batch-size must be at least 1, got 0"):
        bench.work(0, {"local-steps": 3, "batch-size": 0})


def test_fitted_work_is_asked_and_done(play):
    tight = ("local_work=equal_time", "local_work.seconds=0.001", "local_work.unknown_steps=1")
    played = play("rounds=1", *tight)
    assert {event["steps_done"] for event in played.events} == {1}
