"""Who listens to a run and what it may do: the choices of the ``observer`` group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fedhive.flower import Layout
from fedhive.leakage.store import Public
from fedhive.leakage.tamper import Tamper
from fedhive.leakage.view import View


class Veil(Protocol):
    """What a protection leaves to see."""

    def view(self, view: View) -> View:
        """Less than ``view``."""
        ...


class Onlooker(Protocol):
    """An attack that works while the run goes on."""

    def look(self, number: int, views: Mapping[int, View], layout: Layout, public: Public) -> None:
        """What was seen in round ``number``, by node."""
        ...


@dataclass(frozen=True)
class Observing:
    """Who listens to a run, and what else it may do (group ``observer``).

    Args:
        nodes: numbers of the machines that are watched, from 0 (node ids where the machines are
            real); None for all.
        every: record every so many rounds.
        tamper: edits what is sent to the watched machines; None for an honest server.
        mend: hand the strategy each victim's update as if the honest model had been sent, so
            that the edit does not end in the global model.
        public_data: whether attacks may use data of the same kind.
        onlookers: attacks that run after each recorded round.
    """

    nodes: tuple[int, ...] | None = None
    every: int = 1
    tamper: Tamper | None = None
    mend: bool = True
    public_data: bool = False
    onlookers: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    def about(self) -> dict[str, Any]:
        """For the manifest."""
        tamper = None if self.tamper is None else type(self.tamper).__name__
        return {"role": "server", "may_edit_model": tamper is not None, "tamper": tamper,
                "public_data": self.public_data}  # fmt: skip


def nobody() -> None:
    """Nobody listens."""
    return
