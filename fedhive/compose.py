"""From Hydra's groups to one plain configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from fedhive import config

HIVE_PARTS = (
    "selection", "trigger", "combine", "server_opt", "forecast", "placement", "identities",
    "schedule", "carbon_forecast",
)  # fmt: skip
"""Groups that only strategies made of parts use."""


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration that ``fedhive run OVERRIDES...`` would use, resolved, as plain data."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    config.register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        composed = hydra_compose("config", overrides=list(overrides))
    return plain(composed, overrides)


def plain(composed: Any, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A composed Hydra configuration as plain data, checked.

    Args:
        composed: what Hydra composed.
        overrides: the command line's, to refuse those that would have no effect.

    Raises:
        UserError: for a setting out of its range or an override without effect.
    """
    from omegaconf import OmegaConf

    _check_known(composed)
    _check_effect(composed, overrides)
    tree = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(tree, dict)
    cfg = {str(key): value for key, value in tree.items()}
    config.check_settings(cfg)
    return cfg


def _check_known(composed: Any) -> None:
    """Refuse keys that ``+key=value`` added and nobody reads."""
    from omegaconf import OmegaConf

    from fedhive.errors import UserError

    known = list(config.Config.__dataclass_fields__)
    text = str(OmegaConf.to_container(composed, resolve=False))
    for key in composed:
        if key not in known and not re.search(r"\$\{" + re.escape(str(key)) + r"\b", text):
            raise UserError(
                f"{key}: no such key in the configuration{config.nearest(str(key), known)}"
            )


def _check_effect(composed: Any, overrides: Sequence[str]) -> None:
    from omegaconf import OmegaConf

    from fedhive.errors import UserError

    used = str(OmegaConf.to_container(composed.strategy, resolve=False))
    for override in overrides:
        group = override.lstrip("+~").split("=", 1)[0].split(".", 1)[0].split("@", 1)[0]
        if group in HIVE_PARTS and "${" + group + "}" not in used:
            name = str(composed.strategy.get("_target_", "")).rsplit(".", 1)[-1]
            raise UserError(
                f"{override}: has no effect, strategy {name} does not use {group}; "
                "choose strategy=hive or leave it out"
            )


@lru_cache(maxsize=1)
def default_text() -> str:
    """The quickstart, for ``flwr run`` without a configuration."""
    return config.dumps(compose(["experiment=quickstart"]))


def text_of(run_config: Mapping[str, bool | float | int | str]) -> str:
    """The configuration that a Flower run config carries, or the quickstart's if it is empty."""
    text = run_config.get(config.RUN_CONFIG_KEY)
    return text if isinstance(text, str) and text else default_text()
