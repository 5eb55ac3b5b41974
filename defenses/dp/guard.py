"""What a client of a private run keeps to itself, besides adding noise."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ConfigRecord, Context, Message, MetricRecord

from defenses.dp.accountant import History, Spent, merged
from fedhive.errors import UserError
from fedhive.flower import records_of

ACCOUNT = "privacy"
"""Record of a client's memory that holds what its data has been used for so far."""
SECRET_METRICS = ("train-loss", "train-loss-rms")


def refuse_questions(message: Message) -> None:
    """Refuse to tell anything exact about the data.

    Raises:
        UserError: for a request to evaluate a model.
    """
    if message.metadata.message_type == "evaluate":
        raise UserError("this client's data is protected: it does not evaluate models on it")


def without_secrets(reply: Message) -> Message:
    """The reply without the metrics that tell something exact about the data."""
    if reply.has_content():
        for metrics in records_of(reply.content, MetricRecord).values():
            for name in SECRET_METRICS:
                metrics.pop(name, None)
    return reply


def account_of(context: Context) -> History:
    """What this client's data has been used for in all its rounds so far."""
    record = context.state.get(ACCOUNT)
    if not isinstance(record, ConfigRecord):
        return ()
    columns: list[Sequence[float]] = []
    for name in ("noise", "rates", "steps"):
        column = record[name]
        assert isinstance(column, list)
        columns.append([float(value) for value in column])
    rows = zip(*columns, strict=True)
    return merged(Spent(noise, rate, int(steps)) for noise, rate, steps in rows)


def spend(context: Context, spent: Spent) -> None:
    """Note in the client's memory, which outlives rounds, that its data is being used."""
    history = merged([*account_of(context), spent])
    context.state[ACCOUNT] = ConfigRecord(
        {
            "noise": [float(one.noise_multiplier) for one in history],
            "rates": [float(one.rate) for one in history],
            "steps": [int(one.steps) for one in history],
        }
    )
