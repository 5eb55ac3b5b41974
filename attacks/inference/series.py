"""Membership from the time series of a record's probability, by a small trained network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from attacks.inference.probe import Floats, Probe, Records
from fedhive import seeding
from fedhive.leakage.view import View


@dataclass(frozen=True, eq=False)
class Shadow:
    """Records of which the adversary knows whether they were trained on, and by whom.

    Of the subject itself, if some of its records are known; or of a client that colludes with the
    adversary, whose own data are members and other data are not.

    Args:
        view: of the client in question.
        records: n of them.
        member: bool [n], whether that client trained on it.
    """

    view: View
    records: Records
    member: NDArray[np.bool_]


@dataclass(frozen=True)
class ProbabilitySeries:
    """A network that reads the probability of the record's label round by round.

    Zari, Xu and Neglia, "Efficient passive membership inference attack in federated learning"
    (NeurIPS 2021 workshop PriML, arXiv:2111.00430): an eavesdropper on one client computes, for
    each round, the probability of the right label under the model that the client returned, and
    feeds the series to a small network trained on records of known membership. Here the series is
    on the scale log(p / (1 - p)), beside that under the model that was sent, and the network has
    one hidden layer; the full text was not at hand, so that details may differ.

    Assumptions: the shadows' series have the law of the subject's, hence the same rounds, steps
    and rates and data alike; the attack is as good as there are shadows.

    Args:
        known: what the adversary has to train on.
        hidden: units.
        steps: of full-batch Adam at rate 0.01 with weight decay.
        decay: of the weights.
        seed: of the initial weights.
    """

    known: Sequence[Shadow]
    hidden: int = 16
    steps: int = 300
    decay: float = 1e-2
    seed: int = 0

    def __call__(
        self, view: View, crowd: Sequence[View], probe: Probe, records: Records
    ) -> Floats:
        """Log odds of membership for each record, [n].

        Raises:
            ValueError: if there are no members or no others among the shadows, or no round that
                all views share.
        """
        common = sorted(set.intersection(
            *({each.round for each in one.exchanges}
              for one in (view, *(shadow.view for shadow in self.known)))
        ))  # fmt: skip
        if not common or not self.known:
            raise ValueError("shadows and a round that all views share are needed")
        known = np.concatenate(
            [series(shadow.view, common, probe, shadow.records) for shadow in self.known]
        )
        member = np.concatenate([shadow.member for shadow in self.known])
        if member.all() or not member.any():
            raise ValueError("among the shadows must be members and others")
        asked = series(view, common, probe, records)
        centre, scale = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-6)
        return self._learn((known - centre) / scale, member, (asked - centre) / scale)

    def _learn(self, known: Floats, member: NDArray[np.bool_], asked: Floats) -> Floats:
        x = torch.from_numpy(known.astype(np.float32))
        y = torch.from_numpy(member.astype(np.float32))
        # Members and others weigh the same, however many there are of each.
        weight = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeding.torch_seed(self.seed, "series"))
            network = nn.Sequential(
                nn.Linear(x.shape[1], self.hidden), nn.Tanh(), nn.Linear(self.hidden, 1)
            )
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=self.decay)
        for _ in range(self.steps):
            optimiser.zero_grad()
            outputs = network(x)[:, 0]
            F.binary_cross_entropy_with_logits(outputs, y, weight).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            scores = network(torch.from_numpy(asked.astype(np.float32)))[:, 0]
        return np.asarray(scores.double().numpy())


def series(view: View, rounds: Sequence[int], probe: Probe, records: Records) -> Floats:
    """Log odds of each record's label in each of the rounds, [n, 2 * rounds].

    First those under the models returned, then those under the models sent.
    """
    chosen = [each for each in view.exchanges if each.round in set(rounds)]
    models = [*(each.sent + each.seen for each in chosen), *(each.sent for each in chosen)]
    return np.stack([probe.confidences(weights, records) for weights in models], axis=1)
