"""Was this record in the subject's training data? Scores from what a passive adversary has seen.

Every attack here is a function ``(view, crowd, probe, records) -> scores [n]``, higher where it
believes "member". ``view`` is the subject's, ``crowd`` the same adversary's views of others (most
attacks ignore it). Coordinates that the view hides count as "not moved" in the model returned and
are left out of gradients; a view of a sum is attacked as if it were one subject. Scores are only
comparable within one call. How well they do is measured elsewhere, by who holds the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.special import log_ndtr

from attacks.inference.probe import Floats, Probe, Records
from fedhive.leakage.view import Exchange, Mask, View

Statistic = Literal["loss", "cosine"]


class MembershipAttack(Protocol):
    """What every membership attack looks like."""

    def __call__(
        self, view: View, crowd: Sequence[View], probe: Probe, records: Records
    ) -> Floats:
        """Score of each record, [n]."""
        ...


@dataclass(frozen=True)
class Loss:
    """Minus the loss of the returned model, which has fitted its own data best.

    Yeom, Giacomelli, Fredrikson and Jha (CSF 2018), threshold on the loss, which is left to the
    scorer. Assumes nothing but that training lowers the loss of what it sees.

    Args:
        rounds: "last" round alone, or the mean of "all".
    """

    rounds: Literal["last", "all"] = "last"

    def __call__(
        self, view: View, crowd: Sequence[View], probe: Probe, records: Records
    ) -> Floats:
        """Minus the (mean) loss."""
        chosen = view.exchanges[-1:] if self.rounds == "last" else view.exchanges
        return _mean(chosen, lambda each: -probe.losses(each.sent + each.seen, records))


@dataclass(frozen=True)
class LossDrop:
    """How much local training lowered the record's loss, mean over rounds.

    The global model's loss is the record's difficulty, taken off: a calibration in the manner of
    Watson, Guo, Cormode and Sablayrolles (ICLR 2022), with the model sent as the reference.
    """

    def __call__(
        self, view: View, crowd: Sequence[View], probe: Probe, records: Records
    ) -> Floats:
        """Mean over rounds of loss(sent) - loss(returned)."""

        def drop(each: Exchange) -> Floats:
            after = probe.losses(each.sent + each.seen, records)
            return probe.losses(each.sent, records) - after

        return _mean(view.exchanges, drop)


@dataclass(frozen=True)
class Cosine:
    """Cosine of the update with minus the record's gradient at the model sent, mean over rounds.

    Li, Li and Ribeiro (ICLR 2023): gradients of different records in overparameterised networks
    are nearly orthogonal, so that a non-member's cosine is near 0 and a member's is not. For one
    full-batch step on n orthogonal gradients of equal norm a member's is 1 / sqrt(n).
    """

    def __call__(
        self, view: View, crowd: Sequence[View], probe: Probe, records: Records
    ) -> Floats:
        """The mean cosine on the visible coordinates."""
        return _mean(view.exchanges, lambda each: cosines(each, view.visible, probe, records))


@dataclass(frozen=True)
class GradientDifference:
    """||u||^2 - ||u - g||^2 = 2 <u, g> - ||g||^2, mean over rounds.

    The other score of Li, Li and Ribeiro (ICLR 2023). u is the view's pseudo-gradient, on the
    scale of g where rate and steps are known, and g the record's gradient. Large
    gradients count against membership, unlike in `Cosine`.
    """

    def __call__(
        self, view: View, crowd: Sequence[View], probe: Probe, records: Records
    ) -> Floats:
        """The mean difference on the visible coordinates."""

        def difference(each: Exchange) -> Floats:
            inner = probe.slopes(each.sent, view.gradient(each.round), records)
            return 2 * inner - probe.gradient_norms(each.sent, records, view.visible) ** 2

        return _mean(view.exchanges, difference)


@dataclass(frozen=True)
class CrossClient:
    """How far the subject's statistic lies from that of other clients in the same round.

    FedMIA (Zhu et al., arXiv:2402.06289): whoever sees several clients gets the law of
    the statistic under "not a member" for nothing, as hardly any other client holds the record.
    ``statistic="loss"`` is their FedMIA-I, ``"cosine"`` FedMIA-II. Assumes that others' statistics
    are draws of one Gaussian and that the record is nowhere else: clients with alike data hide
    each other's members, and clients with different labels make outliers of non-members.

    Args:
        statistic: loss of the returned model (negated), or cosine of the update.
        score: "z" averages (own - mean) / deviation over rounds; "cdf" the log-probability of a
            smaller one under the Gaussian, which no single round can dominate.
        pooled: use one deviation for all records of a round; steadier with few others.
    """

    statistic: Statistic = "cosine"
    score: Literal["z", "cdf"] = "z"
    pooled: bool = False

    def __call__(
        self, view: View, crowd: Sequence[View], probe: Probe, records: Records
    ) -> Floats:
        """The mean score over those rounds in which at least two others were seen.

        Raises:
            ValueError: if there is no such round.
        """
        total, used = np.zeros(len(records)), 0
        for each in view.exchanges:
            others = [(other, found) for other in crowd
                      for found in other.exchanges if found.round == each.round]  # fmt: skip
            if len(others) < 2:
                continue
            statistic = self._of_round(each, view.visible, probe, records)
            own = statistic(each, view.visible)
            reference = [statistic(found, other.visible) for other, found in others]
            total += self._score(own, np.stack(reference))
            used += 1
        if not used:
            raise ValueError("no round shows the subject and at least two others")
        return np.asarray(total / used)

    def _of_round(
        self, first: Exchange, visible: Mask, probe: Probe, records: Records
    ) -> Callable[[Exchange, Mask], Floats]:
        """The statistic of an exchange; norms of gradients, alike for most, are taken once."""
        if self.statistic == "loss":
            return lambda each, _: -probe.losses(each.sent + each.seen, records)
        norms = probe.gradient_norms(first.sent, records, visible)

        def cosine(each: Exchange, shown: Mask) -> Floats:
            same = np.array_equal(each.sent, first.sent) and np.array_equal(shown, visible)
            return cosines(each, shown, probe, records, norms if same else None)

        return cosine

    def _score(self, own: Floats, reference: Floats) -> Floats:
        """Of one round; own [n], reference [others, n]."""
        deviation = reference.std(axis=0, ddof=1)
        if self.pooled:
            deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
        floor = 1e-6 * max(float(deviation.max()), 1e-12)
        z = (own - reference.mean(axis=0)) / np.maximum(deviation, floor)
        return np.asarray(z if self.score == "z" else log_ndtr(z))


def cosines(
    each: Exchange, visible: Mask, probe: Probe, records: Records, norms: Floats | None = None
) -> Floats:
    """Cosine of the update with minus each record's gradient, [n]; 0 where either is zero.

    Args:
        each: the exchange.
        visible: bool [P].
        probe: the architecture.
        records: n of them.
        norms: of the gradients, [n], if known.
    """
    slopes = probe.slopes(each.sent, each.seen, records)
    if norms is None:
        norms = probe.gradient_norms(each.sent, records, visible)
    lengths = norms * float(np.linalg.norm(each.seen.astype(np.float64)))
    return np.divide(-slopes, lengths, out=np.zeros_like(slopes), where=lengths > 0)


def _mean(exchanges: Sequence[Exchange], score: Callable[[Exchange], Floats]) -> Floats:
    if not exchanges:
        raise ValueError("the view holds no round")
    return np.asarray(np.mean([score(each) for each in exchanges], axis=0))
