"""The view: all that an adversary in a given place sees under a given protection.

Attacks get a view (and the public description of model and data) and nothing else; protections
say what they leave of one. A view can be restricted, which only ever removes information: by the
data processing inequality no attack can gain from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from fedhive.flower import Layout
from fedhive.leakage.channel import Channel, Gain, Knowledge, Mask, Vector

__all__ = [
    "Channel",
    "Exchange",
    "Gain",
    "Knowledge",
    "Mask",
    "Role",
    "Vector",
    "View",
    "together",
]

Role = Literal["server", "client", "eavesdropper", "device"]
"""Who looks: the server, another client, somebody on the line, the device's own system."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """What was sent to the subject in one round and what is seen of its answer.

    Args:
        round: number of the round.
        sent: the model that the subject received, float32 [P].
        seen: its update, model returned - model sent, as far as it can be seen: float32 [P], 0
            in hidden coordinates.
    """

    round: int
    sent: Vector
    seen: Vector


@dataclass(frozen=True, eq=False)
class View:
    """All that an adversary may use.

    Args:
        role: who looks.
        subjects: node ids; where there are several only their weighted sum is visible.
        weights: of the sum, one a subject; (1.0,) for one.
        exchanges: by round, ascending.
        visible: bool [P], True where ``seen`` shows the update.
        layout: names and shapes of the parameters.
        channel: what happened to the visible numbers.
        knows: what else is known.

    Raises:
        ValueError: where sizes disagree, or a hidden coordinate of an exchange is not 0.
    """

    role: Role
    subjects: tuple[int, ...]
    weights: tuple[float, ...]
    exchanges: tuple[Exchange, ...]
    visible: Mask
    layout: Layout
    channel: Channel = field(default_factory=Channel)
    knows: Knowledge = field(default_factory=Knowledge)

    def __post_init__(self) -> None:
        size = sum(math.prod(shape) for _, shape in self.layout)
        if self.visible.dtype != np.bool_ or self.visible.shape != (size,):
            raise ValueError(f"visible must be bool [{size}], got {self.visible.shape}")
        if not self.subjects or len(self.weights) != len(self.subjects):
            raise ValueError("a view needs one weight for each of one or more subjects")
        hidden = ~self.visible
        for exchange in self.exchanges:
            if exchange.sent.shape != (size,) or exchange.seen.shape != (size,):
                raise ValueError(f"round {exchange.round}: vectors must have {size} numbers")
            if np.any(exchange.seen[hidden]):
                raise ValueError(f"round {exchange.round}: a hidden coordinate is not 0")
        rounds = [exchange.round for exchange in self.exchanges]
        if sorted(set(rounds)) != rounds:
            raise ValueError(f"rounds must be ascending without repetition, got {rounds}")

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return int(self.visible.size)

    @property
    def hidden_share(self) -> float:
        """The part of the coordinates that cannot be seen, 0 to 1."""
        return 1.0 - float(self.visible.mean())

    def gradient(self, number: int | None = None) -> Vector:
        """The pseudo-gradient -seen / (lr * steps) of a round (of the last by default), [P].

        Where rate or steps are unknown they count as 1: only the direction means something then.
        """
        exchange = self.exchanges[-1] if number is None else self._round(number)
        lr = self.knows.lr if self.knows.lr is not None else 1.0
        steps = self.knows.steps if self.knows.steps is not None else 1
        return np.asarray(-exchange.seen / np.float32(lr * steps), dtype=np.float32)

    def _round(self, number: int) -> Exchange:
        for exchange in self.exchanges:
            if exchange.round == number:
                return exchange
        raise KeyError(f"round {number} is not in this view")

    def restrict(
        self,
        *,
        visible: Mask | None = None,
        channel: Channel | None = None,
        knows: Knowledge | None = None,
        rounds: Iterable[int] | None = None,
        rng: np.random.Generator | None = None,
    ) -> View:
        """A view that tells no more than this one.

        Args:
            visible: bool [P]; coordinates outside it, or hidden before, are hidden.
            channel: applied to the numbers (their own channel counts as passed): clipped further,
                noised up to its sigma, rounded to its step.
            knows: the knowledge that is left.
            rounds: the rounds that are left.
            rng: for added noise.

        Raises:
            Gain: if any of these would add information.
        """
        view = self
        if rounds is not None:
            view = view._only_rounds(set(rounds))
        if channel is not None:
            view = view._through(channel, rng)
        if visible is not None:
            view = view._hide(visible)
        if knows is not None:
            if not knows.within(view.knows):
                raise Gain(f"{knows} is more than was known: {view.knows}")
            view = replace(view, knows=knows)
        return view

    def _only_rounds(self, rounds: set[int]) -> View:
        missing = rounds - {exchange.round for exchange in self.exchanges}
        if missing:
            raise Gain(f"rounds {sorted(missing)} were not in the view")
        return replace(self, exchanges=tuple(e for e in self.exchanges if e.round in rounds))

    def _hide(self, visible: Mask) -> View:
        if np.any(visible & ~self.visible):
            raise Gain("a hidden coordinate cannot become visible")
        shown = visible.astype(np.float32)
        exchanges = tuple(replace(e, seen=e.seen * shown) for e in self.exchanges)
        return replace(self, visible=visible.copy(), exchanges=exchanges)

    def _through(self, channel: Channel, rng: np.random.Generator | None) -> View:
        if not channel.within(self.channel):
            raise Gain(f"{channel} lets through more than {self.channel}")
        if channel.clip != self.channel.clip and self.channel.variance > 0:
            raise ValueError("clip before adding noise: noised updates cannot be clipped as such")
        more = math.sqrt(channel.sigma**2 - self.channel.sigma**2)
        step = channel.step if channel.step != self.channel.step or more > 0 else 0.0
        extra = Channel(channel.clip, more, step)
        shown = self.visible.astype(np.float32)
        numbers = [extra.apply(exchange.seen, rng) * shown for exchange in self.exchanges]
        if self.channel.scale_known and not channel.scale_known:
            if channel.variance > 0:
                raise ValueError("hide the scale of exact numbers: noise gives it away")
            numbers = [seen / max(float(np.linalg.norm(seen)), 1e-30) for seen in numbers]
        pairs = zip(self.exchanges, numbers, strict=True)
        exchanges = tuple(replace(e, seen=np.asarray(s, np.float32)) for e, s in pairs)
        return replace(self, channel=channel, exchanges=exchanges)

    def come_through(self, channel: Channel) -> View:
        """The same numbers, which are known to have come through ``channel`` already.

        For protections that act on the wire: they declare the law of what was recorded.
        """
        return replace(self, channel=channel)


def together(views: Sequence[View], weights: Sequence[float] | None = None) -> View:
    """The view of a weighted sum of single subjects, as secure aggregation leaves it.

    Visible are the coordinates that can be seen of all; knowledge is what is known of each alike
    (labels are joined, examples added).

    Args:
        views: of one subject each, of the same role, layout, rounds and models sent.
        weights: of the sum; 1 / n each by default.

    Raises:
        ValueError: if the views do not fit together.
    """
    first = views[0]
    shares = tuple(weights) if weights is not None else (1.0 / len(views),) * len(views)
    _check_alike(views, shares)
    visible = np.logical_and.reduce([view.visible for view in views])
    shown = visible.astype(np.float32)
    exchanges = []
    for matching in zip(*(view.exchanges for view in views), strict=True):
        if any(not np.array_equal(e.sent, matching[0].sent) for e in matching[1:]):
            raise ValueError(f"round {matching[0].round}: subjects were sent different models")
        pairs = zip(shares, matching, strict=True)
        total = sum(share * e.seen.astype(np.float64) for share, e in pairs)
        exchanges.append(replace(matching[0], seen=np.asarray(total, np.float32) * shown))
    variance = sum(s**2 * v.channel.sigma**2 for s, v in zip(shares, views, strict=True))
    clips = [view.channel.clip for view in views]
    channel = Channel(
        clips[0] if len(set(clips)) == 1 else None,
        math.sqrt(variance),
        max(share * view.channel.step for share, view in zip(shares, views, strict=True)),
        all(view.channel.scale_known for view in views),
    )
    subjects = tuple(node for view in views for node in view.subjects)
    knows = _known_of_all([view.knows for view in views])
    return View(
        first.role, subjects, shares, tuple(exchanges), visible, first.layout, channel, knows
    )


def _check_alike(views: Sequence[View], shares: Sequence[float]) -> None:
    first = views[0]
    if len(shares) != len(views):
        raise ValueError("one weight a view is needed")
    for view in views:
        alike = view.role == first.role and list(view.layout) == list(first.layout)
        rounds = [e.round for e in view.exchanges] == [e.round for e in first.exchanges]
        if len(view.subjects) != 1 or not alike or not rounds:
            raise ValueError("views must be of one subject, and alike in role, layout and rounds")


def _known_of_all(known: Sequence[Knowledge]) -> Knowledge:
    labels: tuple[int, ...] | None = ()
    examples: int | None = 0
    for one in known:
        labels = None if labels is None or one.labels is None else labels + one.labels
        examples = None if examples is None or one.examples is None else examples + one.examples

    def common(name: str) -> object:
        values = {getattr(one, name) for one in known}
        return values.pop() if len(values) == 1 else None

    alike = {name: common(name) for name in ("lr", "steps", "batch_size")}
    return Knowledge(
        labels, examples, may_edit_model=all(one.may_edit_model for one in known),
        public_data=all(one.public_data for one in known), **alike,  # type: ignore[arg-type]
    )  # fmt: skip
