"""The adversary's process: sees the recorded views, candidates, and what is its own; no truth.

    python -m attacks.inference.worker VIEWS JOB...

Each ``JOB`` is a folder with ``job.json`` and archives of candidates, public data and a colluder's
data; scores go to ``scores.npz`` in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacks.inference.membership import MembershipAttack
from attacks.inference.probe import Floats, Probe, Records
from attacks.inference.series import Shadow
from fedhive import config
from fedhive.errors import UserError
from fedhive.leakage.remainder import as_client
from fedhive.leakage.store import ViewStore


def work(views: Path, job: Path) -> None:
    """Score the candidates with each attack of the job.

    Raises:
        UserError: for attacks that cannot be made, or that need more than the views tell.
    """
    torch.set_num_threads(1)
    store, plan = ViewStore(views), json.loads((job / "job.json").read_text())
    seen = store.views()
    subject, colluder = int(plan["subject"]), int(plan["colluder"])
    if subject not in seen:
        raise UserError(f"{views}: nothing was recorded of node {subject}")
    public = store.public
    if public.model is None:
        raise UserError(f"{views} does not say which model was trained")
    model = config.build(public.model, "model")(public.input_shape, public.classes)
    probe, candidates = Probe(model), _records(job / "candidates.npz")
    own, theirs = _records(job / "public.npz"), _records(job / "colluder.npz")
    known = [_shadow(seen[colluder], theirs, own)] if colluder in seen else []
    crowd = [view for node, view in seen.items() if node != subject]
    view = seen[subject]
    if (
        "shares" in plan
    ):  # the subject is who looks, as a client: it sees the others' average alone
        shares = {int(node): float(share) for node, share in plan["shares"].items()}
        view, crowd, known = as_client({subject: view}, subject, shares), [], []
    scores: dict[str, Floats] = {}
    for name, node in plan["attacks"].items():
        attack: MembershipAttack = config.build(node, f"inference {name}", data=own, known=known)
        try:
            scores[name] = attack(view, crowd, probe, candidates)
        except ValueError as error:
            raise UserError(f"inference={name}: {error}") from error
    np.savez(job / "scores.npz", allow_pickle=False, **scores)


def _shadow(view: Any, theirs: Records, own: Records) -> Shadow:
    """The colluder's own data are members, the adversary's other data are not."""
    records = Records(torch.cat([theirs.x, own.x]), torch.cat([theirs.y, own.y]))
    return Shadow(view, records, np.arange(len(records)) < len(theirs))


def _records(path: Path) -> Records:
    with np.load(path, allow_pickle=False) as archive:
        return Records(torch.from_numpy(archive["x"]), torch.from_numpy(archive["y"]))


if __name__ == "__main__":
    try:
        for folder in sys.argv[2:]:
            work(Path(sys.argv[1]), Path(folder))
    except UserError as mistake:
        print(mistake, file=sys.stderr)
        sys.exit(2)
