"""The server's half of a method, built and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedhive import config
from fedhive.errors import UserError
from fedhive.learning.workbench import Workbench


def build_strategy(cfg: Mapping[str, Any]) -> Strategy:
    """The configured Flower strategy.

    Raises:
        UserError: if it is not one.
    """
    strategy = config.build(cfg["strategy"], "strategy")
    if not isinstance(strategy, Strategy):
        raise UserError(
            f"strategy: {type(strategy).__name__} is not a flwr.serverapp.strategy.Strategy"
        )
    least = getattr(strategy, "min_available_nodes", 0)
    if isinstance(least, int) and least > int(cfg["nodes"]):
        raise UserError(
            f"strategy.min_available_nodes={least} but the hive has nodes={cfg['nodes']}: "
            "it would wait for ever"
        )
    _check_protection(strategy, cfg)
    return strategy


def _check_protection(strategy: Strategy, cfg: Mapping[str, Any]) -> None:
    if cfg.get("protection") is None:
        return
    protection = getattr(strategy, "protection", None)
    if protection is None:
        raise UserError(
            f"strategy {type(strategy).__name__} cannot open what a protection hides: it would "
            "average what the server is not shown; use strategy=hive or protection=none"
        )
    protection.check(cfg)


def check_method(bench: Workbench, strategy: Strategy) -> None:
    """Refuse a client's half of a method without its server's half, and the other way round.

    Raises:
        UserError: naming both.
    """
    combine = getattr(strategy, "combine", None)
    other_half = getattr(bench.algorithm, "combine", None)
    if other_half is not None and type(combine).__name__ != other_half:
        raise UserError(
            f"client {type(bench.algorithm).__name__} is half of a method: add "
            f"combine={other_half.lower()} with strategy=hive"
        )
    client = type(bench.algorithm).__name__
    server = type(combine).__name__ if combine is not None else type(strategy).__name__
    sends, receives = set(bench.algorithm.sends), set(bench.algorithm.receives)
    expects = set(getattr(combine, "expects", ()))
    broadcasts = set(getattr(combine, "broadcasts", ()))
    for name in sorted((sends - expects) | (receives - broadcasts)):
        raise UserError(
            f"client {client} exchanges {name!r}, which {server} does not understand; "
            f"add combine={client.lower()} with strategy=hive"
        )
    for name in sorted((expects - sends) | (broadcasts - receives)):
        raise UserError(
            f"combine {server} exchanges {name!r}, which client {client} does not understand; "
            f"add client={server.lower()}"
        )
