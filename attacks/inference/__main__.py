"""Which members does a recorded run betray?

    python -m attacks.inference RUN_DIR [inference=CHOICE,CHOICE...] [inference.KEY=VALUE...]
                                [subjects=0,1,...] [others=500] [seed=0] [role=client]

``RUN_DIR`` is of a run with ``observer=server``. Attacks are the choices of ``conf/inference``;
without ``inference=`` all are mounted. Each works in a process of its own that is given the
recorded views, candidate records in random order, and data of the adversary's own. With
``role=client`` each subject looks itself, as a client that sees global models, and asks about all
others' data. Results go to ``membership.json`` in the run directory, and from there to its report.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedhive.errors import UserError
from fedhive.leakage.score_inference import Interval

USAGE = "usage: python -m attacks.inference RUN_DIR [inference=CHOICE,CHOICE...] [KEY=VALUE...]"

ALONE = ("loss", "loss_drop", "cosine", "gradient_difference")
"""Attacks that need one view and nothing else, which is what a curious client has."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit status: 0 done, 2 the user's mistake."""
    try:
        _measure(arguments)
    except UserError as mistake:
        print(f"attacks.inference: {mistake}", file=sys.stderr)
        return 2
    return 0


def _measure(arguments: Sequence[str]) -> None:
    from attacks.inference.measure import measure, save

    folders = [word for word in arguments if "=" not in word]
    if len(folders) != 1 or folders[0].startswith("-"):
        raise UserError(
            "usage: python -m attacks.inference RUN_DIR [inference=CHOICES] [KEY=VALUE]"
        )
    given = dict(word.split("=", 1) for word in arguments if "=" in word)
    options = {key: value for key, value in given.items() if key.startswith("inference.")}
    unknown = set(given) - set(options) - {"inference", "subjects", "others", "seed", "role"}
    if unknown:
        raise UserError(f"{min(unknown)}: no such key; see python -m attacks.inference")
    role = given.get("role", "server")
    if role not in ("server", "client"):
        raise UserError(f"role={role}: server or client")
    usual = choices() if role == "server" else list(ALONE)
    names = given["inference"].split(",") if "inference" in given else usual
    attacks = {name: _composed(name, [f"{k}={v}" for k, v in options.items()]) for name in names}
    subjects = None
    if "subjects" in given:
        subjects = [_integer("subjects", word) for word in given["subjects"].split(",")]
    run_dir = Path(folders[0])
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is not a directory; give the directory of a recorded run")
    others, seed = (_integer(key, given.get(key, base)) for key, base in
                    (("others", "500"), ("seed", "0")))  # fmt: skip
    rows = measure(
        run_dir, attacks, subjects, others, seed, "client" if role == "client" else "server"
    )
    path = save(run_dir, rows)
    _show(rows)
    print(f"results: {path}")


def choices() -> list[str]:
    """Names in the group ``inference``."""
    import conf

    return sorted(file.stem for file in (Path(conf.__file__).parent / "inference").glob("*.yaml"))


def _composed(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """One choice as a plain tree, with Hydra's overrides."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if name not in choices():
        raise UserError(f"inference={name}: no such choice; there are {', '.join(choices())}")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            composed = compose(f"inference/{name}", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"inference={name}: {str(error).splitlines()[0]}") from error
    tree = OmegaConf.to_container(composed.inference, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _integer(key: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UserError(f"{key}={word}: a whole number is needed") from None


def _show(rows: Sequence[dict[str, Any]]) -> None:
    from fedhive.leakage.score_inference import over_subjects

    names = list(dict.fromkeys(row["attack"] for row in rows))
    subjects = len({row["subject"] for row in rows})
    print(f"membership: mean over {subjects} subjects (95 % interval over subjects)")
    print(f"{'':20}{'AUC':<24}{'TPR at 1 % FPR':<24}{'TPR at 0.1 % FPR':<24}".rstrip())
    for name in names:
        mine = [row for row in rows if row["attack"] == name]
        cells = []
        for key in ("auc", "tpr_0.01", "tpr_0.001"):
            known = [row[key] for row in mine if row[key] is not None]
            cells.append(_cell(over_subjects(known)) if known else "too few others")
        print(f"{name:<20}" + "".join(f"{cell:<24}" for cell in cells).rstrip())


def _cell(mean: Interval) -> str:
    if math.isnan(mean.low):
        return f"{mean.value:.3f}"
    return f"{mean.value:.3f} ({mean.low:.3f}-{mean.high:.3f})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
