"""The adversary plays the subject with data of its own: what would have been seen then?"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from attacks.inference.probe import Records
from fedhive.leakage.view import Exchange, Vector, View
from fedhive.learning.sgd import LocalJob, LocalSGD
from fedhive.learning.workbench import shuffled


class Rehearsal:
    """Local training like the subject's, and what its view would show of it.

    Assumes plain SGD with the rate, steps and batch size that the view knows, in an order of
    samples that nobody knows. The view's channel and its mask are applied to what is rehearsed,
    so that rehearsed and real updates have the same law if the data have.

    Args:
        model: the architecture.
        view: of the subject; must know rate, steps and batch size.

    Raises:
        ValueError: if the view does not know them.
    """

    def __init__(self, model: nn.Module, view: View) -> None:
        knows = view.knows
        if knows.lr is None or knows.steps is None or knows.batch_size is None:
            raise ValueError("a rehearsal needs to know the rate, the steps and the batch size")
        self.view = view
        self.steps, self.batch = knows.steps, knows.batch_size
        self._trainer = LocalSGD(model, knows.lr)

    def update(self, each: Exchange, data: Records, rng: np.random.Generator) -> Vector:
        """What would have been seen of a subject with these data, float32 [P].

        Args:
            each: the round: training starts from the model that was sent then.
            data: of the imagined subject.
            rng: draws the order of samples, and the channel's noise.
        """
        batch = min(self.batch, len(data))
        order = shuffled(len(data), batch * self.steps, rng)
        sent = torch.from_numpy(each.sent.copy())
        result = self._trainer.run(sent, LocalJob(data.x, data.y, order, [batch] * self.steps))
        seen = self.view.channel.apply((result.params - sent).numpy(), rng)
        return np.asarray(seen * self.view.visible, np.float32)

    def subset(self, data: Records, rng: np.random.Generator) -> Records:
        """As many records as the subject has, drawn without replacement.

        Raises:
            ValueError: if there are too few, or the view does not know how many it has.
        """
        count = self.view.knows.examples
        if count is None or count > len(data):
            raise ValueError(f"{count} examples are needed, and {len(data)} are at hand")
        return data.at(np.sort(rng.choice(len(data), count, replace=False)))
