"""Whom to ask when some of the nodes may be one and the same (group ``selection``).

A rule that groups identities sees them only once they have replied. If nodes are drawn uniformly,
an adversary with ten times as many identities as there are honest machines is ten in eleven of
those asked, and few honest rows are left for any rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from defenses import grouping
from strategies.selection import Choice
from strategies.view import View


@dataclass(frozen=True)
class OnePerGroup:
    """``k`` groups of identities, uniformly without replacement, and one idle node of each.

    More identities do not make an adversary be asked more often, only more accounts (or whatever
    ``groups`` names) do.

    Args:
        k: how many; all groups if there are fewer, or if ``k`` is null.
        groups: ``owner``, ``device``, ``key``, ``network``; identities that share any of these.
        network: how much of the address: ``wide``, ``middle``, ``narrow``.
        unknown: identities of which an attribute is not known: ``alone``, or ``together``.

    Raises:
        ValueError: if ``k`` is below 1.
        UserError: for an unknown attribute.
    """

    k: int | None = 10
    groups: Sequence[grouping.Attribute] = ("owner", "device")
    network: grouping.Network = "middle"
    unknown: grouping.Unknown = "alone"

    by_identity: ClassVar[bool] = True
    """The view's ``identity`` must know all nodes, and not only those that were asked before."""

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k must be at least 1 (or null for all groups), got {self.k}")
        grouping.check_attributes(self.groups, grouping.ATTRIBUTES, "selection.groups")

    def select(self, view: View) -> list[Choice]:
        """One node of each chosen group."""
        identities = [view.identity(node) for node in view.idle]
        labels = grouping.grouped(identities, self.groups, self.network, self.unknown)
        members: dict[int, list[int]] = {}
        for node, label in zip(view.idle, labels, strict=True):
            members.setdefault(label, []).append(node)
        rng, count = view.rng("selection"), len(members)
        k = count if self.k is None else min(self.k, count)
        chosen: list[int] = rng.choice(count, k, replace=False).tolist() if k else []
        choices = []
        for label in sorted(chosen):
            group = members[label]
            node = group[int(rng.integers(len(group)))]
            choices.append(Choice(node, probability=k / count / len(group)))
        return sorted(choices)
