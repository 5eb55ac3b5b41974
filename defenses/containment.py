"""Malformed replies are dropped before anything looks at them.

Always on, before any rule. A reply is accepted only if it carries exactly the records that were
asked for, with the model's names, shapes and dtype, finite numbers, and a plausible number of
examples. It never raises out of a strategy; the reason of a refusal goes into the run's events.

The numbers of examples of a cohort are bounded besides: one client that claims a million would
else own an average that is weighted by them.

What it does not do: a well-formed lie passes. That is what robust aggregation is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedhive.flower import Layout, Malformed, flatten_record

METRICS = {"num-examples", "train-loss", "train-loss-rms", "steps", "samples"}
MOST = 1e12  # more steps or samples than this are nonsense
SMALL = 20  # a cohort with fewer replies does not say by itself how many examples are usual


@dataclass(frozen=True)
class Update:
    """A reply that may be combined.

    Args:
        model: float32 [P], finite; possibly a view of the reply's memory.
        examples: training examples, within the bound.
        loss: reported training loss, None if absent or not finite.
        extra: further vectors of P numbers, finite, by name.
        loss_rms: reported root mean square of the samples' losses, likewise.
        steps: reported optimiser steps, None if absent or implausible.
        samples: reported samples trained on, counted with repetition, likewise.
    """

    model: NDArray[np.float32]
    examples: int
    loss: float | None
    extra: dict[str, NDArray[np.float32]]
    loss_rms: float | None = None
    steps: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Containment:
    """Bounds that every reply must keep.

    Args:
        max_examples: more training examples than this are refused as implausible.
        max_norm: largest Euclidean norm of the change to the model; null for no bound.
        metrics: names of further metrics that clients may report.
        examples_quantile: in (0, 1]: the usual number of examples is this quantile of what the
            cohort's clients report; if they are fewer than 20, also of what others reported last.
        examples_factor: numbers above so many times the usual one are cut to that; null for never.
        max_strikes: an identity that has sent so many refused replies is expelled: not asked any
            more, and not listened to; null for never.
    """

    max_examples: int = 1_000_000
    max_norm: float | None = None
    metrics: tuple[str, ...] = ()
    examples_quantile: float = 0.5
    examples_factor: float | None = 10.0
    max_strikes: int | None = None

    def __post_init__(self) -> None:
        if self.max_examples < 1:
            raise ValueError(f"max_examples must be at least 1, got {self.max_examples}")
        if self.max_norm is not None and not self.max_norm > 0.0:
            raise ValueError(f"max_norm must be above 0 (or null), got {self.max_norm}")
        if not 0.0 < self.examples_quantile <= 1.0:
            raise ValueError(f"examples_quantile must be in (0, 1], got {self.examples_quantile}")
        if self.examples_factor is not None and not self.examples_factor >= 1.0:
            raise ValueError(f"examples_factor must be at least 1, got {self.examples_factor}")
        if self.max_strikes is not None and self.max_strikes < 1:
            raise ValueError(f"max_strikes must be at least 1, got {self.max_strikes}")

    def open(
        self,
        content: RecordDict,
        layout: Layout,
        extra: Sequence[str] = (),
        current: NDArray[np.float32] | None = None,
    ) -> Update:
        """The update that a reply carries.

        Args:
            content: what the client sent.
            layout: names and shapes of the model's parameters.
            extra: names of the vectors that must come beside the model.
            current: the model it was sent, for ``max_norm``.

        Raises:
            Malformed: saying what is wrong with it.
        """
        wanted = {"arrays", "metrics", *extra}
        if set(content.keys()) != wanted:
            odd = sorted(wanted.symmetric_difference(content.keys()))[0]
            kind = "missing" if odd in wanted else "unexpected"
            raise Malformed(f"{kind} record {odd[:80]!r}")
        model = self._vector(content["arrays"], layout, "arrays")
        flat = [("", (model.size,))]
        vectors = {}
        for name in extra:
            record = content[name]
            keys = list(record.keys()) if isinstance(record, ArrayRecord) else []
            flat = [(keys[0] if len(keys) == 1 else name, (model.size,))]
            vectors[name] = self._vector(record, flat, name)
        if self.max_norm is not None and current is not None:
            norm = float(np.linalg.norm(model.astype(np.float64) - current))
            if norm > self.max_norm:
                raise Malformed(f"the update's norm is {norm:.3g}, above {self.max_norm:g}")
        metrics = self._metrics(content["metrics"])
        examples = metrics["num-examples"]
        assert isinstance(examples, int | float)
        return Update(
            model, int(examples), _finite(metrics.get("train-loss")), vectors,
            loss_rms=_finite(metrics.get("train-loss-rms")),
            steps=_count(metrics.get("steps")), samples=_count(metrics.get("samples")),
        )  # fmt: skip

    def bounded(
        self, updates: Mapping[int, Update], known: Mapping[int, int | None]
    ) -> dict[int, Update]:
        """The updates of a cohort, their numbers of examples cut to what is usual.

        Args:
            updates: by node.
            known: how many examples each node reported last, before this cohort; None for never.
        """
        if self.examples_factor is None or not updates:
            return dict(updates)
        counts: dict[int, int] = {}
        if len(updates) < SMALL:
            counts = {node: count for node, count in known.items() if count is not None}
        counts |= {node: update.examples for node, update in updates.items()}
        usual = np.quantile(list(counts.values()), self.examples_quantile, method="lower")
        most = max(1, math.floor(self.examples_factor * usual))
        return {
            node: replace(update, examples=most) if update.examples > most else update
            for node, update in updates.items()
        }

    def screen(self, replies: Sequence[Message], layout: Layout) -> list[tuple[Message, str]]:
        """(reply, reason) of every reply with content that must not be combined."""
        refused = []
        for reply in replies:
            if reply.has_error():
                continue
            try:
                self.open(reply.content, layout)
            except Malformed as error:
                refused.append((reply, str(error)))
        return refused

    def _vector(self, record: object, layout: Layout, name: str) -> NDArray[np.float32]:
        if not isinstance(record, ArrayRecord):
            raise Malformed(f"record {name!r} is not an ArrayRecord")
        vector = flatten_record(record, layout)
        # A float64 sum of finite float32 numbers is finite: one pass finds any NaN or infinity.
        with np.errstate(invalid="ignore"):  # inf - inf
            total = float(np.sum(vector, dtype=np.float64))
        if not math.isfinite(total):
            raise Malformed(f"record {name!r} holds NaN or infinity")
        return vector

    def _metrics(self, record: object) -> MetricRecord:
        if not isinstance(record, MetricRecord):
            raise Malformed("record 'metrics' is not a MetricRecord")
        unknown = set(record.keys()) - METRICS - set(self.metrics)
        if unknown:
            raise Malformed(f"unexpected metric {min(unknown)[:80]!r}")
        examples = record.get("num-examples")
        if isinstance(examples, bool) or not isinstance(examples, int | float):
            raise Malformed("metric 'num-examples' is missing or not a number")
        if not 1 <= examples <= self.max_examples:
            raise Malformed(f"{examples} examples is not between 1 and {self.max_examples}")
        return record


def _finite(value: object) -> float | None:
    good = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if good and isinstance(value, int | float) else None


def _count(value: object) -> int | None:
    good = isinstance(value, int | float) and 0 <= value <= MOST
    return int(value) if good and isinstance(value, int | float) else None
