"""A membership question about a finished run: candidates, and apart from them the answer.

This module holds the truth. Attacks get `Question.candidates` in an order that tells nothing, and
what the adversary owns; the answer stays with who scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhive import config, seeding
from fedhive.errors import UserError
from fedhive.learning.workbench import Workbench, workbench
from fedhive.results.rundir import RunDir
from fedhive.world.grid import FIRST_NODE_ID

Examples = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Inputs [n, ...] as the model takes them and labels [n]."""


@dataclass(frozen=True, eq=False)
class Question:
    """Which of these records did the subject train on?

    Args:
        candidates: the subject's training records and as many others as asked for, shuffled.
        member: the answer, bool [n].
        public: other records of the same kind, for the adversary; no candidate is among them.
        colluder: training records of a client that works with the adversary.
    """

    candidates: Examples
    member: NDArray[np.bool_]
    public: Examples
    colluder: Examples


def ask(run: RunDir, nodes: Sequence[int], colluder: int, others: int, seed: int) -> Question:
    """The question about some nodes of a run, from the run's configuration.

    Members are those nodes' shares of the training data, or as many of them, drawn, as there are
    non-members for a group. Non-members and the adversary's own data
    are drawn from the test data, which no client has, without overlap.

    Args:
        run: a finished run on simulated machines.
        nodes: ids of the subjects: one, or a group of which only a sum is seen.
        colluder: id of the adversary's accomplice.
        others: how many non-members.
        seed: of the draws.

    Raises:
        UserError: if clients' data cannot be told from the configuration, or the test data are
            too few.
    """
    cfg = run.config()
    if not cfg:
        raise UserError(f"{run.path} holds no run (no config.json); give a run directory")
    if cfg.get("placement") is not None:
        raise UserError(
            f"{run.path} moved data between machines while it ran (placement), so that members "
            "are not known; use a run with placement=null"
        )
    bench = workbench(config.dumps(cfg))
    spare = len(bench.data.y_test) - others
    if others < 1 or spare < 1:
        raise UserError(
            f"others={others}: the test data have {len(bench.data.y_test)} records, and some "
            "must be left for the adversary"
        )
    rng = seeding.stream(seed, "question", *nodes)
    drawn = rng.permutation(len(bench.data.y_test))
    inside = np.concatenate([bench.parts[_number(bench, node)] for node in nodes])
    if len(nodes) > 1 and len(inside) > others:
        inside = np.sort(rng.choice(inside, others, replace=False))
    x = np.concatenate([bench.data.x_train[inside], bench.data.x_test[drawn[:others]]])
    y = np.concatenate([bench.data.y_train[inside], bench.data.y_test[drawn[:others]]])
    member = np.arange(len(y)) < len(inside)
    order = rng.permutation(len(y))
    public = drawn[others:]
    theirs = bench.parts[_number(bench, colluder)]
    return Question(
        (x[order], y[order]),
        member[order],
        (bench.data.x_test[public], bench.data.y_test[public]),
        (bench.data.x_train[theirs], bench.data.y_train[theirs]),
    )


def _number(bench: Workbench, node: int) -> int:
    number = node - FIRST_NODE_ID
    if not 0 <= number < bench.nodes:
        raise UserError(
            f"node {node} is not one of this run's {bench.nodes} simulated machines, whose data "
            "are known"
        )
    return number


def shares_of(run: RunDir) -> dict[int, float]:
    """Weight of each node in a plain average of all, by id, as ``combine.weighting`` has it.

    Raises:
        UserError: if the run did not average linearly, or not over all nodes in each round, so
            that a client cannot take its part out with these weights.
    """
    cfg = run.config()
    combine = cfg.get("combine") or {}
    linear = combine.get("_target_") == "strategies.combine.Mean"
    server = cfg.get("server_opt") or {}
    plain = server.get("_target_") == "strategies.server_opt.FedAvg" and server.get("lr") == 1.0
    weighting = combine.get("weighting")
    if not (linear and plain and weighting in ("examples", "uniform")):
        raise UserError(
            f"{run.path}: a client can take its own part out of a plain average only; use a run "
            "with combine=mean, weighting examples or uniform, and server_opt=fedavg"
        )
    if any(row["completed"] != int(cfg["nodes"]) for row in run.rounds()):
        raise UserError(f"{run.path}: in some rounds not all clients took part; use selection=all")
    bench = workbench(config.dumps(cfg))
    sizes = [1 if weighting == "uniform" else len(part) for part in bench.parts]
    return {FIRST_NODE_ID + k: size / sum(sizes) for k, size in enumerate(sizes)}
