"""The server's account of a run: what each node's data may have been part of, as far as it saw."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from defenses.dp.accountant import History, Method, Spent, epsilon, largest, merged


@dataclass
class NodeAccount:
    """One node's.

    Args:
        heard: what its replies so far cost.
        usual: what its last reply cost; None before the first.
        unanswered: instructions that no reply was read to. They count like the last reply, since
            one may be under way or have been read by somebody else.
    """

    heard: History = ()
    usual: Spent | None = None
    unanswered: int = 0

    def history(self) -> History:
        """Everything, unanswered instructions included."""
        if self.usual is None or not self.unanswered:
            return self.heard
        z, rate, steps = self.usual
        return merged([*self.heard, Spent(z, rate, steps * self.unanswered)])


@dataclass
class Ledger:
    """Accounts by node id; plain data behind `state` and `restore`."""

    nodes: dict[int, NodeAccount] = field(default_factory=dict)

    def asked(self, nodes: Iterable[int]) -> None:
        """Nodes were sent an instruction."""
        for node in nodes:
            self.nodes.setdefault(node, NodeAccount()).unanswered += 1

    def answered(self, node: int, spent: Spent) -> None:
        """A node's reply was read."""
        account = self.nodes.setdefault(node, NodeAccount())
        account.unanswered = max(0, account.unanswered - 1)
        account.heard, account.usual = merged([*account.heard, spent]), spent

    def largest(self, delta: float, method: Method) -> float:
        """Epsilon of the node whose data was used most."""
        return largest([account.history() for account in self.nodes.values()], delta, method)

    def median(self, delta: float) -> float | None:
        """Median over nodes by Renyi divergences; None if nobody took part."""
        found = [epsilon(a.history(), delta, "rdp") for a in self.nodes.values()]
        return statistics.median(found) if found else None

    def state(self) -> dict[str, Any]:
        """Plain data."""
        return {
            str(node): [[list(s) for s in a.heard], a.usual and list(a.usual), a.unanswered]
            for node, a in self.nodes.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        spent: Callable[[Any], Spent] = lambda row: Spent(row[0], row[1], int(row[2]))  # noqa: E731
        self.nodes = {
            int(node): NodeAccount(
                tuple(spent(row) for row in heard),
                None if usual is None else spent(usual),
                int(unanswered),
            )
            for node, (heard, usual, unanswered) in state.items()
        }
