"""What stands between a node and its trainer: attacks, clipping, noise, compression, encryption.

Flower fixes an app's mods when its module is imported, before the configuration is known. So the
ClientApp registers one mod, `dispatch`, which builds the configured chain for the node at hand.
The chain's order is wire order: the last mod touches the reply first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from flwr.app import Context, Message

from fedhive import config
from fedhive.client import bench_of, client_number
from fedhive.engines.execute import as_message
from fedhive.flower import CLIENT_RAISED, Layout, error_reply

Handler = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Handler], Message]
Batch = Callable[[Sequence[Message], Sequence[Context]], list[Message]]


class Adversary(Protocol):
    """Who is malicious and what such a machine does with its messages (group ``attack``)."""

    def members(self, nodes: int, seed: int) -> frozenset[int]:
        """Numbers of the malicious machines among ``nodes``."""
        ...

    def mods(self) -> Sequence[Mod]:
        """What each of them runs around the honest trainer."""
        ...


class Shield(Protocol):
    """Who may see what of a client's update (group ``protection``)."""

    def mods(self, node_number: int) -> Sequence[Mod]:
        """What machine ``node_number`` runs around its trainer, outside any attack."""
        ...

    def answer(self, message: Message, context: Context) -> Message:
        """A node's answer to a query of the server's half."""
        ...

    def sealed_bytes(self, node_number: int, layout: Layout) -> int:
        """What a reply of that machine takes on the wire beside the model."""
        ...


@lru_cache(maxsize=4)
def _shield(text: str) -> Shield | None:
    shield: Shield | None = config.build(config.loads(text).get("protection"), "protection")
    return shield


@lru_cache(maxsize=4)
def _adversary(text: str) -> tuple[frozenset[int], tuple[Mod, ...]]:
    cfg = config.loads(text)
    adversary: Adversary | None = config.build(cfg.get("attack"), "attack")
    if adversary is None:
        return frozenset(), ()
    members = adversary.members(int(cfg["nodes"]), int(cfg["seed"]))
    return members, tuple(adversary.mods())


def chain_of(context: Context) -> tuple[Mod, ...]:
    """The mods of one node, outermost first; empty for an honest, unprotected node.

    A liar's protection is outside its lies: what it makes up is hidden like anybody's update.
    """
    text, number = bench_of(context).text, client_number(context)
    members, mods = _adversary(text)
    own = mods if number in members else ()
    shield = _shield(text)
    return own if shield is None else (*shield.mods(number), *own)


def sealed_bytes(context: Context) -> int:
    """What protection adds to a training reply of this node, bytes."""
    bench = bench_of(context)
    shield = _shield(bench.text)
    return 0 if shield is None else shield.sealed_bytes(client_number(context), bench.layout)


def answer(message: Message, context: Context) -> Message:
    """A node's answer to a query of the protection's server.

    Raises:
        ValueError: if there is no protection, or it answers no queries.
    """
    shield = _shield(bench_of(context).text)
    if shield is None:
        raise ValueError("this run has no protection, and nothing to answer for it")
    return shield.answer(message, context)


def wrap(mods: Sequence[Mod], handler: Handler) -> Handler:
    """The handler inside the mods."""
    for mod in reversed(mods):
        handler = _bind(mod, handler)
    return handler


def _bind(mod: Mod, inner: Handler) -> Handler:
    return lambda message, context: mod(message, context, inner)


def dispatch(message: Message, context: Context, call_next: Handler) -> Message:
    """The one mod the ClientApp registers: runs the node's configured chain."""
    if message.metadata.message_type.startswith("query"):
        return call_next(message, context)
    return wrap(chain_of(context), call_next)(message, context)


def run_together(
    messages: Sequence[Message], contexts: Sequence[Context], batch: Batch
) -> list[Message]:
    """Replies of several nodes whose innermost calls are answered by one ``batch`` call.

    Nodes with a chain wait inside it, each in its own thread, until all have reached their
    trainer; then the batch runs once and the chains go on.
    """
    chains = [chain_of(context) for context in contexts]
    if not any(chains):
        return batch(messages, contexts)
    gate = _Gate(len(messages), batch)
    replies: list[Message | None] = [None] * len(messages)

    def run(i: int) -> None:
        inner = _Inner(gate, i)
        try:
            replies[i] = as_message(wrap(chains[i], inner)(messages[i], contexts[i]))
        except Exception as error:
            replies[i] = error_reply(
                messages[i], CLIENT_RAISED, f"{type(error).__name__}: {error}"
            )
        finally:
            gate.pass_by(i)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(messages))]
    for thread in threads:
        thread.start()
    gate.serve()
    for thread in threads:
        thread.join()
    return [reply for reply in replies if reply is not None]


class _Gate:
    """Collects the inner messages of all chains and answers them with one batch call."""

    def __init__(self, expected: int, batch: Batch) -> None:
        self.batch, self.waiting = batch, expected
        self.inner: dict[int, tuple[Message, Context]] = {}
        self.answers: dict[int, Message] = {}
        self.passed: set[int] = set()
        self.failure: Exception | None = None
        self.changed = threading.Condition()
        self.served = threading.Event()

    def ask(self, i: int, message: Message, context: Context) -> Message:
        with self.changed:
            if i in self.passed:
                raise RuntimeError("a mod called the trainer twice; cohorts answer only once")
            self.passed.add(i)
            self.inner[i] = (message, context)
            self.changed.notify()
        self.served.wait()
        if self.failure is not None:
            raise self.failure
        return self.answers[i]

    def pass_by(self, i: int) -> None:
        with self.changed:
            self.passed.add(i)
            self.changed.notify()

    def serve(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: len(self.passed) == self.waiting)
        keys = sorted(self.inner)
        try:
            if keys:
                pairs = [self.inner[i] for i in keys]
                replies = self.batch([m for m, _ in pairs], [c for _, c in pairs])
                self.answers = dict(zip(keys, replies, strict=True))
        except Exception as error:
            self.failure = error
        finally:
            self.served.set()


class _Inner:
    def __init__(self, gate: _Gate, i: int) -> None:
        self.gate, self.i = gate, i

    def __call__(self, message: Message, context: Context) -> Message:
        return self.gate.ask(self.i, message, context)
