"""The server's half of encryption: parse, add, and have sums opened; never one client alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from defenses.encryption.base import Ask, Ciphertext, Keys
from defenses.encryption.base import Context as SealContext
from defenses.encryption.errors import SealError
from defenses.protection.base import Setting
from defenses.protection.sealing import RECORD, SATURATED, SECONDS, Tools
from fedhive.flower import Malformed, records_of

Result = TypeVar("Result")

QUERY = "query.he_share"
"""Type of the messages that ask clients about protection, see ``fedhive.app``."""
FILLED = b"+"
"""First byte of an answer: Flower's records cannot carry empty bytes."""
MOST_BYTES = 2**33
STAGES = ("seal", "parse", "add", "open")


@dataclass(frozen=True)
class Opened:
    """What was parsed of one reply.

    Args:
        ciphertext: its hidden coordinates.
        size: bytes it took on the wire.
        saturated: values that its client says it cut to the clip.
        seconds: CPU seconds that sealing took its client, as it says.
    """

    ciphertext: Ciphertext
    size: int
    saturated: int
    seconds: float


@dataclass
class Meter:
    """What encryption cost so far.

    Args:
        seconds: CPU time by stage: ``seal`` (as clients report), ``parse``, ``add``, ``open``.
        sealed_bytes: of the ciphertexts that were accepted.
        clear_bytes: what the same coordinates would have taken as float32.
        query_bytes: to and from the holders of the key.
        uploads: ciphertexts that were accepted.
        saturated: values that clients cut to the clip.
        refused: refused sealed parts, by reason.
        lost: rounds whose sums could not be opened, with the reason.
        opened: sums that were opened.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    sealed_bytes: int = 0
    clear_bytes: int = 0
    query_bytes: int = 0
    uploads: int = 0
    saturated: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    opened: int = 0

    def timed(self, stage: str, work: Callable[[], Result]) -> Result:
        """The result of ``work``, its CPU time booked."""
        began = time.process_time()
        try:
            return work()
        finally:
            self.seconds[stage] += time.process_time() - began

    def refuse(self, name: str) -> None:
        """Count one refusal."""
        self.refused[name] = self.refused.get(name, 0) + 1


def parse_reply(
    tools: Tools, content: RecordDict, sealed_for: SealContext, meter: Meter
) -> tuple[RecordDict, Opened]:
    """A reply without its sealed part, and that part parsed.

    Raises:
        Malformed: naming what is wrong with the sealed part.
    """
    try:
        data = sealed_bytes(tools, content)
        ciphertext = meter.timed("parse", lambda: tools.cipher.parse(data, sealed_for, tools.keys))
    except SealError as error:
        meter.refuse(error.name)
        raise Malformed(f"sealed part: {error.name}: {error}") from error
    except Malformed:
        meter.refuse("NotSealed")
        raise
    rest = RecordDict({key: record for key, record in content.items() if key != RECORD})
    saturated = seconds = 0.0
    metrics = records_of(content, MetricRecord).get("metrics")
    if metrics is not None:
        saturated, seconds = _plausible(metrics.get(SATURATED)), _plausible(metrics.get(SECONDS))
        kept = {k: v for k, v in metrics.items() if k not in (SATURATED, SECONDS)}
        rest["metrics"] = MetricRecord(kept)
    return rest, Opened(ciphertext, len(data), int(saturated), seconds)


def sealed_bytes(tools: Tools, content: RecordDict) -> bytes:
    """The bytes of a reply's sealed record.

    Raises:
        Malformed: if it is not one array of such bytes.
    """
    record = content.get(RECORD)
    if not isinstance(record, ArrayRecord) or list(record.keys()) != [RECORD]:
        raise Malformed(f"the reply carries no record {RECORD!r} with one array of that name")
    array: Array = record[RECORD]
    if array.stype != tools.stype or array.dtype != "uint8":
        raise Malformed(f"the sealed array is {str(array.stype)[:40]!r}, not {tools.stype!r}")
    data = bytes(array.data)
    if tuple(array.shape) != (len(data),) or len(data) > MOST_BYTES:
        raise Malformed("the sealed array has another length than it says")
    return data


@dataclass(frozen=True)
class Sums:
    """The sums of a round, opened group by group.

    Args:
        tools: cipher and keys.
        opened: the replies.
        factors: each one's weight in its ciphertext, as the client was told to scale it.
        grid: for asking the holders of the key.
        meter: where costs are booked.
    """

    tools: Tools
    opened: Sequence[Opened]
    factors: Sequence[float]
    grid: Grid | None
    meter: Meter

    def means(self, groups: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        """The weighted mean of the hidden updates of each group, float64 [m] each.

        Args:
            groups: disjoint groups of places in ``opened``; all are opened in one question.

        Raises:
            SealError: if the sums cannot be opened; nothing is then known of any of them.
        """
        cipher, keys, meter = self.tools.cipher, self.tools.keys, self.meter
        totals = meter.timed(
            "add",
            lambda: [cipher.add([self.opened[i].ciphertext for i in group]) for group in groups],
        )
        number = totals[0].context.round
        ask = asker(keys, self.grid, number, meter)
        found = meter.timed("open", lambda: keys.open(cipher, totals, ask))
        meter.opened += len(groups)
        means = []
        for ints, group in zip(found, groups, strict=True):
            weight = sum(self.factors[i] for i in group)
            mean = cipher.fixed.decode(ints)
            means.append(mean / weight if weight > 0.0 else np.zeros_like(mean))
        return means


def asker(keys: Keys, grid: Grid | None, number: int, meter: Meter) -> Ask | None:
    """How questions get to the holders of the key; None where there is no grid or no holder."""
    if grid is None or not keys.members:
        return None
    return lambda questions: ask_holders(grid, questions, number, meter)


def ask_holders(
    grid: Grid, questions: Mapping[int, bytes], number: int, meter: Meter,
    patience_s: float = 600.0,
) -> dict[int, bytes]:  # fmt: skip
    """Questions to the holders of the key, over the grid; the answers of those that gave one."""
    there = set(grid.get_node_ids())
    messages = []
    for node, question in sorted(questions.items()):
        settings: dict[str, Setting] = {
            "server-round": number, "about": "share", "question": question, "node-id": node,
        }  # fmt: skip
        content = RecordDict({"config": ConfigRecord(dict(settings))})
        if node in there:
            messages.append(Message(content, node, QUERY, group_id=str(number)))
            meter.query_bytes += len(question)
    answers: dict[int, bytes] = {}
    for reply in grid.send_and_receive(messages, timeout=patience_s) if messages else ():
        node = reply.metadata.src_node_id
        if reply.has_error() or node not in questions:
            continue
        for record in records_of(reply.content, ConfigRecord).values():
            answer = record.get("answer")
            if isinstance(answer, bytes) and answer[:1] == FILLED:
                answers[node] = answer[1:]
                meter.query_bytes += len(answer)
    return answers


def _plausible(value: Any) -> float:
    good = isinstance(value, int | float) and 0 <= value <= 1e12
    return float(value) if good else 0.0
