"""Why a SuperNode ended, read from what Flower wrote, and what its volunteer can do."""

from __future__ import annotations

import re
from dataclasses import dataclass

NEVER_SOON_S = 600.0


@dataclass(frozen=True)
class Trouble:
    """Something that somebody can mend.

    Args:
        text: what, and what to do.
        wait_s: how long to wait before trying again, at least.
    """

    text: str
    wait_s: float = 65.0


PATTERNS: tuple[tuple[str, Trouble], ...] = (
    (
        r"\[code:? 2001\]|fedhive: this key is not registered|unauthenticated",
        Trouble(
            "the hive does not know this machine's key: send the file node.pub (`fedhive join "
            "key` shows it) to the hive's operator, who lets it in with `fedhive deploy register`",
            NEVER_SOON_S,
        ),
    ),
    (
        r"fedhive: a machine with this key is here",
        Trouble(
            "the hive takes this machine to be there already: either it was cut off a minute ago, "
            "which passes by itself, or another machine uses the same key, which must get its own "
            "(run `fedhive join` there anew, do not copy the folder)"
        ),
    ),
    (
        r"\[code:? 2004\]|could not be activated",
        Trouble(
            "the hive does not let this machine in: either its key is not registered yet "
            "(`fedhive join key` shows what to send to the operator), or another machine uses it, "
            "or this one was cut off a minute ago, which passes by itself"
        ),
    ),
    (
        r"certificate has expired",
        Trouble(
            "the hive's certificate has expired; its operator has to run `fedhive deploy certify` "
            "and start it again",
            NEVER_SOON_S,
        ),
    ),
    (
        r"certificate_verify_failed|self[- ]signed certificate|unable to get local issuer",
        Trouble(
            "whoever answers is not this hive: its certificate was signed by another authority. "
            "Ask the operator for a new invitation",
            NEVER_SOON_S,
        ),
    ),
    (
        r"address already in use",
        Trouble("the SuperNode's port was taken by another program; another one is tried"),
    ),
    (
        r"gave up: the supernode has lost the hive",
        Trouble("the SuperNode lost the hive and gave up"),
    ),
)


def trouble_in(text: str) -> Trouble | None:
    """The first known trouble in what a SuperNode has written."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", text).lower()
    for pattern, trouble in PATTERNS:
        if re.search(pattern, plain):
            return trouble
    return None
