"""How far a machine is trusted: levels 0 to 4, each with what it takes and what is missing.

| level | name | takes |
|---|---|---|
| 0 | anonymous | nothing |
| 1 | declared | facts declared, strangers' code in a sandbox |
| 2 | identity | a key that cannot leave the hardware, attested, one identity a chip |
| 3 | measured | a fresh quote over the boot's log, secure boot on |
| 4 | isolated | evidence of a trusted execution environment, verified |

Levels are cumulative. From 2 on, only attested facts count: no machine can lift itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from fedhive.trust.facts import Fact, Facts, by_name


class Level(IntEnum):
    """How far a machine is trusted."""

    ANONYMOUS = 0
    DECLARED = 1
    IDENTITY = 2
    MEASURED = 3
    ISOLATED = 4


@dataclass(frozen=True)
class Need:
    """What a level takes beside the levels below it.

    Args:
        fact: name of a fact.
        remedy: how to get it.
        attested: whether somebody else must have verified it.
    """

    fact: str
    remedy: str
    attested: bool = True


NEEDS: dict[Level, tuple[Need, ...]] = {
    Level.ANONYMOUS: (),
    Level.DECLARED: (
        Need("system.kernel", "declare facts", attested=False),
        Need("sandbox.active", "install bubblewrap and join with the sandbox on", attested=False),
    ),
    Level.IDENTITY: (Need("identity.hardware", "enrol the TPM: fedhive trust hello"),),
    Level.MEASURED: (
        Need("boot.measured", "answer a challenge with a quote and the boot's log"),
        Need("boot.secure", "turn secure boot on in the firmware's set-up"),
    ),
    Level.ISOLATED: (Need("tee.isolated", "evidence of SEV-SNP, TDX, SGX or CCA, verified"),),
}

TROUBLES: tuple[tuple[str, str], ...] = (
    ("security.setup_mode", "firmware in setup mode: anybody can replace its keys"),
    ("security.cpu_vulnerable", "unmitigated faults of the processor"),
)
"""Facts that spoil a level while they are true or not empty: it gets a ``!``."""


@dataclass(frozen=True)
class Standing:
    """A machine's level.

    Args:
        level: the highest whose needs, and those below, are met.
        missing: what the next level takes, with how to get it.
        troubles: what is wrong at this level.
    """

    level: Level
    missing: tuple[Need, ...]
    troubles: tuple[str, ...]

    def __str__(self) -> str:
        return f"{int(self.level)} ({self.level.name.lower()})" + ("!" if self.troubles else "")


def standing(facts: Iterable[Fact], now: float | None = None) -> Standing:
    """The level that facts justify at a Unix time (now, if none is given).

    A fact counts if it holds, is not False, empty or unknown, and is attested where that is asked.
    """
    at = time.time() if now is None else now
    known = by_name(fact for fact in facts if fact.holds(at))
    reached = Level.ANONYMOUS
    missing: tuple[Need, ...] = ()
    for level in list(Level)[1:]:
        missing = tuple(need for need in NEEDS[level] if not _met(known, need))
        if missing:
            break
        reached = level
    troubles = tuple(f"{why}{_named(known[name])}" for name, why in TROUBLES if _true(known, name))
    return Standing(reached, missing, troubles)


def _met(known: Facts, need: Need) -> bool:
    return _true(known, need.fact) and (
        not need.attested or known[need.fact].assurance == "attested"
    )


def _true(known: Facts, name: str) -> bool:
    return name in known and bool(known[name].value)


def _named(fact: Fact) -> str:
    return f": {', '.join(fact.value)}" if isinstance(fact.value, tuple) else ""
