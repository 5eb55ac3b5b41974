"""``python -m attacks.reconstruction RUN_DIR ATTACK``: attack what observer=server recorded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from attacks.reconstruction.attacks import ATTACKS
from attacks.reconstruction.guess import Guess
from attacks.reconstruction.offline import reconstruct
from fedhive.errors import UserError
from fedhive.leakage.store import FOLDER, ViewStore
from fedhive.leakage.threats import THREATS


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack and say what came of it; exit status 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(prog="python -m attacks.reconstruction", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory, or a folder of recorded views")
    parser.add_argument("attack", choices=list(ATTACKS))
    parser.add_argument("--node", type=int, action="append", help="node id; all by default")
    parser.add_argument("--round", type=int, action="append", help="rounds it may look at")
    parser.add_argument("--threat", choices=list(THREATS), help="keep only this one's knowledge")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    folder = options.run / FOLDER if (options.run / FOLDER).is_dir() else options.run
    try:
        found = reconstruct(
            ViewStore(folder), options.attack, options.node, options.round, options.threat,
            options.seed,
        )  # fmt: skip
    except UserError as error:
        print(f"fedhive: {error}", file=sys.stderr)
        return 2
    for node, guess in found.items():
        if isinstance(guess, Guess):
            proved = f", {int(guess.certified.sum())} certified" if guess.certified.any() else ""
            print(f"node {node}: {len(guess)} samples{proved}")
        else:
            print(f"node {node}: none ({guess})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
