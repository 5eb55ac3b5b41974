"""``fedhive trust plan``: which protection each client of a configured hive would get.

Nothing is trained: the fleet, who is on, and electricity come from the configuration, as for
`fedhive run`; trust levels, plans, rules and prices from ``protection=by_capability``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from fedhive import config
from fedhive.compose import compose
from fedhive.errors import UserError

DEFAULT = "protection=by_capability"
USAGE = """\
usage: fedhive trust plan [--json] [OVERRIDES]

  fedhive trust plan nodes=50
  fedhive trust plan nodes=50 protection.levels.tpm=0.9 protection.rules.hardware=0.5
  fedhive trust plan --json nodes=1000 fleet=phones availability=diurnal"""


def main(argv: list[str]) -> None:
    """Print the plan as tables, or as one JSON object."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return
    as_json = "--json" in argv
    words = [word for word in argv if word != "--json"]
    if unknown := [word for word in words if word.startswith("-")]:
        raise UserError(f"unrecognized option {unknown[0]} (see `fedhive trust plan --help`)")
    cfg = compose((DEFAULT, *words))
    chooser: Any = config.build(cfg["protection"], "protection")
    if not hasattr(chooser, "plan_for"):
        raise UserError("fedhive trust plan needs protection=by_capability, or one like it")
    with _quiet():
        found = chooser.plan_for(cfg)
    if as_json:
        print(found.as_json())
    else:
        found.show()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """HiGHS sometimes prints a line of its own to standard output; it goes nowhere."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
