"""``python -m fedhive.leakage RUN_DIR``: compare attacks' guesses with the truth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedhive.errors import UserError
from fedhive.leakage.judge import judge


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a guess; exit status 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(prog="python -m fedhive.leakage", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory with recorded views")
    options = parser.parse_args(arguments)
    try:
        rows = judge(options.run)
    except UserError as error:
        print(f"fedhive: {error}", file=sys.stderr)
        return 2
    print("attack                round   node  examples  samples  mean dB  best dB  >= 30 dB")
    for row in rows:
        print(
            f"{row['attack']:20} {row['round']:6} {row['node']:6} {row['examples']:9} "
            f"{row['samples']:8} {_number(row['psnr_mean']):>8} {_number(row['psnr_best']):>8} "
            f"{100 * row['recall']:8.0f}%"
        )
    return 0


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
