"""Methods in which noise by the server would not bound one client's influence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedhive import config
from fedhive.errors import UserError


def check_server_noise(cfg: Mapping[str, Any], protection: object) -> None:
    """Refuse what lets one client weigh more than 1, or act on what others do.

    Raises:
        UserError: naming the part and the reason.
    """
    combine = cfg.get("combine") or {}
    if combine.get("_target_") != "strategies.combine.Mean":
        name = str(combine.get("_target_", "nothing")).rpartition(".")[2]
        raise UserError(
            f"combine {name} is not a sum in which each client's part is bounded by protection."
            "clip: with noise by the server use combine=mean combine.weighting=uniform, or let "
            "clients add it with protection.noise=client"
        )
    if combine.get("weighting") != "uniform":
        raise UserError(
            f"combine.weighting={combine.get('weighting')} lets clients with more data weigh "
            "more, so protection.clip would not bound their part; add combine.weighting=uniform"
        )
    trigger = _part(cfg, "trigger")
    if trigger is not None and (getattr(trigger, "leftover", "drop") == "keep"):
        raise UserError(
            f"trigger {type(trigger).__name__} uses replies of earlier rounds, whose clients are "
            "counted and noised in another round; with noise by the server use trigger=all"
        )
    for group in ("trigger", "schedule"):
        part = _part(cfg, group)
        if hasattr(part, "learn"):
            raise UserError(
                f"{group} {type(part).__name__} learns from the clients' exact updates, and what "
                f"it then does tells of them; with noise by the server use another {group}"
            )
    layers = (cfg.get("protection") or {}).get("layers") or []
    if len(layers) > 1:
        raise UserError(
            "protection: noise by the server needs the updates in the clear, to clip them; inside "
            "a stack let clients add it with noise=client"
        )


def _part(cfg: Mapping[str, Any], group: str) -> Any:
    node = cfg.get(group)
    return None if node is None else config.build(node, group)
