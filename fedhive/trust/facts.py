"""Facts about a machine, each with where it comes from and what it is worth.

A machine can say anything about itself. What it says is *declared*; what somebody else has checked
against a signature that the machine could not have made otherwise is *attested*. Only attested
facts raise a machine above level 1 (`fedhive.trust.levels`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedhive.errors import UserError

Value = bool | int | str | tuple[str, ...] | None
Assurance = Literal["declared", "attested"]
ASSURANCES: tuple[Assurance, ...] = ("declared", "attested")


@dataclass(frozen=True)
class Fact:
    """One thing known about a machine.

    Args:
        name: dotted, such as ``security.secure_boot``.
        value: what it is; None if nobody could tell, which is never the same as False.
        source: where it was read, or who verified it.
        assurance: ``declared`` by the machine itself, or ``attested``: verified by somebody else.
        until: Unix time up to which it holds; None for as long as its source does.
        why: why the value is unknown, or a remark; empty if there is nothing to say.
    """

    name: str
    value: Value
    source: str
    assurance: Assurance = "declared"
    until: float | None = None
    why: str = ""

    def __post_init__(self) -> None:
        if self.assurance not in ASSURANCES:
            raise ValueError(f"assurance must be one of {ASSURANCES}, got {self.assurance!r}")
        if self.until is not None and math.isnan(self.until):
            raise ValueError("until must be a time, not NaN")

    def holds(self, now: float) -> bool:
        """Whether it is still good at a Unix time."""
        return self.until is None or now < self.until

    def as_row(self) -> dict[str, Any]:
        """As one JSON object; what says nothing is left out."""
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        row: dict[str, Any] = {
            "name": self.name, "value": value, "source": self.source, "assurance": self.assurance,
        }  # fmt: skip
        if self.until is not None:
            row["until"] = self.until
        if self.why:
            row["why"] = self.why
        return row


Facts = Mapping[str, Fact]
"""Facts by name."""


def by_name(facts: Iterable[Fact]) -> dict[str, Fact]:
    """Facts by name; an attested one stands above a declared one of the same name."""
    found: dict[str, Fact] = {}
    for fact in facts:
        known = found.get(fact.name)
        if known is None or known.assurance == "declared" or fact.assurance == "attested":
            found[fact.name] = fact
    return found


def dumps(facts: Iterable[Fact]) -> str:
    """Facts as JSON text."""
    return json.dumps([fact.as_row() for fact in facts], indent=1)


def as_declared(rows: object, most: int = 200) -> list[Fact]:
    """Facts that a machine has sent about itself, as JSON objects.

    Whatever they claim to be worth, they come out as declared: who sends a fact is not the one to
    attest it.

    Args:
        rows: parsed JSON of unknown origin.
        most: how many facts are believed to be meant seriously.

    Raises:
        UserError: if they are not what `dumps` writes.
    """
    if not isinstance(rows, list) or len(rows) > most:
        raise UserError(f"facts: expected a list of at most {most} objects")
    return [_declared(row) for row in rows]


def _declared(row: object) -> Fact:
    if not isinstance(row, dict):
        raise UserError(f"facts: expected objects, got {type(row).__name__}")
    name, value, source = row.get("name"), row.get("value"), row.get("source", "")
    if not isinstance(name, str) or not 0 < len(name) <= 64 or not isinstance(source, str):
        raise UserError("facts: each needs a name of 1 to 64 characters and a source")
    if isinstance(value, list):
        if len(value) > 256 or not all(isinstance(item, str) for item in value):
            raise UserError(f"facts: {name} must list at most 256 texts")
        value = tuple(item[:256] for item in value)
    elif isinstance(value, str):
        value = value[:256]
    elif value is not None and not isinstance(value, bool | int):
        raise UserError(f"facts: {name} must be true, false, a whole number, text or texts")
    return Fact(name, value, source[:256], "declared", None, str(row.get("why", ""))[:256])
