"""What a worker process of the pool does all day."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

from flwr.app import Message
from flwr.clientapp import ClientApp

from fedhive import guard
from fedhive.engines.execute import load_app, run_jobs
from fedhive.engines.letters import Batch, Mailbox, Opened
from fedhive.engines.threads import OneThread
from fedhive.engines.wire import Channel, Memory
from fedhive.errors import UserError
from fedhive.flower import CLIENT_RAISED, error_reply, quiet_logs

log = logging.getLogger(__name__)

READY = "ready"
RunConfig = Mapping[str, bool | float | int | str]


def serve(
    connection: Connection,
    lifeline: Connection,
    client_app: str,
    run_config: RunConfig,
    warm: bool,
) -> None:
    """Answer batches until the pool hangs up; the first message says `READY`, or why not.

    Args:
        connection: to the pool.
        lifeline: readable as soon as the pool's process is gone; then this one goes too, even in
            the middle of a client's work.
        client_app: as for an engine's ``open``.
        run_config: likewise.
        warm: whether this process has yet to load what clients share.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pool's affair
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow, args=(lifeline,), daemon=True).start()
    quiet_logs()
    OneThread().take()
    channel = Channel(connection, Memory())
    mailbox = Mailbox(channel)
    try:
        guard.check()
        app = load_app(client_app)
        if warm:
            warm_up(app, run_config)
    except Exception as error:
        channel.send(error if isinstance(error, UserError) else RuntimeError(f"{error!r}"))
        return
    try:
        channel.send(READY)
        while True:
            channel.send(_work(app, mailbox, channel.receive()))
    except (EOFError, OSError):
        log.debug("the pool hung up")


def warm_up(app: ClientApp, run_config: RunConfig) -> None:
    """Let the app load what its clients share, if it knows how to."""
    warm = getattr(app, "warm", None)
    if warm is not None:
        warm(run_config)


def _follow(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _work(app: ClientApp, mailbox: Mailbox, batch: Batch) -> list[bytes]:
    opened = mailbox.open(batch)
    replies = _replies(app, opened, batch.cohort)
    return [_answer(mailbox, *pair) for pair in zip(opened, replies, strict=True)]


def _replies(app: ClientApp, opened: Sequence[Opened], cohort: bool) -> list[Message]:
    jobs = [each.job for each in opened]
    try:
        return run_jobs(app, jobs, cohort)
    except Exception as error:
        log.debug("a batch of %d failed", len(jobs), exc_info=True)
        return [error_reply(job.message, CLIENT_RAISED, f"{error!r}") for job in jobs]


def _answer(mailbox: Mailbox, opened: Opened, reply: Message) -> bytes:
    try:
        return mailbox.answer(opened, reply)
    except Exception as error:
        reason = f"the reply cannot be sent: {type(error).__name__}: {error}"
        opened.job.context.state.clear()
        return mailbox.answer(opened, error_reply(opened.job.message, CLIENT_RAISED, reason))
