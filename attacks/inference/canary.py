"""Clients that send a random direction instead of what they learnt, to be found again.

They audit a run's privacy from inside (`fedhive.leakage.canaries`) and harm nothing but the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message

from attacks.exchange import Handler, trained
from fedhive import config
from fedhive.client import client_number
from fedhive.errors import UserError
from fedhive.leakage.canaries import Estimate, canary, cosines_of, one_shot
from fedhive.learning import weights
from fedhive.learning.workbench import workbench
from fedhive.results.rundir import RunDir


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


def audit_run(run_dir: Path, delta: float = 1e-5, confidence: float = 0.95) -> Estimate:
    """Estimate epsilon from the final model of a run with ``attack=canaries``.

    The adversary is a reader of the final model: it compares that with the initial one.

    Assumptions: those of `fedhive.leakage.canaries.one_shot`; besides, that every canary took part
    equally often, and that the server moved by plain averages.

    Args:
        run_dir: of a finished run.
        delta: in (0, 1).
        confidence: of the interval.

    Raises:
        UserError: if the run had no canaries or left no model.
    """
    cfg = RunDir(run_dir).config()
    attack = config.build(cfg.get("attack") if cfg else None, "attack")
    behaviour = getattr(attack, "behaviour", None)
    if not isinstance(behaviour, Canary):
        raise UserError(f"{run_dir} is no run with canaries; use attack=canaries")
    bench = workbench(config.dumps(cfg))
    moved = weights.load(run_dir, bench.layout).astype(np.float64) - bench.initial.numpy()
    numbers = sorted(attack.members(bench.nodes, bench.seed))
    found = cosines_of(moved, behaviour.seed, numbers)
    return one_shot(found, len(moved), delta=delta, confidence=confidence)
