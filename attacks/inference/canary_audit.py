"""Reads epsilon off a run with canaries; the auditor knows the run and all directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attacks.inference.canary import Canary
from fedhive import config
from fedhive.errors import UserError
from fedhive.leakage.canaries import Estimate, cosines_of, one_shot
from fedhive.learning import weights
from fedhive.learning.workbench import workbench
from fedhive.results.rundir import RunDir


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
