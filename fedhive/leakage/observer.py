"""A grid that listens: what crosses it is recorded, and what it sends may be edited.

It stands between any strategy and any grid, a simulated world or a real SuperLink, and hands on
everything else. A reply that nobody ever computed (a straggler whom the strategy did not wait
for) leaves no record: looking at it would make the run pay for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedhive import config
from fedhive.flower import (
    DeferredReply,
    Layout,
    Malformed,
    NodeInfo,
    Run,
    flatten_record,
    from_flat,
    records_of,
)
from fedhive.leakage.observing import Observing, Veil
from fedhive.leakage.recorded import Knower, Recorded, view_of
from fedhive.leakage.store import FOLDER, Public, ViewStore
from fedhive.leakage.tamper import detectability
from fedhive.world.grid import FIRST_NODE_ID, World
from fedhive.world.instructions import round_of

if TYPE_CHECKING:
    from fedhive.learning.workbench import Workbench

FACTS = ("lr-factor", "local-steps", "local-epochs", "batch-size")
"""Instructions that tell how a client trains."""


@dataclass
class _Note:
    """An instruction that has been sent."""

    round: int
    node: int
    honest: Any
    sent: Any
    facts: dict[str, Any]


class Observer(Grid):
    """The listening grid.

    Args:
        grid: where messages really go.
        plan: who listens and what it may do.
        store: where records go.
        layout: names and shapes of the model.
        public: what everybody may know.
        veil: the run's protection, if it has one.
        first: node id of machine 0.
    """

    def __init__(
        self,
        grid: Grid,
        plan: Observing,
        store: ViewStore,
        layout: Layout,
        public: Public,
        veil: Veil | None = None,
        first: int = 0,
    ) -> None:
        self.inner, self.plan, self.store = grid, plan, store
        self.layout, self.public, self.veil = [(n, tuple(s)) for n, s in layout], public, veil
        self.watched = None if plan.nodes is None else {first + node for node in plan.nodes}
        self.knower = Knower(
            "server", public.client or {}, plan.tamper is not None, plan.public_data
        )
        self.refused = 0
        self._open: dict[str, _Note] = {}
        self._arrived: list[tuple[_Note, Message, RecordDict | None]] = []
        self._vectors: dict[int, tuple[ArrayRecord, Any]] = {}
        self._writer = ThreadPoolExecutor(1, "views")
        self._writing: Future[int] | None = None
        self._reminded = False
        meet = getattr(plan.tamper, "meet", None)
        if meet is not None:
            meet(public)
        store.create(self.layout, public, plan.about())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    # ---- Flower's Grid ------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Passed on."""
        self.inner.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the inner grid."""
        return self.inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str,
        ttl: float | None = None,
    ) -> Message:  # fmt: skip
        """Passed on."""
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Passed on."""
        return self.inner.get_node_ids()

    def get_nodes(self) -> list[NodeInfo]:
        """Passed on."""
        return list(self.inner.get_nodes())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send, and remember what was sent to whom."""
        batch = list(messages)
        notes = [self._sending(message) for message in batch]
        ids = list(self.inner.push_messages(batch))
        for message_id, note in zip(ids, notes, strict=True):
            if note is not None:
                self._open[message_id] = note
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Receive, and remember what came."""
        replies = list(self.inner.pull_messages(message_ids))
        for reply in replies:
            note = self._open.pop(reply.metadata.reply_to_message_id, None)
            if note is not None:
                self._receiving(note, reply)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Both at once."""
        batch = list(messages)
        notes = [self._sending(message) for message in batch]
        replies = list(self.inner.send_and_receive(batch, timeout=timeout))
        by_node = {note.node: note for note in notes if note is not None}
        by_id = {
            message.metadata.message_id: note
            for message, note in zip(batch, notes, strict=True)
            if note is not None and message.metadata.message_id
        }
        for reply in replies:
            note = by_id.get(reply.metadata.reply_to_message_id)
            note = note or by_node.get(reply.metadata.src_node_id)
            if note is not None:
                self._receiving(note, reply)
        return replies

    # ---- listening ----------------------------------------------------------------------------

    def _sending(self, message: Message) -> _Note | None:
        node = message.metadata.dst_node_id
        watched = self.watched is None or node in self.watched
        if message.metadata.message_type != "train" or not watched:
            return None
        name, record = _model_of(message.content)
        if record is None:
            return None
        honest = self._flat(record)
        number = round_of(message)
        sent = honest
        if self.plan.tamper is not None:
            self._remind(number)
            edited = self.plan.tamper.edit(honest, self.layout, node, number)
            if edited is not None:
                sent = np.ascontiguousarray(edited, dtype=np.float32)
                message.content = _with_model(message.content, name, from_flat(sent, self.layout))
        facts: dict[str, Any] = {}
        for settings in records_of(message.content, ConfigRecord).values():
            facts |= {key: settings[key] for key in FACTS if key in settings}
        if sent is not honest:
            facts |= detectability(honest, sent, self.layout)
        return _Note(number, node, honest, sent, facts)

    def _remind(self, number: int) -> None:
        """Tell a tamper that learns what was recorded before a resumed run's first round."""
        learn = getattr(self.plan.tamper, "learn", None)
        if learn is not None and not self._reminded:
            learn([r for r in self.store.exchanges() if r.round < number], self.knower)
        self._reminded = True

    def _flat(self, record: ArrayRecord) -> Any:
        """A record's vector; the same one for the same record, so that it is stored once."""
        known = self._vectors.get(id(record))
        if known is None:
            known = self._vectors[id(record)] = (record, flatten_record(record, self.layout))
        return known[1]

    def _receiving(self, note: _Note, reply: Message) -> None:
        if note.sent is not note.honest and self.plan.mend and reply.has_content():
            self._arrived.append((note, reply, reply.content))
            self._mend(note, reply)
        else:
            self._arrived.append((note, reply, None))

    def _mend(self, note: _Note, reply: Message) -> None:
        name, record = _model_of(reply.content)
        try:
            returned = flatten_record(record, self.layout) if record is not None else None
        except Malformed:
            return  # containment will say so
        if returned is not None:
            mended = np.asarray(note.honest + (returned - note.sent), dtype=np.float32)
            reply.content = _with_model(reply.content, name, from_flat(mended, self.layout))

    def end_round(self, number: int) -> None:
        """Record what came while round ``number`` was played; written while the run goes on.

        Call when the strategy is done with the round.
        """
        arrived, self._arrived = self._arrived, []
        self._vectors.clear()
        if number % self.plan.every:
            return
        records = [record for one in arrived if (record := self._record(*one)) is not None]
        learn = getattr(self.plan.tamper, "learn", None)
        if learn is not None:
            learn(records, self.knower)
        self.flush()
        self._writing = self._writer.submit(self.store.save_round, number, records)
        if self.plan.onlookers and records:
            views = {r.node: view_of([r], self.layout, self.knower) for r in reversed(records)}
            for onlooker in self.plan.onlookers:
                onlooker.look(number, dict(sorted(views.items())), self.layout, self.public)

    def flush(self) -> None:
        """Wait until what was recorded is written.

        Raises:
            OSError: if it could not be, for want of room.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _record(self, note: _Note, reply: Message, original: RecordDict | None) -> Recorded | None:
        """What came back; ``original`` is the content that was mended, if it was."""
        if isinstance(reply, DeferredReply) and not reply.__dict__["_resolved"]:
            return None
        if not reply.has_content():
            return None
        content = reply.content if original is None else original
        try:
            _, record = _model_of(content)
            if record is None:
                return None
            returned = flatten_record(record, self.layout)
        except Malformed:
            self.refused += 1
            return None
        facts = dict(note.facts)
        for metrics in records_of(content, MetricRecord).values():
            facts |= {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        plain = Recorded(note.round, note.node, note.sent, returned, facts=facts)
        return plain if self.veil is None else self._veiled(plain)

    def _veiled(self, plain: Recorded) -> Recorded:
        """What the protection leaves.

        ``bare`` counts coordinates that it calls hidden but that were sent in the clear.
        """
        assert self.veil is not None
        view = self.veil.view(view_of([plain], self.layout, self.knower))
        seen = None if view.visible.all() else view.visible
        facts = dict(plain.facts)
        if seen is not None:
            bare = int(np.count_nonzero((plain.returned != plain.sent) & ~seen))
            facts |= {"bare": bare} if bare else {}
        return replace(plain, visible=seen, channel=view.channel, facts=facts)


def listen(
    grid: Grid, cfg: Mapping[str, Any], bench: Workbench, strategy: Any, run_dir: Path
) -> Grid:
    """The grid itself, or with somebody listening if the configuration has an ``observer``.

    Args:
        grid: where the run's messages go.
        cfg: the composed configuration.
        bench: what it means for learning.
        strategy: its ``protection``, if any, says what can be seen.
        run_dir: records go to the folder ``views`` in it.
    """
    plan: Observing | None = config.build(cfg.get("observer"), "observer")
    if plan is None:
        return grid
    x = bench.data.x_train
    public = Public(
        cfg["model"], tuple(int(size) for size in x.shape[1:]), len(bench.data.classes),
        (float(x.min()), float(x.max())), cfg["client"], int(cfg["seed"]),
    )  # fmt: skip
    first = FIRST_NODE_ID if isinstance(grid, World) else 0
    veil = getattr(strategy, "protection", None)
    return Observer(grid, plan, ViewStore(run_dir / FOLDER), bench.layout, public, veil, first)


def _model_of(content: RecordDict) -> tuple[str, ArrayRecord | None]:
    records = records_of(content, ArrayRecord)
    if "arrays" in records:
        return "arrays", records["arrays"]
    return next(iter(records.items())) if len(records) == 1 else ("", None)


def _with_model(content: RecordDict, name: str, model: ArrayRecord) -> RecordDict:
    changed = RecordDict()
    for key, record in content.items():
        changed[key] = model if key == name else record
    return changed
