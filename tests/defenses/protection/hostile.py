"""Clients that break the rules of encryption, each in its own way, outside its own sealing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message

from defenses.protection import sealing
from defenses.protection.base import Mod
from defenses.protection.encryption import Encryption
from fedhive.flower import flatten_record, from_flat, layout_of

KEPT: dict[tuple[int, int], bytes] = {}
"""Sealed bytes by (machine, round), for replays within one process."""


def _other(tools: Any, **changes: Any) -> Any:
    return sealing.Tools(
        changes.get("mask", tools.mask), changes.get("cipher", tools.cipher),
        changes.get("keys", tools.keys), tools.unit,
    )  # fmt: skip


def truncated(data: bytes, *_: Any) -> bytes:
    return data[:-7]


def one_flipped_bit(data: bytes, *_: Any) -> bytes:
    return data[:-60] + bytes([data[-60] ^ 1]) + data[-59:]


def oversized(data: bytes, *_: Any) -> bytes:
    return data + bytes(64)


def empty(data: bytes, *_: Any) -> bytes:
    return b""


def earlier_round(data: bytes, node: int, number: int) -> bytes:
    return KEPT.get((node, number - 1), data)


def somebody_elses(data: bytes, node: int, number: int) -> bytes:
    return KEPT[0, number]


SPOILT: dict[str, Callable[..., bytes]] = {
    "Truncated": truncated, "Tampered": one_flipped_bit, "Oversized": oversized,
    "WrongRound": earlier_round, "WrongSender": somebody_elses,
}  # fmt: skip
FORGED = ("WrongParameters", "ForeignKey", "WrongMask", "WrongRun")
SHAPED = ("no sealed record", "another serialisation", "hidden in the clear", "no bytes")
CRIMES = (*SPOILT, *FORGED, *SHAPED)
"""Machine 0 is honest; machine i commits crime i - 1."""


class Tampered(Encryption):
    """Encryption whose clients, from machine 1 on, each commit another crime."""

    def mods(self, node_number: int) -> Sequence[Mod]:
        crime = CRIMES[node_number - 1] if 0 < node_number <= len(CRIMES) else None
        seal = sealing.Seal(self.tools)
        if crime in FORGED:
            return (self._forging(str(crime)),)
        return (_spoiling(crime, node_number), seal)

    def _forging(self, crime: str) -> Mod:
        """Seals, but for something else than was asked."""
        tools = self.tools

        def mod(message: Message, context: Context, call_next: Any) -> Message:
            settings = message.content["config"]
            if crime == "WrongRun":
                settings[sealing.RUN] = bytes(16)
                return sealing.Seal(tools)(message, context, call_next)
            other = tools
            if crime == "WrongParameters":
                other = _other(tools, cipher=replace(tools.cipher, clip=77.0))
                settings[sealing.PARAMS] = other.cipher.params_id
            elif crime == "ForeignKey":
                other = _other(tools, keys=replace(tools.keys, seed=99))
                settings[sealing.KEY] = other.keys.key_id
            elif crime == "WrongMask":
                layout = layout_of(message.content["arrays"])
                hidden, _ = tools.own_mask(layout)
                rolled = sealing.Tools(_Given(np.roll(hidden, 1)), tools.cipher, tools.keys, 1.0)
                settings[sealing.MASK] = rolled.own_mask(layout)[1]
                other = rolled
            return sealing.Seal(other)(message, context, call_next)

        return mod


class _Given:
    from_data = False
    linear_first = "whole"

    def __init__(self, hidden: Any) -> None:
        self.hidden = hidden

    def choose(self, layout: Any) -> Any:
        return self.hidden


def _spoiling(crime: str | None, node: int) -> Mod:
    def mod(message: Message, context: Context, call_next: Any) -> Message:
        number = int(message.content["config"]["server-round"])
        layout = layout_of(message.content["arrays"])
        reply = call_next(message, context)
        array = reply.content["sealed"]["sealed"]
        data = bytes(array.data)
        KEPT[node, number] = data
        if crime in SPOILT:
            data = SPOILT[crime](data, node, number)
        elif crime == "no bytes":
            data = b""
        elif crime == "hidden in the clear":
            moved = flatten_record(reply.content["arrays"], layout) + np.float32(1.0)
            reply.content["arrays"] = from_flat(moved, layout)
        if crime == "no sealed record":
            del reply.content["sealed"]
            return reply
        stype = "numpy.ndarray" if crime == "another serialisation" else array.stype
        record = ArrayRecord({"sealed": Array("uint8", (len(data),), stype, data)})
        reply.content["sealed"] = record
        return reply

    return mod
