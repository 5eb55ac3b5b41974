"""The engine for several cores: clients run in worker processes that live as long as the run."""

from __future__ import annotations

import atexit
import logging
import math
import multiprocessing
import os
import pickle
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp

from fedhive.engines.base import Job
from fedhive.engines.cores import usable_cores
from fedhive.engines.execute import load_app
from fedhive.engines.letters import Desk, Reader
from fedhive.engines.threads import OneThread
from fedhive.engines.wire import Channel, Memory
from fedhive.engines.worker import RunConfig, serve, warm_up
from fedhive.errors import UserError
from fedhive.flower import CLIENT_CRASHED, CLIENT_RAISED, error_reply

log = logging.getLogger(__name__)

START_METHODS = ("fork", "spawn")
PATIENCE_S = 2.0
WORTH_A_LETTER_S = 0.002
"""Jobs shorter than this are sent several at a time."""

# A fork copies the pool's end of every lifeline into the child, which would then keep its
# siblings, and itself, alive after the pool's death.
_lifelines: set[Connection] = set()


def _cut_lifelines() -> None:
    for lifeline in _lifelines:
        lifeline.close()
    _lifelines.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cut_lifelines)


@dataclass(eq=False)
class _Worker:
    process: Any  # BaseProcess of whichever start method
    channel: Channel
    reader: Reader
    batch: list[int] = field(default_factory=list)
    since_s: float = 0.0
    ready: bool = False


@dataclass
class _Work:
    """The state of one ``run``."""

    jobs: Sequence[Job]
    queue: deque[list[int]]
    replies: dict[int, Message] = field(default_factory=dict)
    alone: set[int] = field(default_factory=set)

    def kind(self, i: int) -> str:
        return str(self.jobs[i].message.metadata.message_type)


class PoolEngine:
    """Runs clients in worker processes, with one torch thread each.

    Without a cohort the same jobs give the same bits for any number of workers.

    Args:
        workers: how many; None: one for each physical core that this process may use.
        cohort: train the clients of a worker together by stacking their models.
        start_method: ``fork`` (data and code are loaded once, in this process) or ``spawn``;
            None: fork on Linux, unless CUDA is in use already, else spawn.

    Raises:
        UserError: for an impossible argument.
    """

    name = "pool"

    def __init__(
        self, workers: int | None = None, cohort: bool = False, start_method: str | None = None
    ) -> None:
        if workers is not None and workers < 1:
            raise UserError(f"engine.workers: must be at least 1 (or null), got {workers}")
        if start_method not in (None, *START_METHODS):
            raise UserError(f"engine.start_method: {start_method!r} is not fork, spawn or null")
        if sys.platform == "win32":
            raise UserError("engine=pool: needs Linux or macOS; use engine=local or engine=ray")
        self.workers = workers if workers is not None else usable_cores()
        self.cohort, self.start_method = cohort, start_method
        self._app: ClientApp | None = None
        self._threads = OneThread()
        self._team: list[_Worker] = []
        self._pace_s: dict[str, float] = {}

    # ---- the engine protocol ------------------------------------------------------------------

    def open(self, client_app: str, run_config: RunConfig) -> None:
        """Load the ClientApp, let it load its data, start the workers."""
        if self._app is not None:
            raise RuntimeError("the engine is open already")
        app, self._method = load_app(client_app), _context(self.start_method)
        forking = self._method.get_start_method() == "fork"
        self._arguments = (client_app, dict(run_config), not forking)
        self._lifeline = self._method.Pipe(duplex=False)
        _lifelines.add(self._lifeline[1])
        self._selector = selectors.DefaultSelector()
        self._memory = Memory()
        self._desk = Desk(self._memory)
        self._threads.take()
        self._app = app
        atexit.register(self.close)
        try:
            if forking:
                warm_up(app, run_config)
            for _ in range(self.workers):
                self._hire()
            nothing = _Work((), deque())
            while not all(worker.ready for worker in self._team):
                self._wait(nothing)
        except BaseException:
            self.close()
            raise

    def run(self, jobs: Sequence[Job]) -> list[Message]:
        """Replies in the order of ``jobs``; a client that takes its worker down gives an error."""
        if self._app is None:
            raise RuntimeError("the engine is not open")
        work = _Work(jobs, deque(self._batches(jobs)))
        self._desk.begin()
        try:
            while len(work.replies) < len(jobs):
                for worker in [w for w in self._team if w.ready and not w.batch]:
                    if work.queue:
                        self._assign(worker, work)
                self._wait(work)
        finally:
            self._desk.end()
            for worker in [w for w in self._team if w.batch]:  # interrupted: their work is void
                worker.process.kill()
                self._replace(worker)
        return [work.replies[i] for i in range(len(jobs))]

    def close(self) -> None:
        """End the workers, also those that are busy, and free the shared memory."""
        if self._app is None:
            return
        self._app = None
        atexit.unregister(self.close)
        for worker in self._team:
            worker.channel.close()
            if worker.batch:
                worker.process.kill()
        _lifelines.discard(self._lifeline[1])
        self._lifeline[1].close()
        for worker in self._team:
            _bury(worker.process)
        self._team.clear()
        self._lifeline[0].close()
        self._selector.close()
        self._memory.close()
        self._threads.give_back()

    # ---- who does what ------------------------------------------------------------------------

    def _batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Job numbers for one worker each, in the order in which they are handed out."""
        costs = [_cost(self._app, job) for job in jobs]
        order = sorted(range(len(jobs)), key=lambda i: -costs[i])
        if not self.cohort or not hasattr(self._app, "train_many"):
            return [[i] for i in order]
        together = [i for i in order if jobs[i].message.metadata.message_type == "train"]
        chunks: list[list[int]] = [[] for _ in range(min(self.workers, len(together)))]
        loads = [0.0] * len(chunks)
        for i in together:
            lightest = loads.index(min(loads))
            chunks[lightest].append(i)
            loads[lightest] += costs[i]
        alone = set(order) - set(together)
        return [sorted(chunk) for chunk in chunks] + [[i] for i in order if i in alone]

    def _assign(self, worker: _Worker, work: _Work) -> None:
        batch = work.queue.popleft()
        cohort = len(batch) > 1
        if not cohort:
            batch = self._with_more(batch[0], work)
        try:
            letter = self._desk.write([work.jobs[i] for i in batch], cohort, worker.reader)
            worker.channel.send(letter)
            worker.batch, worker.since_s = batch, time.perf_counter()
        except OSError:  # it died while idle, which is no fault of this batch
            work.queue.appendleft(batch)
            self._replace(worker)

    def _with_more(self, first: int, work: _Work) -> list[int]:
        """The job with as many of the next ones as make it worth a letter."""
        kind, batch = work.kind(first), [first]
        share = math.ceil((1 + len(work.queue)) / len(self._team))
        wanted = min(share, WORTH_A_LETTER_S / self._pace_s.get(kind, WORTH_A_LETTER_S))
        while len(batch) < wanted and work.queue and first not in work.alone:
            following = work.queue[0]
            if len(following) > 1 or following[0] in work.alone or work.kind(following[0]) != kind:
                break
            batch += work.queue.popleft()
        return batch

    def _wait(self, work: _Work) -> None:
        for key, _ in self._selector.select():
            self._collect(key.data, work)

    def _collect(self, worker: _Worker, work: _Work) -> None:
        try:
            letters = worker.channel.receive()
        except (EOFError, OSError):
            self._lose(worker, work)
            return
        if not worker.ready:
            if isinstance(letters, Exception):
                raise letters
            worker.ready = True
            return
        for i, letter in zip(worker.batch, letters, strict=True):
            work.replies[i] = self._read(work.jobs[i], letter, worker.channel)
        seconds = time.perf_counter() - worker.since_s
        self._pace_s[work.kind(worker.batch[0])] = seconds / len(worker.batch)
        worker.batch = []

    def _read(self, job: Job, letter: bytes, channel: Channel) -> Message:
        try:
            return self._desk.read(job, pickle.loads(letter), channel)
        except Exception as error:
            reason = f"the reply cannot be read: {type(error).__name__}: {error}"
            return error_reply(job.message, CLIENT_RAISED, reason)

    def _lose(self, worker: _Worker, work: _Work) -> None:
        """A worker died: its job failed, or each of its jobs is tried alone to find which."""
        if not worker.ready:
            raise RuntimeError(f"a worker cannot start: {self._dismiss(worker)}")
        batch, reason = worker.batch, self._replace(worker)
        if len(batch) > 1:
            log.warning("a batch of %d clients failed: %s; one by one now", len(batch), reason)
            work.alone.update(batch)
            work.queue.extendleft([i] for i in reversed(batch))
        for i in batch if len(batch) == 1 else ():
            log.warning("client %s failed: %s", work.jobs[i].context.node_id, reason)
            work.replies[i] = error_reply(work.jobs[i].message, CLIENT_CRASHED, reason)

    # ---- processes ----------------------------------------------------------------------------

    def _hire(self) -> None:
        ours, theirs = self._method.Pipe()
        arguments = (theirs, self._lifeline[0], *self._arguments)
        process = self._method.Process(  # type: ignore[attr-defined]
            target=serve, args=arguments, name="fedhive-worker", daemon=False
        )
        # A Ctrl-C before the worker ignores them would end it with a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        channel = Channel(ours, self._memory)
        worker = _Worker(process, channel, Reader(channel))
        self._selector.register(ours, selectors.EVENT_READ, worker)
        self._team.append(worker)

    def _dismiss(self, worker: _Worker) -> str:
        """Forget a worker that is dead or dying; how it ended, in words."""
        self._selector.unregister(worker.channel.connection)
        worker.channel.close()
        self._team.remove(worker)
        return _bury(worker.process)

    def _replace(self, worker: _Worker) -> str:
        """A new worker for one that is dead or dying; how that ended, in words."""
        reason = self._dismiss(worker)
        self._hire()
        return reason


def _context(start_method: str | None) -> BaseContext:
    if start_method is None:
        cuda: Callable[[], bool] = torch.cuda.is_initialized
        forks = sys.platform == "linux" and not cuda()
        start_method = "fork" if forks else "spawn"
    return multiprocessing.get_context(start_method)


def _cost(app: ClientApp | None, job: Job) -> float:
    """Samples that the job will take, if the app can tell; else all jobs count the same."""
    plan = getattr(app, "plan", None)
    try:
        samples = float(plan(job.message, job.context).samples) if plan is not None else 1.0
    except Exception:  # the client will fail in the same way, and then it is reported
        return 1.0
    return samples if math.isfinite(samples) else 1.0


def _bury(process: Any) -> str:
    """Wait for a process to end, help it along if need be; how it ended, in words."""
    process.join(PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    code = int(process.exitcode)
    process.close()
    if code >= 0:
        return f"the client's process ended with exit status {code}"
    return f"the client's process was killed by {signal.Signals(-code).name}"
