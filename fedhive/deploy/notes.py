"""What happens in a hive, for people: kept, and said at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SENTENCES = {
    "waiting": "{who}",
    "here": "{who} is here",
    "away": "{who} is away",
    "returned": "{who} {what}",
    "lost": "{who}: its work is lost ({what})",
    "failed": "{who} {what}",
    "unneeded": "{who} is not needed: {what}",
    "resumed": "{what}",
}


class Notes:
    """A list of what happened.

    Args:
        say: called with each note as it is written.
    """

    def __init__(self, say: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._say = say

    def write(self, kind: str, t_s: float, who: str, what: str = "") -> None:
        """Note one thing: when, about which machine, and what."""
        row = {"kind": kind, "t_s": round(t_s, 2), "who": who, "what": what}
        self.rows.append(row)
        if self._say is not None:
            self._say(row)


def sentence(row: dict[str, Any]) -> str:
    """A note as a sentence."""
    text = SENTENCES.get(str(row.get("kind")), "{who}: {what}")
    who, what = str(row.get("who", ""))[:80], str(row.get("what", ""))[:300]
    return f"{float(row.get('t_s', 0.0)):7.1f} s  " + text.format(
        who=who or "a machine", what=what
    )
