"""The client's half of encryption: what is hidden leaves the model and travels sealed.

The instruction names run, mask, cipher parameters and keys by digest. A client works out its own
and refuses to answer where they differ; a mask from data it is sent once and pins.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from defenses.encryption import masks
from defenses.encryption.agreement import Sensitive
from defenses.encryption.base import Cipher, Keys
from defenses.encryption.base import Context as SealContext
from defenses.encryption.masks import Bools, Mask
from defenses.protection.base import Handler
from fedhive.client import bench_of, client_number, task_of
from fedhive.flower import Layout, flatten_record, from_flat, layout_of, records_of

Vector = NDArray[np.float32]

RECORD = "sealed"
SATURATED, SECONDS = "sealed-saturated", "sealed-seconds"
PINNED = "protection"
"""Record of a client's memory that holds the digest of the mask it has agreed to."""
SEALED_LAST = "protection-sealed"
"""Record of a client's memory that holds the last round that it sealed an update in, by run."""
RUN, MASK, BITS, PARAMS, KEY = "seal-run", "seal-mask", "seal-bits", "seal-params", "seal-key"
WEIGHTING = "seal-weighting"


class Refused(ValueError):
    """A client does not do what the server asks: the request is not the one agreed upon."""


@dataclass
class Tools:
    """What both halves share: plain data, and masks that were worked out before.

    Args:
        mask: which coordinates are hidden.
        cipher: how.
        keys: who can open sums.
        unit: an update of so many examples has weight 1.
    """

    mask: Mask
    cipher: Cipher
    keys: Keys
    unit: float
    _known: dict[tuple[bytes, int], tuple[Bools, bytes]] = field(default_factory=dict, repr=False)
    _own: tuple[Layout, Bools, bytes] | None = field(default=None, repr=False)
    _sizes: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def stype(self) -> str:
        """The serialisation type of sealed arrays; a strategy that does not know it refuses."""
        return f"fedhive.{self.cipher.name}/1"

    def own_mask(self, layout: Layout) -> tuple[Bools, bytes]:
        """The mask that follows from the model, and its digest."""
        wanted = [(name, tuple(shape)) for name, shape in layout]
        if self._own is None or self._own[0] != wanted:
            hidden = self.mask.choose(wanted)
            self._own = wanted, hidden, masks.digest_of(hidden, wanted)
        return self._own[1], self._own[2]

    def sent_mask(self, bits: bytes, layout: Layout) -> tuple[Bools, bytes]:
        """A mask that was sent, and its digest."""
        key = bits, masks.size_of(layout)
        if key not in self._known:
            hidden = masks.unpacked(*key)
            self._known = {key: (hidden, masks.digest_of(hidden, layout))}
        return self._known[key]

    def factor(self, weighting: str, examples: float, samples: float, weight: float) -> float:
        """What an update is multiplied by before it is encrypted: its weight in the sum."""
        size = {"examples": examples / self.unit, "samples": samples / self.unit}.get(weighting, 1)
        return float(size * weight)

    def sealed_size(self, count: int) -> int:
        """Bytes that ``count`` sealed values take."""
        if count and count not in self._sizes:
            nowhere = SealContext(bytes(16), 2**32 - 1, bytes(16), 0, count)
            key = self.keys.for_upload(self.cipher, nowhere)
            zeros = np.zeros(count, np.float32)
            self._sizes[count] = len(self.cipher.encrypt(zeros, key, nowhere).data)
        return self._sizes.get(count, 0)

    def pack(self, data: bytes) -> ArrayRecord:
        """Sealed bytes as a record of their own."""
        return ArrayRecord({RECORD: Array("uint8", (len(data),), self.stype, data)})


@dataclass(frozen=True)
class Seal:
    """The mod: trains, then encrypts what the mask hides.

    Args:
        tools: mask, cipher and keys.
    """

    tools: Tools

    def __call__(self, message: Message, context: Context, call_next: Handler) -> Message:
        """The reply with its hidden coordinates sealed; other messages as they are."""
        if message.metadata.message_type != "train":
            return call_next(message, context)
        settings = dict(task_of(message))
        record = records_of(message.content, ArrayRecord)["arrays"]
        layout = layout_of(record)
        hidden, digest = agreed_mask(self.tools, settings, layout, context)
        sealed_for = _context(settings, digest, known_as(settings, context), int(hidden.sum()))
        seal_once(sealed_for, context)
        base = flatten_record(record, layout)
        reply = call_next(message, context)
        if reply.has_content() and hidden.any():
            self._seal(reply, base, layout, hidden, sealed_for, settings)
        return reply

    def _seal(
        self, reply: Message, base: Vector, layout: Layout, hidden: Bools,
        sealed_for: SealContext, settings: Mapping[str, Any],
    ) -> None:  # fmt: skip
        began = time.thread_time()
        tools, content = self.tools, reply.content
        model = flatten_record(records_of(content, ArrayRecord)["arrays"], layout)
        metrics = records_of(content, MetricRecord)["metrics"]
        factor = tools.factor(
            str(settings[WEIGHTING]), _number(metrics, "num-examples"),
            _number(metrics, "samples"), float(settings.get("selection-weight", 1.0)),
        )  # fmt: skip
        values = np.subtract(model[hidden], base[hidden]) * np.float32(factor)
        key = tools.keys.for_upload(tools.cipher, sealed_for)
        sealed = tools.cipher.encrypt(values, key, sealed_for)
        content["arrays"] = from_flat(np.where(hidden, base, model), layout)
        content[RECORD] = tools.pack(sealed.data)
        metrics[SATURATED] = sealed.saturated
        metrics[SECONDS] = time.thread_time() - began


def agreed_mask(
    tools: Tools, settings: Mapping[str, Any], layout: Layout, context: Context
) -> tuple[Bools, bytes]:
    """The mask that the client and the server both mean, and its digest.

    Raises:
        Refused: if the server names another mask, other parameters or other keys.
    """
    for name in (RUN, MASK, PARAMS, KEY):
        if not isinstance(settings.get(name), bytes) or len(settings[name]) != 16:
            raise Refused(f"the instruction has no {name!r}: this server does not encrypt")
    if settings[PARAMS] != tools.cipher.params_id:
        raise Refused("the server names another cipher or other parameters than were agreed")
    if settings[KEY] != tools.keys.key_id:
        raise Refused("the server names other keys than were agreed")
    if not tools.mask.from_data:
        hidden, digest = tools.own_mask(layout)
        if settings[MASK] != digest:
            raise Refused("the server's mask is not the one that the model and the rule give")
        return hidden, digest
    bits = settings.get(BITS)
    if not isinstance(bits, bytes):
        raise Refused("the instruction carries no mask")
    hidden, digest = tools.sent_mask(bits, layout)
    if settings[MASK] != digest:
        raise Refused("the mask does not fit its digest")
    _pin(tools.mask, hidden, digest, layout, context)
    return hidden, digest


def _pin(mask: Mask, hidden: Bools, digest: bytes, layout: Layout, context: Context) -> None:
    held = context.state.get(PINNED)
    pinned = held.get(MASK) if isinstance(held, ConfigRecord) else None
    if pinned is not None and pinned != digest:
        raise Refused("the server names another mask than the one that was agreed upon")
    if pinned is None:
        if not (isinstance(mask, Sensitive) and mask.plausible(hidden, layout)):
            raise Refused("the server's mask hides less than was agreed upon")
        context.state[PINNED] = ConfigRecord({MASK: digest})


def sealed_vote(tools: Tools, message: Message, context: Context) -> Message:
    """A client's encrypted map of what its coordinates tell.

    Raises:
        Refused: if there is nothing to agree upon, or the client has agreed already.
    """
    mask, settings = tools.mask, dict(task_of(message))
    if not isinstance(mask, Sensitive) or PINNED in context.state:
        raise Refused("there is no mask to agree upon (any more)")
    bench, client = bench_of(context), client_number(context)
    record = records_of(message.content, ArrayRecord)["arrays"]
    layout = layout_of(record)
    everything = np.ones(masks.size_of(layout), np.bool_)
    if settings.get(PARAMS) != tools.cipher.params_id or settings.get(KEY) != tools.keys.key_id:
        raise Refused("the server names other parameters or keys than were agreed")
    digest = masks.digest_of(everything, layout)
    sealed_for = _context(settings, digest, known_as(settings, context), everything.size)
    seal_once(sealed_for, context)
    votes = mask.vote_of(bench, client, flatten_record(record, layout), settings)
    values = votes * np.float32(tools.cipher.fixed.clip)
    sealed = tools.cipher.encrypt(
        values, tools.keys.for_upload(tools.cipher, sealed_for), sealed_for
    )
    return Message(RecordDict({RECORD: tools.pack(sealed.data)}), reply_to=message)


def known_as(settings: Mapping[str, Any], context: Context) -> int:
    """The id under which the server knows this node: the one that it says, else its own."""
    told = settings.get("node-id")
    return told if isinstance(told, int) and told >= 0 else int(context.node_id)


def seal_once(sealed_for: SealContext, context: Context) -> None:
    """Remember a round, and refuse it a second time.

    A server that had one update sealed twice, under two names, could open their sum: it is twice
    that update.

    Raises:
        Refused: for a round of this run that is not later than the last one.
    """
    held, run = context.state.get(SEALED_LAST), sealed_for.run.hex()
    rounds: dict[str, Any] = dict(held) if isinstance(held, ConfigRecord) else {}
    if sealed_for.round <= rounds.get(run, -1):
        raise Refused(f"round {sealed_for.round} was sealed already")
    context.state[SEALED_LAST] = ConfigRecord({**rounds, run: sealed_for.round})


def _context(settings: Mapping[str, Any], digest: bytes, node: int, count: int) -> SealContext:
    return SealContext(settings[RUN], int(settings["server-round"]), digest, node, max(count, 1))


def _number(metrics: MetricRecord, name: str) -> float:
    value = metrics.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0
