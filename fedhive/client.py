"""The honest trainer: what a machine does with a message, in every engine and on real devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedhive.compose import text_of
from fedhive.config import RUN_CONFIG_KEY
from fedhive.errors import UserError
from fedhive.flower import flatten_record, from_flat, payload_bytes, records_of
from fedhive.learning.sgd import LocalJob, LocalResult
from fedhive.learning.workbench import Workbench, workbench
from fedhive.world.instructions import ROWS, settings_of
from fedhive.world.task import Plan

FORWARD_SHARE = 1.0 / 3.0
"""Cost of evaluating a sample relative to training on it: forward, without the two backward
passes (Hoffmann et al. 2022, appendix F: backward costs twice the forward)."""
REPLY_METRICS_BYTES = 80
TRAINER = "trainer"
"""Attribute of a context under which a mod may hand on another trainer, see `_trained`."""
PLACEMENT = "placement"
"""Record of a client's memory that holds the rows it was dealt."""


def bench_of(context: Context) -> Workbench:
    """The workbench that a node's run config asks for; the quickstart's if it asks for nothing."""
    return workbench(text_of(context.run_config))


def client_number(context: Context) -> int:
    """Which partition this node holds."""
    return int(context.node_config["partition-id"])


def task_of(message: Message) -> ConfigRecord:
    """The instruction's settings (``server-round``, ``local-epochs``, ...)."""
    return settings_of(message)


def rows_of(message: Message, context: Context) -> bytes | None:
    """Training rows that the server has dealt to this node, in this instruction or before it.

    None for a node that trains on its own share. See ``strategies.placement``.
    """
    sent = task_of(message).get(ROWS)
    if isinstance(sent, bytes):
        return sent
    held = context.state.get(PLACEMENT)
    rows = held.get(ROWS) if isinstance(held, ConfigRecord) else None
    return rows if isinstance(rows, bytes) else None


@dataclass
class _Session:
    """One client's training between receiving and replying."""

    message: Message
    context: Context
    bench: Workbench
    client: int
    params: Tensor
    received: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    job: LocalJob


def _vector(record: ArrayRecord, size: int) -> Tensor:
    name = next(iter(record))
    return torch.from_numpy(flatten_record(record, [(name, (size,))]))


def _open(message: Message, context: Context) -> _Session:
    bench, client = bench_of(context), client_number(context)
    params = torch.from_numpy(flatten_record(_arrays(message), bench.layout))
    size = params.numel()
    algorithm = bench.algorithm
    records = records_of(message.content, ArrayRecord)
    missing = [name for name in algorithm.receives if name not in records]
    if missing:
        raise UserError(f"the server did not send {missing[0]!r}, which this client needs")
    received = {name: _vector(records[name], size) for name in algorithm.receives}
    memory = {
        name.removeprefix("memory."): _vector(record, size)
        for name, record in records_of(context.state, ArrayRecord).items()
        if name.startswith("memory.")
    }
    rows = rows_of(message, context)
    job = bench.job(client, task_of(message), algorithm.drift(received, memory), rows)
    if rows is not None:
        context.state[PLACEMENT] = ConfigRecord({ROWS: rows})
    return _Session(message, context, bench, client, params, received, memory, job)


def _arrays(message: Message) -> ArrayRecord:
    records = records_of(message.content, ArrayRecord)
    if "arrays" in records:
        return records["arrays"]
    if len(records) != 1:
        raise ValueError("the message carries no ArrayRecord called 'arrays'")
    return next(iter(records.values()))


def _close(session: _Session, result: LocalResult) -> Message:
    extra, memory = session.bench.algorithm.finish(
        session.received, session.memory, session.params, result
    )
    content = RecordDict()
    content["arrays"] = from_flat(result.params.numpy(), session.bench.layout)
    for name, vector in extra.items():
        content[name] = _vector_record(name, vector)
    for name, vector in memory.items():
        session.context.state[f"memory.{name}"] = _vector_record(name, vector)
    content["metrics"] = MetricRecord(
        {
            "num-examples": len(session.job.y),
            "train-loss": result.loss,
            "steps": result.steps,
            "samples": result.samples,
        }
    )
    return Message(content, reply_to=session.message)


def _vector_record(name: str, vector: Tensor) -> ArrayRecord:
    values: np.ndarray[tuple[int], np.dtype[np.float32]] = vector.numpy()
    return from_flat(values, [(name, (values.size,))])


def train(message: Message, context: Context) -> Message:
    """Train from the received model on this node's data; reply with weights and metrics."""
    session = _open(message, context)
    return _close(session, _trained(session))


def _trained(session: _Session) -> LocalResult:
    """One client's training, by the trainer that a mod put into its context if there is one.

    Such a trainer, ``(bench, params, job) -> LocalResult``, is how an attack poisons data.
    """
    trainer = vars(session.context).get(TRAINER)
    if trainer is not None:
        result: LocalResult = trainer(session.bench, session.params, session.job)
        return result
    [result] = session.bench.train(session.params, [session.job], cohort=False)
    return result


def evaluate(message: Message, context: Context) -> Message:
    """Loss and accuracy of the received model on this node's data, or some of it.

    ``evaluate-samples`` asks for so many examples, drawn at random; without it all count.
    """
    bench, client = bench_of(context), client_number(context)
    params = torch.from_numpy(flatten_record(_arrays(message), bench.layout))
    x, y = bench.test_batch(client, task_of(message), rows_of(message, context))
    loss, accuracy = bench.evaluate_on(params, x, y)
    metrics = MetricRecord({"num-examples": len(y), "loss": loss, "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def train_many(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
    """`train` for several nodes at once; all must have been sent the same model."""
    sessions = [_open(*pair) for pair in zip(messages, contexts, strict=True)]
    first = sessions[0].params
    if any(session.params.data_ptr() != first.data_ptr() for session in sessions):
        # Somebody was sent another model (asynchronous training, a personal model): no cohort.
        return [train(*pair) for pair in zip(messages, contexts, strict=True)]
    usual = [session for session in sessions if TRAINER not in vars(session.context)]
    jobs = [session.job for session in usual]
    results = iter(sessions[0].bench.train(first, jobs, cohort=True) if jobs else [])
    return [
        _close(session, _trained(session) if TRAINER in vars(session.context) else next(results))
        for session in sessions
    ]


def plan(message: Message, context: Context) -> Plan | None:
    """What a task will take, known before doing it; None for messages of unknown kinds."""
    bench, client = bench_of(context), client_number(context)
    kind, rows = message.metadata.message_type, rows_of(message, context)
    if kind == "evaluate":
        samples = bench.evaluated(client, task_of(message), rows)
        return Plan(FORWARD_SHARE * samples, 1, REPLY_METRICS_BYTES)
    if kind != "train":
        return None
    work = bench.work(client, task_of(message), rows)
    model_bytes = payload_bytes(RecordDict({"arrays": _arrays(message)}))
    size = model_bytes * (1 + len(bench.algorithm.sends)) + REPLY_METRICS_BYTES
    return Plan(work.samples, len(work.batches), size)


class HiveClientApp(ClientApp):
    """A ClientApp that can train several nodes at once and say beforehand what work takes."""

    def train_many(
        self, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Message]:
        """Replies of several nodes' training; used by engines with a cohort."""
        from fedhive.chain import run_together

        return run_together(messages, contexts, train_many)

    def plan(self, message: Message, context: Context) -> Plan | None:
        """What a task will take, or None if only doing it tells."""
        from fedhive.chain import sealed_bytes

        found = plan(message, context)
        if found is None or message.metadata.message_type != "train":
            return found
        extra = sealed_bytes(context)
        return replace(found, reply_bytes=found.reply_bytes + extra) if extra else found

    def warm(self, run_config: Mapping[str, bool | float | int | str]) -> None:
        """Load data and model before worker processes are forked."""
        text = run_config.get(RUN_CONFIG_KEY)
        if isinstance(text, str) and text:
            bench = workbench(text)
            for client in range(bench.nodes):
                bench.samples(client)
            _ = bench.layout
