"""The composed configuration: its schema, its checks, and how it becomes objects.

Hydra composes yaml files into one tree. The tree travels as one JSON string in Flower's run
config, so that server and clients, simulated or real, start from the same text. Nodes with a
``_target_`` become objects; their options are checked against the target's own signature before
anything runs, so a class or function from anywhere is as well checked as one of ours.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from fedhive.errors import UserError

RUN_CONFIG_KEY = "fedhive-config"
"""The one key of Flower's run config that fedhive uses."""

DIRECTIVES = {"_target_", "_partial_", "_recursive_", "_convert_"}


@dataclass
class Config:
    """Everything a run is made of; one field a Hydra group or a setting.

    Args:
        callbacks: objects that watch a run, as loggers do.
        experiment: name for folders and reports.
        seed: of all randomness.
        nodes: number of machines.
        rounds: number of rounds.
        time_limit_s: end the run after the first round that ends at or after so many virtual
            seconds; null for no limit.
        lr_schedule: what the clients' learning rate follows: ``constant``, or ``cosine`` from its
            full value to 0 over the rounds, or over ``time_limit_s`` if that is set.
        init_from: run directory, or its ``model.npz``, whose final model this run starts from;
            null for the model's own initial weights.
        reference: run directory of one ideal machine (``nodes=1``, same model and data) that
            eta's statistical factor compares with; null leaves it unknown.
        eval_every: evaluate on the test set every so many rounds (and after the last).
        target_accuracy: fraction in (0, 1] whose first reaching is reported; null for none.
        stop_at_target: end the run when the target is reached.
        checkpoint_every: save what `fedhive resume` needs every so many rounds; 0 for never.
        round_timeout_s: longest a round of a stock Flower strategy may take, virtual seconds.
        detection_s: how long after a machine has left the server notices, seconds.
        history_s: how long the machines had been watched before the run began, seconds; only
            forecasters look at it, and only traces with a past know anything of it.
        client_app: the Flower ClientApp, ``module:attribute``.
        progress: show live progress on a terminal.
    """

    data: Any = None
    partition: Any = None
    model: Any = None
    client: Any = None
    fleet: Any = None
    availability: Any = None
    withdrawal: Any = None
    forecast: Any = None
    carbon: Any = None
    carbon_forecast: Any = None
    server: Any = None
    attack: Any = None
    observer: Any = None
    protection: Any = None
    mask: Any = None
    cipher: Any = None
    keys: Any = None
    path: Any = None
    containment: Any = None
    identities: Any = None
    engine: Any = None
    strategy: Any = None
    schedule: Any = None
    selection: Any = None
    local_work: Any = None
    placement: Any = None
    trigger: Any = None
    combine: Any = None
    server_opt: Any = None
    logger: Any = None
    callbacks: list[Any] = field(default_factory=list)
    experiment: str = "default"
    seed: int = 0
    nodes: int = 10
    rounds: int = 20
    time_limit_s: float | None = None
    lr_schedule: str = "constant"
    init_from: str | None = None
    reference: str | None = None
    eval_every: int = 1
    target_accuracy: float | None = None
    stop_at_target: bool = False
    checkpoint_every: int = 1
    round_timeout_s: float = 3600.0
    detection_s: float = 60.0
    history_s: float = 0.0
    client_app: str = "fedhive.app:client"
    progress: bool = True


def register_schema() -> None:
    """Make the schema known to Hydra, so that unknown and ill-typed settings are refused."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from fedhive.folders import job_folder

    # Hydra copies this singleton, with all its configurations, for every group that it lists; as
    # nobody changes it any more, itself will do, and `--help` takes less than half the time.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    ConfigStore.instance().store(name="schema", node=Config, provider="fedhive")
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


def check_settings(cfg: Mapping[str, Any]) -> None:
    """Refuse settings outside their range.

    Raises:
        UserError: naming the setting, its value and the range.
    """
    ranges: list[tuple[str, float, float]] = [
        ("seed", 0, 2**63 - 1), ("nodes", 1, 1_000_000), ("rounds", 1, 10_000_000),
        ("eval_every", 1, 10_000_000), ("checkpoint_every", 0, 10_000_000),
        ("round_timeout_s", 1e-9, 1e12), ("detection_s", 0, 1e9),
        ("history_s", 0, 1e10), ("time_limit_s", 1e-9, 1e12), ("target_accuracy", 1e-9, 1.0),
    ]  # fmt: skip
    for key, low, high in ranges:
        value = cfg.get(key)
        if value is not None and not low <= value <= high:
            raise UserError(f"{key} must be between {low:g} and {high:g}, got {value}")
    if cfg.get("lr_schedule", "constant") not in ("constant", "cosine"):
        raise UserError(
            f"lr_schedule must be constant or cosine, got {cfg['lr_schedule']}"
            + nearest(str(cfg["lr_schedule"]), ("constant", "cosine"))
        )
    if cfg.get("stop_at_target") and cfg.get("target_accuracy") is None:
        raise UserError("stop_at_target=true needs a target_accuracy, e.g. target_accuracy=0.95")


def dumps(cfg: Mapping[str, Any]) -> str:
    """The configuration as one line of JSON with sorted keys; equal configs give equal text."""
    return json.dumps(cfg, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=8)
def loads(text: str) -> dict[str, Any]:
    """The configuration back from `dumps`; treat it as read-only.

    Raises:
        UserError: if the text is not a JSON object.
    """
    try:
        cfg = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{RUN_CONFIG_KEY} in the run config is not JSON ({error})") from error
    if not isinstance(cfg, dict):
        raise UserError(f"{RUN_CONFIG_KEY} in the run config must be a JSON object")
    return cfg


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` if something similar is known, else nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def build(node: Any, path: str = "", **extra: Any) -> Any:
    """Objects from configuration: every mapping with a ``_target_`` becomes what it names.

    Args:
        node: a plain tree of mappings, lists and values.
        path: where the tree stands in the configuration, for messages.
        **extra: more keyword arguments for the outermost target, not from the configuration;
            those it does not take are left out.

    Raises:
        UserError: for a target that cannot be imported, an unknown or missing option, a value of
            the wrong type, or whatever the target itself refuses with a ValueError.
    """
    if isinstance(node, list):
        return [build(item, f"{path}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {key: build(value, f"{path}.{key}") for key, value in node.items()}
    target = locate(node["_target_"], path)
    options = {
        key: build(value, f"{path}.{key}") for key, value in node.items() if key not in DIRECTIVES
    }
    accepted = _accepted(target)
    if accepted is not None:
        extra = {key: value for key, value in extra.items() if key in accepted}
    partial = bool(node.get("_partial_", False))
    options = {**_checked(target, options, path, extra, partial), **extra}
    if partial:
        return functools.partial(target, **options)
    return _call(target, options, path)


def locate(name: str, path: str) -> Callable[..., Any]:
    """The class or function called ``package.module.name``.

    Raises:
        UserError: if it cannot be imported.
    """
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and f"{module_name}.".startswith(f"{error.name}."):
                continue
            raise UserError(f"{path}: importing {name} needs {error.name!r}") from error
        for i, part in enumerate(parts[cut:], cut):
            if not hasattr(found, part):
                where = ".".join(parts[:i])
                hint = nearest(part, [key for key in dir(found) if not key.startswith("_")])
                raise UserError(f"{path}._target_: {where} has no {part!r}{hint}")
            found = getattr(found, part)
        if not callable(found):
            raise UserError(f"{path}._target_: {name} is not a class or function")
        return typing.cast(Callable[..., Any], found)
    raise UserError(
        f"{path}._target_: no module {parts[0]!r} (of {name}) can be imported from here"
    )


def _call(target: Callable[..., Any], options: dict[str, Any], path: str) -> Any:
    try:
        return target(**options)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _accepted(target: Callable[..., Any]) -> set[str] | None:
    """Names of the target's options; None if it takes any."""
    parameters = inspect.signature(target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _checked(
    target: Callable[..., Any],
    options: dict[str, Any],
    path: str,
    extra: Mapping[str, Any],
    partial: bool,
) -> dict[str, Any]:
    signature = inspect.signature(target)
    accepted = _accepted(target)
    name = getattr(target, "__qualname__", str(target))
    for key in options:
        if accepted is not None and key not in accepted:
            raise UserError(f"{path}.{key}: {name} has no such option{nearest(key, accepted)}")
    for parameter in signature.parameters.values():
        missing = parameter.default is parameter.empty and parameter.name not in options
        named = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if missing and named and parameter.name not in extra and not partial:
            raise UserError(f"{path}.{parameter.name} is missing: {name} needs it")
    hints = _hints(target)
    return {
        key: _typed(value, hints[key], f"{path}.{key}") if key in hints else value
        for key, value in options.items()
    }


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotations that only a type checker can read: nothing to check against
        return {}


def _typed(value: Any, hint: Any, path: str) -> Any:
    """The value as its annotation wants it (a list becomes a tuple, an int a float)."""
    if not _is_plain(value):
        return value
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        config = ConfigDict(arbitrary_types_allowed=True)
        return _adapter(TypeAdapter, hint, config).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"] if not str(part)[:1].isupper())
        message = problem["msg"][:1].lower() + problem["msg"][1:]
        spot = f"{path}.{where}" if where and not where.isidentifier() else path
        raise UserError(f"{spot}: {message}, got {value!r}") from error
    except (PydanticSchemaGenerationError, PydanticUserError):
        return value


def _adapter(make: Any, hint: Any, config: Any) -> Any:
    try:
        return make(hint, config=config)
    except Exception:  # dataclasses and models bring their own configuration
        return make(hint)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    return value is None or isinstance(value, bool | int | float | str)
