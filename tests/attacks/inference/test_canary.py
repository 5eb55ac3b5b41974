from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from attacks.inference.canary_audit import audit_run
from fedhive import config
from fedhive.compose import compose
from fedhive.errors import UserError
from fedhive.launch import launch
from fedhive.leakage.audit import gaussian_eps
from fedhive.learning import weights
from fedhive.learning.workbench import workbench
from fedhive.results.rundir import RunDir

NODES, CANARIES, ROUNDS = 60, 50, 2
WORLD = (
    "data=mnist5k", "partition=iid", f"nodes={NODES}", f"rounds={ROUNDS}", "eval_every=2",
    "model=softmax_regression", "selection=all", "local_work=steps", "local_work.steps=1",
    "progress=false", "combine.weighting=uniform", "attack=canaries", f"attack.count={CANARIES}",
)  # fmt: skip


def test_canaries_find_what_the_accountant_says(tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    summary = launch(compose([*WORLD, "protection=dp_client"]), tmp_path / "run")
    found = audit_run(tmp_path / "run")
    assert found.canaries == CANARIES
    # Two rounds of noise multiplier 1 are sqrt(2)-GDP; the model also holds the canaries
    # themselves and ten honest clients' updates of norm 1 at most, in two rounds.
    size = 7850
    least, most = (
        ROUNDS / math.sqrt(ROUNDS + ROUNDS**2 * (CANARIES + benign) / size)
        for benign in (10**2, 0)
    )
    assert found.mu_low < most
    assert found.mu_high > least
    assert summary["epsilon"] == pytest.approx(gaussian_eps(math.sqrt(2), 1e-5), rel=0.02)
    assert found.low < summary["epsilon"] < 3 * found.high
    assert found.spread_p > 1e-3


def test_without_protection_the_cosines_are_those_of_the_sum(tmp_path: Path) -> None:
    cfg = compose([*WORLD, f"attack.count={NODES}", "rounds=1"])
    launch(cfg, tmp_path / "run")
    bench = workbench(config.dumps(RunDir(tmp_path / "run").config()))
    moved = weights.load(tmp_path / "run", bench.layout) - bench.initial.numpy()
    # The mean of orthogonal unit directions has norm 1 / sqrt(n) and cosine 1 / sqrt(n) with each.
    assert np.linalg.norm(moved) == pytest.approx(1 / math.sqrt(NODES), rel=0.1)
    found = audit_run(tmp_path / "run")
    assert found.mu / math.sqrt(7850) == pytest.approx(1 / math.sqrt(NODES), rel=0.1)


def test_a_run_without_canaries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run with canaries"):
        audit_run(tmp_path)
