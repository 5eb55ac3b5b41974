"""Combinations with encryption that cannot work are refused before the run, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from defenses.encryption.masks import Everything
from defenses.protection.paths import Path
from defenses.protection.sealing import Tools
from fedhive import config
from fedhive.errors import UserError
from strategies.combine import Mean


def check(tools: Tools, path: Path, cfg: Mapping[str, Any]) -> str:
    """Refuse what cannot work; else how clients are weighted.

    Args:
        tools: mask, cipher and keys.
        path: which sums are opened.
        cfg: the composed configuration.

    Returns:
        ``examples``, ``samples`` or ``uniform``.

    Raises:
        UserError: naming the combination, the reason and a way out.
    """
    combine = config.build(cfg.get("combine"), "combine")
    clients = clients_of(cfg)
    everything = isinstance(tools.mask, Everything)
    _check_exchange(combine)
    path.check(combine, everything, clients)
    _check_rounds(cfg)
    _check_learners(cfg, everything)
    _check_attack(cfg)
    _check_noise(cfg)
    tools.keys.check(tools.cipher)
    if clients > tools.cipher.capacity:
        raise UserError(
            f"cipher {tools.cipher.name} sums at most {tools.cipher.capacity} clients exactly, "
            f"and a round may bring {clients}; set cipher.clients={clients} or ask fewer"
        )
    if isinstance(combine, Mean):
        return combine.weighting
    return "uniform"


def clients_of(cfg: Mapping[str, Any]) -> int:
    """The most replies of a round, as far as the configuration tells."""
    k, nodes = (cfg.get("selection") or {}).get("k"), int(cfg["nodes"])
    return min(k, nodes) if isinstance(k, int) else nodes


def _check_exchange(combine: Any) -> None:
    name = type(combine).__name__
    extra = (*getattr(combine, "expects", ()), *getattr(combine, "broadcasts", ()))
    if extra:
        raise UserError(
            f"protection=encryption with combine {name}: clients also send {extra[0]!r}, which "
            "would tell in the clear what encryption hides; use combine=mean"
        )
    if hasattr(combine, "model_for"):
        raise UserError(
            f"protection=encryption with combine {name}: it sends each node a model of its own, "
            "made of single updates, which the server cannot open; use combine=mean"
        )


def _check_rounds(cfg: Mapping[str, Any]) -> None:
    trigger = config.build(cfg.get("trigger"), "trigger")
    if getattr(trigger, "leftover", None) == "keep":
        raise UserError(
            f"protection=encryption with trigger {type(trigger).__name__}: late replies are kept "
            "for later rounds, but ciphertexts of different rounds cannot be added; use "
            "trigger=all, deadline (with late replies dropped) or first_k"
        )


def _check_learners(cfg: Mapping[str, Any], everything: bool) -> None:
    """Parts that look at single updates need some of them in the clear."""
    if not everything:
        return
    for group in ("trigger", "schedule"):
        target = (cfg.get(group) or {}).get("_target_", "")
        name = target.rpartition(".")[2]
        if name in ("DynamicBackup", "Cafe"):
            raise UserError(
                f"mask=all with {group} {name}: it learns from the norms of single updates, and "
                "all of them are encrypted; hide less, or use another " + group
            )


def _check_noise(cfg: Mapping[str, Any]) -> None:
    """Noise by the server bounds nothing if the server cannot clip what it sums."""
    layers = (cfg.get("protection") or {}).get("layers") or []
    for layer in layers:
        if layer.get("noise") == "server":
            raise UserError(
                "protection: noise by the server under encryption: it would have to clip each "
                "client's update, and sees sums only; set noise: client for that layer"
            )


def _check_attack(cfg: Mapping[str, Any]) -> None:
    attack = config.build(cfg.get("attack"), "attack")
    if hasattr(attack, "rewrite"):
        raise UserError(
            f"attack {type(attack).__name__} under protection=encryption: colluders who see and "
            "rewrite finished replies would have to open sealed ones; use an attack that its "
            "machines mount themselves (sign_flip, label_flip, hidden_poison, ...)"
        )
