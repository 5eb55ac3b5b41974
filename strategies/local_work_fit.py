"""Local work that fits a machine's speed, the round's length and how long it will stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhive.errors import UserError
from strategies.local_work import LocalWork, Settings, mean_batch, pace, planned_samples
from strategies.view import View

MOST_STEPS = 1_000_000
"""Limit where nothing else limits, e.g. a node that reported to have needed no time at all."""
DAY_S = 86_400.0


@dataclass(frozen=True)
class _Bounds:
    """What steps that fit some number of seconds have in common.

    Args:
        batch_size: samples of a step, the client's.
        min_steps: fewest steps to ask, even if they take too long.
        max_passes: most passes over the node's own data; null for no limit. It holds once the
            node has reported how much data it has.
        unknown_steps: steps to ask of a node whose speed is not known yet.
    """

    batch_size: int = 32
    min_steps: int = 1
    max_passes: float | None = 10.0
    unknown_steps: int = 20

    def __post_init__(self) -> None:
        for name in ("batch_size", "min_steps", "unknown_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_passes is not None and not self.max_passes > 0.0:
            raise ValueError(f"max_passes must be above 0 (or null), got {self.max_passes}")

    def _steps(self, view: View, node: int, training_s: float, sample_s: float) -> int:
        """Steps that fit ``training_s`` seconds at ``sample_s`` seconds a sample."""
        step_s = sample_s * mean_batch(view, node, self.batch_size)
        steps = self._most(view, node)
        if step_s * steps > training_s:
            # The tolerance keeps a whole number of steps from being lost to rounding.
            steps = int(training_s / step_s + 1e-9) if training_s > 0.0 else 0
        return max(self.min_steps, int(min(steps, MOST_STEPS)))

    def _most(self, view: View, node: int) -> float:
        n = view.past(node).examples
        if self.max_passes is None or not n:
            return MOST_STEPS
        return max(1, math.floor(self.max_passes * math.ceil(n / self.batch_size) + 1e-9))


def _limit(view: View, seconds: float | None, who: str) -> float:
    limit = view.target_s if seconds is None else seconds
    if limit is None:
        raise UserError(
            f"local_work={who}: the trigger sets no limit to fit; set local_work.seconds, or "
            "use a trigger with a limit, e.g. trigger=deadline"
        )
    return limit


@dataclass(frozen=True)
class FitDeadline(_Bounds):
    """As many steps as fit the length of a round, transfers included.

    The largest number of steps with transfers + steps * time per step <= safety * limit, by what
    the machine declared, or by how long its last reply took. Deadlines with fitted work are how
    fast machines come to do more than slow ones.

    Args:
        batch_size: samples of a step, the client's.
        min_steps: fewest steps to ask, even if they take too long.
        max_passes: most passes over the node's own data; null for no limit. It holds once the
            node has reported how much data it has.
        unknown_steps: steps to ask of a node whose speed is not known yet.
        seconds: length of a round to fit; null for the trigger's limit.
        safety: share of it to plan for; the rest is for what was not foreseen.
    """

    seconds: float | None = None
    safety: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_seconds(self.seconds)
        _check_share("safety", self.safety)

    def settings(self, view: View, node: int) -> Settings:
        """The steps that fit.

        Raises:
            UserError: if there is no limit to fit.
        """
        limit = self.safety * _limit(view, self.seconds, "fit_deadline")
        known = pace(view, node)
        if known is None:
            return {"local-steps": self.unknown_steps}
        transfers_s, sample_s = known
        return {"local-steps": self._steps(view, node, limit - transfers_s, sample_s)}


@dataclass(frozen=True)
class EqualTime(_Bounds):
    """As many steps as each machine does in the same time; transfers come on top.

    Args:
        batch_size: samples of a step, the client's.
        min_steps: fewest steps to ask, even if they take too long.
        max_passes: most passes over the node's own data; null for no limit. It holds once the
            node has reported how much data it has.
        unknown_steps: steps to ask of a node whose speed is not known yet.
        seconds: training time.
    """

    seconds: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_seconds(self.seconds)

    def settings(self, view: View, node: int) -> Settings:
        """The steps that the machine does in that time."""
        known = pace(view, node)
        if known is None:
            return {"local-steps": self.unknown_steps}
        return {"local-steps": self._steps(view, node, self.seconds, known[1])}


@dataclass(frozen=True)
class FitStay(_Bounds):
    """The largest work that the machine will probably stay for.

    The largest number of steps whose whole duration d (transfers included) has
    P(on during all of [now, now + d]) >= q by the forecast, and d <= safety * limit. The
    probability does not grow with d, so the longest such d is found by bisection, to
    limit / 4096; nodes that ask about the same d are forecast together.

    Args:
        batch_size: samples of a step, the client's.
        min_steps: fewest steps to ask, even if they take too long.
        max_passes: most passes over the node's own data; null for no limit. It holds once the
            node has reported how much data it has.
        unknown_steps: steps to ask of a node whose speed is not known yet.
        q: probability of completion to keep.
        seconds: longest duration; null for the trigger's limit, a day if it has none.
        safety: share of that limit to plan for.
    """

    q: float = 0.8
    seconds: float | None = None
    safety: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_seconds(self.seconds)
        _check_share("safety", self.safety)
        _check_share("q", self.q)

    def settings(self, view: View, node: int) -> Settings:
        """The steps that it will probably complete."""
        return {"local-steps": self.steps_for(view, [node])[0]}

    def steps_for(self, view: View, nodes: Sequence[int]) -> list[int]:
        """The same for several nodes."""
        limit = view.target_s if self.seconds is None else self.seconds
        stays = longest_stay(view, nodes, self.q, self.safety * (limit or DAY_S))
        steps = []
        for node, stay in zip(nodes, stays.tolist(), strict=True):
            known = pace(view, node)
            if known is None:
                steps.append(self.unknown_steps)
            else:
                steps.append(self._steps(view, node, stay - known[0], known[1]))
        return steps


@dataclass(frozen=True)
class FitBatch:
    """The same few steps for everybody, in batches as large as each machine can manage.

    ``fit`` says on how many samples s a node may train. They are done in ``steps`` steps of
    batches of s / steps: a machine ten times as fast takes batches ten times as large, not ten
    times as many steps. All models then have gone equally far when they are averaged, and with
    ``combine.weighting=samples`` each sample of a step counts alike, as if the step had been done
    on one large batch spread over the hive. Where fast machines take more steps instead, their
    long walks dominate the average: on 40 machines whose speeds spread as exp(0.8 N(0, 1)), with
    Nesterov's outer step, that cost 0.7 to 1.2 points of accuracy (``experiments/half_power``).

    Args:
        fit: local work with ``batch_size`` 1, whose steps are the samples.
        steps: of everybody; machines that manage fewer samples take as many steps of one.
        max_batch: largest batch; beyond it, more steps.
    """

    fit: LocalWork
    steps: int = 5
    max_batch: int = 512

    def __post_init__(self) -> None:
        for name in ("steps", "max_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        size = getattr(self.fit, "batch_size", 1)
        if size != 1:
            raise ValueError(
                f"fit.batch_size must be 1, so that its steps are samples; got {size}"
            )

    def settings(self, view: View, node: int) -> Settings:
        """Steps and batch size."""
        samples = planned_samples(self.fit, view, [node], 1)[0]
        batch = min(max(1, int(samples / self.steps + 0.5)), self.max_batch)
        most = self.steps if batch < self.max_batch else MOST_STEPS
        steps = max(1, min(most, int(samples / batch + 1e-9)))
        return {"local-steps": steps, "batch-size": batch}


def longest_stay(
    view: View, nodes: Sequence[int], q: float, limit_s: float, halvings: int = 12
) -> NDArray[np.float64]:
    """The longest duration up to ``limit_s`` that each node stays for with probability q.

    Args:
        view: holds the forecast.
        nodes: n node ids.
        q: the probability.
        limit_s: longest duration, seconds.
        halvings: steps of the bisection; the answer falls short by at most limit_s / 2^halvings.

    Returns:
        Seconds, float64 [n]; 0 if even the shortest duration is less probable than q.
    """
    ids = np.array(nodes, dtype=np.int64)
    low = np.zeros(len(ids))
    if not len(ids):
        return low
    whole = view.outlook.p_stay(nodes, limit_s) >= q
    low[whole] = limit_s
    high = np.full(len(ids), limit_s)
    for _ in range(halvings):
        middle = (low + high) / 2.0
        for duration in np.unique(middle[~whole]):
            group = np.flatnonzero(~whole & (middle == duration))
            enough = view.outlook.p_stay(ids[group].tolist(), float(duration)) >= q
            low[group[enough]] = duration
            high[group[~enough]] = duration
    return low


def _check_seconds(seconds: float | None) -> None:
    if seconds is not None and not 0.0 < seconds < math.inf:
        raise ValueError(f"seconds must be above 0 (or null), got {seconds}")


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
