"""One exchange as it crossed the wire, and how several become a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhive.flower import Layout
from fedhive.leakage.view import Channel, Exchange, Knowledge, Mask, Role, Vector, View


@dataclass(frozen=True, eq=False)
class Recorded:
    """One exchange as it crossed the wire.

    Args:
        round: of the instruction.
        node: id of the node that was asked.
        sent: the model it received, float32 [P].
        returned: what it sent back, float32 [P]; a hidden coordinate equals ``sent``.
        visible: bool [P], None if all of it.
        channel: what the numbers are known to have come through.
        facts: plain numbers that travelled along (counts, steps, loss) and, for an edited model,
            how far it was from the honest one.
    """

    round: int
    node: int
    sent: Vector
    returned: Vector
    visible: Mask | None = None
    channel: Channel = field(default_factory=Channel)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def exchange(self) -> Exchange:
        """What is seen of it: the update, exactly 0 where hidden."""
        seen = np.asarray(self.returned - self.sent, dtype=np.float32)
        if self.visible is not None:
            seen[~self.visible] = 0.0
        return Exchange(self.round, np.asarray(self.sent), seen)


@dataclass(frozen=True)
class Knower:
    """Who looks, and what it knows of local training.

    Args:
        role: where it sits.
        client: settings of local training.
        may_edit_model: whether it may change what is sent.
        public_data: whether it has data of the same kind.
    """

    role: Role = "server"
    client: Mapping[str, Any] = field(default_factory=dict)
    may_edit_model: bool = False
    public_data: bool = False

    def knows(self, facts: Sequence[Mapping[str, Any]]) -> Knowledge:
        """What is known of exchanges that came with these facts."""
        lr = self.client.get("lr")
        rates = {
            None if lr is None else float(lr) * float(one.get("lr-factor", 1.0)) for one in facts
        }
        return Knowledge(
            labels=None,
            examples=_alike(facts, "num-examples"),
            lr=rates.pop() if len(rates) == 1 else None,
            steps=_alike(facts, "steps"),
            batch_size=_alike(facts, "batch-size") or self.client.get("batch_size"),
            may_edit_model=self.may_edit_model,
            public_data=self.public_data,
        )


def view_of(records: Sequence[Recorded], layout: Layout, knower: Knower) -> View:
    """The view of one node's exchanges: the same bits from memory and from disk.

    Visible is what can be seen in all of them.
    """
    size = len(records[0].sent)
    masks = [r.visible for r in records if r.visible is not None]
    visible = np.logical_and.reduce(masks) if masks else np.ones(size, np.bool_)
    exchanges = [record.exchange() for record in records]
    if len(masks) > 1:
        exchanges = [replace(e, seen=e.seen * visible.astype(np.float32)) for e in exchanges]
    channels = [record.channel for record in records]
    channel = max(channels, key=lambda one: one.variance)
    return View(
        knower.role, (records[0].node,), (1.0,), tuple(exchanges), visible, layout, channel,
        knower.knows([record.facts for record in records]),
    )  # fmt: skip


def _alike(facts: Sequence[Mapping[str, Any]], name: str) -> int | None:
    values = {one.get(name) for one in facts}
    value = values.pop() if len(values) == 1 else None
    return int(value) if isinstance(value, int | float) else None


def packed(
    exchanges: Sequence[Recorded],
) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Arrays by name (each model sent only once) and one row an exchange that refers to them."""
    arrays: dict[str, NDArray[Any]] = {}
    names: dict[int, str] = {}
    rows = []
    for i, one in enumerate(exchanges):
        address = one.sent.__array_interface__["data"][0]
        sent = names.get(address)
        if sent is None:
            sent = names[address] = f"sent.{len(names)}"
            arrays[sent] = one.sent
        arrays[f"returned.{i}"] = one.returned
        row = {"round": one.round, "node": one.node, "sent": sent, "returned": f"returned.{i}",
               "facts": dict(one.facts)}  # fmt: skip
        if one.visible is not None:
            arrays[f"visible.{i}"] = np.packbits(one.visible)
            row["visible"] = f"visible.{i}"
        if one.channel != Channel():
            row["channel"] = vars(one.channel)
        rows.append(row)
    return arrays, rows


def unpacked(row: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], size: int) -> Recorded:
    """One exchange back from `packed`, of a model with ``size`` parameters.

    Raises:
        KeyError: if an array is missing.
        ValueError: if one is of another size.
    """
    visible = None
    if "visible" in row:
        visible = np.unpackbits(arrays[row["visible"]], count=size).astype(np.bool_)
    sent, returned = arrays[row["sent"]], arrays[row["returned"]]
    if sent.shape != (size,) or returned.shape != (size,):
        raise ValueError("a vector is not of the model's size")
    channel = Channel(**row.get("channel", {}))
    return Recorded(
        int(row["round"]), int(row["node"]), sent, returned, visible, channel, row["facts"]
    )
