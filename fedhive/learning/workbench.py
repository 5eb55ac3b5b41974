"""Everything a process needs to train: data, partition, model, local algorithm; made once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedhive import config, early, seeding
from fedhive.errors import UserError
from fedhive.learning import models, weights
from fedhive.learning.data import Dataset
from fedhive.learning.partition import split
from fedhive.learning.pooling import optimise
from fedhive.learning.sgd import LocalJob, LocalResult, LocalSGD, evaluate

if TYPE_CHECKING:
    from fedhive.learning.cohort import CohortSGD

Vectors = Mapping[str, Tensor]
"""Named vectors of P numbers each: control variates and the like."""


class LocalAlgorithm(Protocol):
    """The client's half of a training method, as chosen by the ``client`` group.

    ``options`` are the keyword arguments of `LocalSGD`; ``receives`` and ``sends`` name the
    vectors of P numbers that travel beside the model, down and up.
    """

    receives: ClassVar[tuple[str, ...]]
    sends: ClassVar[tuple[str, ...]]

    @property
    def batch_size(self) -> int:
        """Samples a step."""
        ...

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `LocalSGD` and `CohortSGD`."""
        ...

    def drift(self, received: Vectors, memory: Vectors) -> Tensor | None:
        """What is added to every gradient, float32 [P], or None."""
        ...

    def finish(
        self, received: Vectors, memory: Vectors, start: Tensor, result: LocalResult
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(vectors to send, vectors to remember until the next round) after local training."""
        ...


@dataclass(frozen=True)
class Work:
    """How much to train: whole passes over the data, or a number of steps.

    Args:
        samples: samples processed, with repetition.
        batches: length of each step's batch.
    """

    samples: int
    batches: tuple[int, ...]


@lru_cache(maxsize=65536)
def plan_work(n: int, batch_size: int, epochs: float | None, steps: int | None) -> Work:
    """The batches of a local training: every pass over the data ends with a shorter batch.

    Args:
        n: samples of the client.
        batch_size: samples a step.
        epochs: passes over the data, may be fractional; used if ``steps`` is None.
        steps: optimiser steps.

    Raises:
        ValueError: if neither is given, or the amount is not positive.
    """
    full, rest = divmod(n, batch_size)
    one_pass = (batch_size,) * full + ((rest,) if rest else ())
    if steps is not None:
        if steps < 1:
            raise ValueError(f"local-steps must be at least 1, got {steps}")
        passes, extra = divmod(steps, len(one_pass))
        batches = one_pass * passes + one_pass[:extra]
        return Work(sum(batches), batches)
    if epochs is None or not 0 < epochs < 1e6:
        raise ValueError(f"local-epochs must be above 0, got {epochs}")
    passes = int(epochs)
    left = round((epochs - passes) * n)
    full, rest = divmod(left, batch_size)
    batches = one_pass * passes + (batch_size,) * full + ((rest,) if rest else ())
    if not batches:
        batches = (min(n, batch_size),)
    return Work(sum(batches), batches)


def shuffled(n: int, samples: int, rng: np.random.Generator) -> Tensor:
    """Which sample is seen when: one permutation after the other, int64 [samples]."""
    passes = [rng.permutation(n) for _ in range(-(-samples // n))]
    return torch.from_numpy(np.concatenate(passes)[:samples])


class Workbench:
    """What a composed configuration means for learning.

    Args:
        text: the configuration as JSON text.

    Raises:
        UserError: for anything in it that cannot be made.
    """

    def __init__(self, text: str) -> None:
        self.text, cfg = text, config.loads(text)
        self.cfg = cfg
        self.seed = int(cfg["seed"])
        self.nodes = int(cfg["nodes"])
        self.algorithm: LocalAlgorithm = config.build(cfg["client"], "client")

    @cached_property
    def data(self) -> Dataset:
        """The data set, loaded and normalised."""
        ready: Dataset | None = early.loaded(self.cfg["data"])
        dataset: Dataset = config.build(self.cfg["data"], "data") if ready is None else ready
        return dataset

    @cached_property
    def parts(self) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        """Each client's training indices."""
        partition = config.build(self.cfg["partition"], "partition")
        return split(partition, self.data.y_train, self.data.groups, self.nodes, self.seed)

    @cached_property
    def model(self) -> nn.Module:
        """The network with its initial weights."""
        shape = tuple(int(size) for size in self.data.x_train.shape[1:])
        factory = config.build(self.cfg["model"], "model")
        try:
            model: nn.Module = models.build(factory, shape, len(self.data.classes), self.seed)
        except (ValueError, TypeError) as error:
            raise UserError(f"model: {error}") from error
        return model

    @cached_property
    def layout(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the parameters, in state-dict order."""
        return [(name, tuple(t.shape)) for name, t in self.model.state_dict().items()]

    @cached_property
    def initial(self) -> Tensor:
        """The initial weights, float32 [P]: the model's own, or those of ``init_from``."""
        source = self.cfg.get("init_from")
        if source is None:
            return models.flatten(self.model)
        return torch.from_numpy(weights.load(source, self.layout))

    @cached_property
    def _test(self) -> tuple[nn.Module, Tensor, Tensor]:
        return (
            optimise(self.model),
            torch.from_numpy(self.data.x_test),
            torch.from_numpy(self.data.y_test),
        )

    @cached_property
    def _trainer(self) -> LocalSGD:
        return LocalSGD(self.model, **self.algorithm.options())

    @cached_property
    def _cohort(self) -> CohortSGD:
        from fedhive.learning.cohort import CohortSGD

        return CohortSGD(self.model, **self.algorithm.options())

    @cached_property
    def no_cohort(self) -> str | None:
        """Why the model cannot be trained as a cohort; None if it can."""
        from fedhive.learning.cohort import supports

        return supports(self.model)

    @cached_property
    def _stacked_alone(self) -> bool:
        from fedhive.learning.cohort import faster_alone

        return faster_alone(self.model)

    @cached_property
    def _samples(self) -> dict[int, tuple[bytes | None, Tensor, Tensor]]:
        return {}

    def samples(self, client: int, rows: bytes | None = None) -> tuple[Tensor, Tensor]:
        """A client's inputs [n, ...] and labels [n], gathered once.

        Args:
            client: its number.
            rows: the training rows that it holds, as bytes of an int32 array; None for its share
                of the partition.

        Raises:
            ValueError: if ``rows`` are not rows of the training data.
        """
        held = self._samples.get(client)
        if held is None or held[0] != rows:
            index = self._rows(client, rows)
            x, y = self.data.x_train[index], self.data.y_train[index]
            held = rows, torch.from_numpy(x), torch.from_numpy(y)
            self._samples[client] = held
        return held[1], held[2]

    def _rows(self, client: int, rows: bytes | None) -> np.ndarray[Any, np.dtype[np.int64]]:
        if rows is None:
            return self.parts[client]
        index = np.frombuffer(rows, np.int32).astype(np.int64)
        if not len(index) or index.min() < 0 or index.max() >= len(self.data.y_train):
            raise ValueError("the rows that were sent are not rows of the training data")
        return index

    def _size(self, client: int, rows: bytes | None) -> int:
        return len(self.parts[client]) if rows is None else len(rows) // 4

    def work(self, client: int, task: Mapping[str, Any], rows: bytes | None = None) -> Work:
        """How much a client has to do, by the instruction's settings.

        ``local-epochs`` or ``local-steps`` say how much, ``stop-after-steps`` cuts it short,
        ``batch-size`` replaces the algorithm's own.

        Raises:
            ValueError: if an amount is missing or not positive.
        """
        steps, epochs = task.get("local-steps"), task.get("local-epochs")
        batch_size = int(task.get("batch-size", self.algorithm.batch_size))
        if batch_size < 1:
            raise ValueError(f"batch-size must be at least 1, got {batch_size}")
        work = plan_work(
            self._size(client, rows),
            batch_size,
            None if epochs is None else float(epochs),
            None if steps is None else int(steps),
        )
        stop = task.get("stop-after-steps")
        if stop is None or int(stop) >= len(work.batches):
            return work
        batches = work.batches[: max(1, int(stop))]
        return Work(sum(batches), batches)

    def job(
        self,
        client: int,
        task: Mapping[str, Any],
        drift: Tensor | None,
        rows: bytes | None = None,
    ) -> LocalJob:
        """A client's training in one round, in the order of its own random stream."""
        x, y = self.samples(client, rows)
        work = self.work(client, task, rows)
        rng = seeding.stream(self.seed, "batches", int(task.get("server-round", 0)), client)
        factor = float(task.get("lr-factor", 1.0))
        if not 0.0 <= factor <= 1e6:
            raise ValueError(f"lr-factor must not be negative, got {factor}")
        return LocalJob(x, y, shuffled(len(y), work.samples, rng), work.batches, drift, factor)

    def evaluated(self, client: int, task: Mapping[str, Any], rows: bytes | None = None) -> int:
        """How many of its examples a client evaluates: ``evaluate-samples``, or all."""
        size, asked = self._size(client, rows), task.get("evaluate-samples")
        return size if asked is None else max(1, min(size, int(asked)))

    def test_batch(
        self, client: int, task: Mapping[str, Any], rows: bytes | None = None
    ) -> tuple[Tensor, Tensor]:
        """The examples that a client evaluates, inputs [m, ...] and labels [m]."""
        x, y = self.samples(client, rows)
        m = self.evaluated(client, task, rows)
        if m == len(y):
            return x, y
        rng = seeding.stream(self.seed, "evaluate", int(task.get("server-round", 0)), client)
        chosen = torch.from_numpy(np.sort(rng.choice(len(y), m, replace=False)))
        return x[chosen], y[chosen]

    def train(self, params: Tensor, jobs: Sequence[LocalJob], cohort: bool) -> list[LocalResult]:
        """Train clients from ``params`` (float32 [P]), stacked if asked for and possible.

        One after the other they also go through the stacked kernels, one client at a time, where
        those are the faster ones.
        """
        if cohort and self.no_cohort is None and len({job.lr_factor for job in jobs}) == 1:
            return self._cohort.run(params, jobs)
        if self._stacked_alone:
            return [result for job in jobs for result in self._cohort.run(params, [job])]
        return [self._trainer.run(params, job) for job in jobs]

    def evaluate(self, params: Tensor) -> tuple[float, float]:
        """(loss, accuracy) on the test set."""
        model, x, y = self._test
        return evaluate(model, params, x, y)

    def evaluate_on(self, params: Tensor, x: Tensor, y: Tensor) -> tuple[float, float]:
        """(loss, accuracy) on any examples."""
        return evaluate(self._test[0], params, x, y)


@lru_cache(maxsize=2)
def workbench(text: str) -> Workbench:
    """The process's workbench for a configuration given as JSON text."""
    return Workbench(text)


def sha256(params: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    """Hash of the parameters' bytes, in state-dict order."""
    return hashlib.sha256(np.ascontiguousarray(params).tobytes()).hexdigest()
