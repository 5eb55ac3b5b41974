"""What messages say about the work in them, and how unfinished tasks are saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedhive.flower import (
    flatten_record,
    from_flat,
    in_memory,
    layout_of,
    payload_bytes,
    records_of,
    set_message_id,
    shared_vector,
)
from fedhive.world.task import Plan, Task, Timeline

MOST = 1e12  # more samples, steps or bytes than this, in a message, are nonsense
STOP_AFTER = "stop-after-steps"
"""Instruction to do only the first so many of the steps asked for."""
TRANSFER = "transfer-bytes"
"""Bytes that travel to a machine along with an instruction, beside those of its records."""

SIMULATED = "simulated"
"""Set in the node config of a world's machines; a real machine's is written by its owner alone, so
that no server can make it take predictable noise or keys for good ones."""

ROWS = "rows"
"""The training rows that a machine holds from now on, as the bytes of an int32 array."""


def settings_of(message: Message) -> ConfigRecord:
    """The instruction's settings; empty if it has none."""
    return next(iter(records_of(message.content, ConfigRecord).values()), ConfigRecord())


def round_of(message: Message) -> int:
    """The server's round, 0 if the message does not say."""
    value = settings_of(message).get("server-round")
    return value if isinstance(value, int) else 0


def transfer_bytes(message: Message) -> int:
    """Bytes announced under ``TRANSFER``, 0 if none."""
    value = settings_of(message).get(TRANSFER)
    return int(value) if isinstance(value, int | float) and 0 <= value <= MOST else 0


def instruct_to_stop(message: Message, steps: int) -> None:
    """Tell the client to do only the first ``steps`` steps."""
    settings_of(message)[STOP_AFTER] = steps


def plan_from(reply: Message) -> Plan:
    """What a finished task took, from the client's own metrics; one sample if it says nothing."""
    if not reply.has_content():
        return Plan(1.0, 1, 0)
    size = payload_bytes(reply.content)
    for metrics in records_of(reply.content, MetricRecord).values():
        samples = metrics.get("samples", metrics.get("num-examples", 1))
        steps = metrics.get("steps", 1)
        if not isinstance(samples, int | float) or not isinstance(steps, int | float):
            continue
        if 0 < samples <= MOST and 0 <= steps <= MOST:
            return Plan(float(samples), max(1, int(steps)), size)
    return Plan(1.0, 1, size)


# ---- checkpoints -------------------------------------------------------------------------------


def pack_task(task: Task, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """A task as plain data; models that may still be trained from go into ``arrays``, once each.

    The content is only kept of tasks that somebody may still read the reply of.
    """
    open_ = not task.delivered and task.verdict is None and task.reply is None
    return {
        "id": task.id, "node": task.node, "round": task.round, "kind": task.kind,
        "timeline": asdict(task.timeline), "plan": asdict(task.plan),
        "bytes_down": task.bytes_down, "delivered": task.delivered, "booked": task.booked,
        "reply_bytes": task.reply_bytes, "verdict": task.verdict, "reason": task.reason,
        "content": _pack_content(task.message.content, arrays) if open_ else None,
    }  # fmt: skip


def unpack_task(
    row: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    made: dict[str, ArrayRecord],
    node_id: int,
) -> Task:
    """A task from `pack_task`'s row; records of the same model are made once, in ``made``."""
    message = Message(RecordDict(), node_id, str(row["kind"]))
    if row["content"] is not None:
        message.content = _unpack_content(row["content"], arrays, made)
    set_message_id(message, str(row["id"]))
    return Task(
        id=str(row["id"]), node=int(row["node"]), round=int(row["round"]), kind=str(row["kind"]),
        message=message, timeline=Timeline(**row["timeline"]), plan=Plan(**row["plan"]),
        bytes_down=int(row["bytes_down"]), delivered=bool(row["delivered"]),
        booked=bool(row["booked"]), reply_bytes=int(row["reply_bytes"]),
        verdict=row["verdict"], reason=row["reason"],
    )  # fmt: skip


def _pack_content(content: RecordDict, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            shared = shared_vector(in_memory(record))
            if shared is None:
                layout = layout_of(record)
                shared = flatten_record(record, layout), layout, True
            vector, layout, _ = shared
            name = next((n for n, known in arrays.items() if known is vector), str(len(arrays)))
            arrays[name] = vector
            rows[key] = {"vector": name, "layout": [[n, list(shape)] for n, shape in layout]}
        else:
            kind = "metrics" if isinstance(record, MetricRecord) else "config"
            rows[key] = {kind: {k: _coded(v) for k, v in record.items()}}
    return rows


def _unpack_content(
    rows: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], made: dict[str, ArrayRecord]
) -> RecordDict:
    content = RecordDict()
    for key, row in rows.items():
        if "vector" in row:
            name = row["vector"]
            if name not in made:
                layout = [(n, tuple(shape)) for n, shape in row["layout"]]
                flat = np.ascontiguousarray(arrays[name], np.float32)
                made[name] = from_flat(flat, layout, shared=True)
            content[key] = made[name].copy()
        elif "metrics" in row:
            content[key] = MetricRecord(row["metrics"])
        else:
            content[key] = ConfigRecord({k: _decoded(v) for k, v in row["config"].items()})
    return content


def _coded(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _decoded(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
