"""What a protection is: the part of a method that decides who may see what (group ``protection``).

A protection has a client's half, Flower mods that stand outside any attack's (what a liar makes up
is encrypted like anybody's update), and a server's half, a few calls that `strategies.Hive` makes
in every round. Each has a harmless default here, so that a protection defines what it needs.

On the wire a protected reply keeps the model's schema in ``arrays``: a hidden coordinate holds the
value that was sent to the client, which is an update of zero. What is hidden travels in records
of its own, named by ``records``, which a strategy that does not know them refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedhive.flower import Layout

if TYPE_CHECKING:
    from fedhive.leakage.view import View
    from strategies.combine import Cohort

Vector = NDArray[np.float32]
Handler = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Handler], Message]
Setting = int | float | str | bytes
"""A value of Flower's ConfigRecord that a protection may send."""


@dataclass(frozen=True)
class Request:
    """What the server knows when it is about to ask the nodes of a round.

    Args:
        round: number of the round, from 1.
        current: the model that is sent, float32 [P].
        layout: its names and shapes.
        chosen: how likely the selection was to pick each node that is asked, by id; None if it
            does not say.
        known: ids of all nodes that the hive has had so far, ascending.
        idle: ids of the nodes that could have been picked.
        weights: the selection's weight of each node that is asked, by id.
    """

    round: int
    current: Vector
    layout: Layout
    chosen: Mapping[int, float | None]
    known: Sequence[int] = ()
    idle: Sequence[int] = ()
    weights: Mapping[int, float] | None = None


@dataclass(frozen=True)
class SentModel:
    """What a reply answers.

    Args:
        node: who sent it.
        round: in which round it was asked.
        base: the model that it was sent, float32 [P].
        layout: its names and shapes.
        weight: the selection's weight of the node.
    """

    node: int
    round: int
    base: Vector
    layout: Layout
    weight: float = 1.0


@dataclass(frozen=True)
class Step:
    """A round that is being combined: what a protection may reveal sums of.

    Args:
        cohort: the usable replies, by node; hidden coordinates are those of the model sent.
        proposed: the model that the rule makes of what is in the clear, float32 [P].
        opened: what `Protection.open` gave for each reply, in the cohort's order.
        combine: the rule (``strategies.combine.Combine``).
        state: the rule's memory before this round.
        grid: for asking key holders; None where the strategy is driven without one.
    """

    cohort: Cohort
    proposed: Vector
    opened: Sequence[Any]
    combine: Any
    state: Mapping[str, Vector]
    grid: Grid | None


@dataclass(frozen=True)
class Release:
    """What comes out of a protected round.

    Args:
        model: the proposed model with what was revealed, float32 [P]; None if nothing can be
            released, and the model stays as it is.
        reason: why not, or a remark for the run's record.
        left_out: nodes whose replies were not used, with the reason.
    """

    model: Vector | None
    reason: str = ""
    left_out: Mapping[int, str] | None = None


class Protection:
    """No protection; what each kind of it may redefine."""

    records: tuple[str, ...] = ()
    """Names of the records that protected replies carry beside the usual ones."""
    metrics: tuple[str, ...] = ()
    """Names of metrics that protected replies carry beside the usual ones."""
    moves_alone: bool = False
    """Whether `reveal` is also asked in a round without usable replies, so that noise may hide
    that there were none."""

    # ---- before the run -----------------------------------------------------------------------

    def check(self, cfg: Mapping[str, Any]) -> None:
        """Refuse a configuration that this cannot work with.

        Args:
            cfg: the composed configuration.

        Raises:
            UserError: saying which combination, why, and what to do.
        """

    # ---- client -------------------------------------------------------------------------------

    def mods(self, node_number: int) -> Sequence[Mod]:
        """What machine ``node_number`` runs around its trainer, outermost first.

        Each mod sees every message of the node, whatever its type, and must hand on those that
        are none of its business.
        """
        return ()

    def sealed_bytes(self, node_number: int, layout: Layout) -> int:
        """What a reply of machine ``node_number`` takes on the wire beside the model, bytes.

        A simulated world times transfers by it before the reply is computed.
        """
        return 0

    def answer(self, message: Message, context: Context) -> Message:
        """A node's answer to a message of type ``query.protection``.

        Raises:
            ValueError: by default: nobody asks.
        """
        raise ValueError(f"{type(self).__name__} answers no queries")

    # ---- server -------------------------------------------------------------------------------

    def prepare(self, request: Request, grid: Grid | None) -> bool:
        """Settle what must be settled before anybody is asked to train, such as a common mask.

        Called before every round's instructions; ``chosen`` is empty.

        Returns:
            Whether that is settled; if not nobody is asked, and it is tried again later.
        """
        return True

    def settings(self, request: Request) -> Mapping[str, Setting]:
        """What is added to the round's instructions; called once a wave, noted by accountants."""
        return {}

    def open(self, content: RecordDict, sent: SentModel) -> tuple[RecordDict, Any]:
        """A reply without this protection's records and metrics, and what was parsed from them.

        Raises:
            fedhive.flower.Malformed: if they are not what was asked for; the reply is refused.
        """
        return content, None

    def disbelieved(self, claimed: int, counted: int) -> str:
        """Why a reply cannot be used whose number of examples is only believed in part.

        Args:
            claimed: training examples that it claims.
            counted: as many as the containment believes.

        Returns:
            The reason, or nothing if it can be used.
        """
        return ""

    def screen(
        self, opened: Mapping[int, Any], server_round: int, grid: Grid | None
    ) -> dict[int, str]:
        """Which replies could not be revealed with the others, and why, before they are combined.

        Args:
            opened: what `open` gave for each usable reply, by node.
            server_round: the round.
            grid: for asking key holders.
        """
        return {}

    def reveal(self, step: Step) -> Release:
        """The proposed model with the sums of what is hidden; called once a round."""
        return Release(step.proposed)

    def epsilon(self) -> float | None:
        """Of the differential privacy promised, after the rounds so far; None for no promise."""
        return None

    def facts(self) -> dict[str, Any]:
        """For ``protection.json``: what it cost, who could see what, what is claimed and why."""
        return {}

    def summary(self) -> dict[str, Any]:
        """Keys for ``summary.json``, each documented in docs/run-directory.md."""
        return {}

    def state(self) -> dict[str, Any]:
        """Plain data that a checkpoint must save."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""

    # ---- what is left to see ------------------------------------------------------------------

    def view(self, view: View) -> View:
        """What a role sees under this protection; only ever less than before."""
        return view
