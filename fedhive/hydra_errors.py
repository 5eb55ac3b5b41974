"""What Hydra and OmegaConf say about a mistake, in one line that names the nearest valid word."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedhive.config import Config, nearest

ONLY_WITH = dict.fromkeys(("mask", "cipher", "keys", "path"), "protection=encryption")
"""Groups that are there only with a choice of another."""


def explain(chain: Sequence[BaseException]) -> str | None:
    """One line about an exception and its causes; None if they are not about the user's words."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    for error in chain:
        if isinstance(error, HydraException):
            return _hydra(error, chain)
    for error in chain:
        if isinstance(error, OmegaConfBaseException):
            return _one_line(str(error)) + " (see `fedhive run --cfg job`)"
    for error in chain:
        if isinstance(error, ValueError) and "Config group override must be" in str(error):
            return "a group cannot be null: choose one of its files, e.g. logger=none"
    return None


def _hydra(error: BaseException, chain: Sequence[BaseException]) -> str:
    text = str(error)
    missing = re.search(r"Could not find '([^']+)'", text) or re.search(
        r"Could not load '([^']+)'", text
    )
    if missing:
        return _no_choice(missing.group(1), text)
    group = re.search(r"Could not override '([^']+)'\.\s*(.*)", text, re.S)
    if group:
        return _no_key(group.group(1), text, chain)
    value = re.search(r"Error merging override (.*)", text)
    if value:
        detail = next((str(e) for e in chain if e is not error and str(e)), "")
        key = value.group(1).split("=", 1)[0].strip().lstrip("+~")
        if "not in" in detail:
            return _no_key(key, detail, chain)
        return f"{value.group(1).strip()}: {_one_line(detail)}"
    return _one_line(text)


def _no_choice(name: str, text: str) -> str:
    group, _, choice = name.rpartition("/")
    listed = re.search(r"Available options in '[^']*':\s*(.*)", text, re.S)
    choices = re.findall(r"^\s*([\w\-/]+)\s*$", listed.group(1), re.M) if listed else []
    known = f"; choices: {', '.join(choices)}" if choices else ""
    return f"{group or name}={choice or name}: no such choice{nearest(choice, choices)}{known}"


def _no_key(key: str, text: str, chain: Sequence[BaseException]) -> str:
    siblings: list[str] = []
    for error in chain:
        node = getattr(error, "parent_node", None)
        if node is not None and hasattr(node, "keys"):
            siblings = [str(word) for word in node.keys()]  # noqa: SIM118
    if not siblings and key.split(".")[0] in ONLY_WITH:
        return f"{key}: is there only with {ONLY_WITH[key.split('.')[0]]}; add that"
    if not siblings:
        siblings = list(Config.__dataclass_fields__)
    last = key.rsplit(".", 1)[-1]
    where = key.rsplit(".", 1)[0] if "." in key else "the configuration"
    known = sorted(word for word in siblings if not word.startswith("_"))
    listed = f"; known: {', '.join(known)}" if known else ", which has no settings"
    return f"{key}: no such key in {where}{nearest(last, known) or listed}"


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    kept = [
        line for line in lines if not line.startswith(("full_key:", "object_type=", "reference"))
    ]
    return " ".join(kept)
