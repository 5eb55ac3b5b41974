"""Attack a recorded run in a process of its own, and score what comes back."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedhive.errors import UserError
from fedhive.leakage.question import Question, ask, shares_of
from fedhive.leakage.score_inference import Membership, score_membership
from fedhive.leakage.store import FOLDER, ViewStore
from fedhive.results.rundir import RunDir

RESULTS = "membership.json"
"""Where results go in a run directory."""


def measure(
    run_dir: Path,
    attacks: Mapping[str, Mapping[str, Any]],
    subjects: Sequence[int] | None = None,
    others: int = 500,
    seed: int = 0,
    role: Literal["server", "client"] = "server",
) -> list[dict[str, Any]]:
    """One row for each subject and attack: its AUC and TPR with intervals.

    Args:
        run_dir: of a run with observer=server.
        attacks: configuration nodes by name, as ``conf/inference`` has them.
        subjects: numbers among the recorded nodes, from 0; None for all.
        others: non-members to ask about.
        seed: draws candidates.
        role: "server" asks about each subject by the server's views of all; "client" about all
            others by what the subject saw as a client, which needs every client in every round.

    Raises:
        UserError: nothing recorded, no such subject, or an attack that needs more than there is.
    """
    store = ViewStore(run_dir / FOLDER)
    nodes = store.nodes()
    chosen = range(len(nodes)) if subjects is None else subjects
    if any(not 0 <= number < len(nodes) for number in chosen):
        raise UserError(
            f"subjects: views of {len(nodes)} nodes were recorded, 0 to {len(nodes) - 1}"
        )
    answers: dict[int, NDArray[np.bool_]] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in chosen:
            # The accomplice is the next node; with one node there is none to learn from.
            colluder = nodes[(number + 1) % len(nodes)]
            asked = [nodes[number]]
            job: dict[str, Any] = {"attacks": attacks, "subject": nodes[number],
                   "colluder": colluder if colluder != nodes[number] else -1}  # fmt: skip
            if role == "client":
                shares = shares_of(RunDir(run_dir))
                asked = [node for node in shares if node != nodes[number]]
                job["shares"] = shares
            question = ask(RunDir(run_dir), asked, colluder, others, seed)
            answers[number] = question.member
            _write(Path(folder) / str(number), job, question)
        _work(store.path, [Path(folder) / str(number) for number in chosen])
        for number in chosen:
            with np.load(Path(folder) / str(number) / "scores.npz", allow_pickle=False) as scores:
                for name in scores.files:
                    found = score_membership(scores[name], answers[number])
                    shown = name if role == "server" else f"{name}, {role}"
                    rows.append({"attack": shown, "subject": number, **_plain(found)})
    return rows


def save(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows beside what was measured before with other attacks; the file."""
    path = run_dir / RESULTS
    kept = json.loads(path.read_text()) if path.is_file() else []
    fresh = {(row["attack"], row["subject"]) for row in rows}
    kept = [row for row in kept if (row["attack"], row["subject"]) not in fresh]
    text = ",\n".join(json.dumps(row) for row in [*kept, *rows])
    temporary = path.with_suffix(".tmp")
    temporary.write_text(f"[\n{text}\n]\n")
    os.replace(temporary, path)
    return path


def _write(place: Path, job: Mapping[str, Any], question: Question) -> None:
    """What the adversary is told: all of the question but its answer."""
    place.mkdir()
    (place / "job.json").write_text(json.dumps(job))
    for name in ("candidates", "public", "colluder"):
        x, y = getattr(question, name)
        np.savez(place / f"{name}.npz", allow_pickle=False, x=x, y=y)


def _work(views: Path, jobs: Sequence[Path]) -> None:
    """Let a process score the jobs that is told where they and the views lie, and no more."""
    done = subprocess.run(
        [sys.executable, "-m", "attacks.inference.worker", str(views.resolve()), *map(str, jobs)],
        capture_output=True, text=True, check=False, env=_environment(),
    )  # fmt: skip
    if done.returncode == 2:
        raise UserError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError(f"the attack's process failed:\n{done.stderr}")


def _environment() -> dict[str, str]:
    """This process's, with our packages on the path wherever it was started from."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if not path else root + os.pathsep + path}


def _plain(found: Membership) -> dict[str, Any]:
    """Numbers for JSON; null where unknown."""
    row: dict[str, Any] = {"auc": found.auc.value, "auc_low": found.auc.low,
                           "auc_high": found.auc.high}  # fmt: skip
    for fpr, rate in found.tpr.items():
        values = asdict(rate)
        row |= {f"tpr_{fpr:g}{end}": None if math.isnan(values[key]) else values[key]
                for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))}  # fmt: skip
    return {**row, "members": found.members, "others": found.others}
