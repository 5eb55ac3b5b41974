"""Clients that send a random direction instead of what they learnt, to be found again.

They audit a run's privacy from inside (`fedhive.leakage.canaries`) and harm nothing but the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Context, Message

from attacks.exchange import Handler, trained
from fedhive.client import client_number
from fedhive.leakage.canaries import canary


@dataclass(frozen=True)
class Canary:
    """A Flower client mod: the update is ``norm`` times the client's own unit direction.

    Andrew et al. (ICLR 2024), who send the same direction in each round that a canary is asked.

    Args:
        seed: of the directions; whoever knows it can find them, so that on real machines it is
            the auditor's alone.
        norm: length of the update; the clipping norm or more, so that clipping leaves all of it.
    """

    seed: int = 0
    norm: float = 1.0

    def __call__(self, message: Message, context: Context, call_next: Handler) -> Message:
        """Train, then send the direction."""
        reply = call_next(message, context)
        told = trained(message, reply)
        if told is None:
            return reply
        direction = canary(self.seed, client_number(context), len(told.update))
        return told.send(torch.from_numpy(direction * np.float32(self.norm)))
