"""The engine on Flower's own simulation runtime: actors of a Ray cluster, here or elsewhere."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from flwr.app import Context, Message

from fedhive.engines.base import Job
from fedhive.engines.execute import load_app, run_one
from fedhive.engines.threads import OneThread
from fedhive.errors import UserError
from fedhive.flower import (
    CLIENT_CRASHED,
    CLIENT_RAISED,
    ask_ray_actors,
    error_reply,
    kill_busy_ray_actors,
    quiet_logs,
    ray_backend,
    run_on_ray,
)

log = logging.getLogger(__name__)

PACKAGES = ("fedhive", "strategies", "attacks", "defenses")
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming default; without it, it warns
}
REACH_S = 5.0
QUIET = {"logging_level": logging.ERROR, "log_to_driver": False}

Fingerprint = Mapping[str, str]


class RayEngine:
    """Runs clients in Flower's Ray actors, with one torch thread each.

    Args:
        num_cpus: what a client at work takes of the cluster; decides how many work at once.
        num_gpus: likewise.
        address: of a running cluster; None: the one this process is connected to, else a new one
            on this machine.
        init_args: further arguments of ``ray.init``.
    """

    name = "ray"

    def __init__(
        self,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        address: str | None = None,
        init_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self.init_args = {**QUIET, **(init_args or {})}
        if address is not None:
            self.init_args["address"] = address
        self._backend: Any = None
        self._ours = False
        self._threads = OneThread()

    def open(self, client_app: str, run_config: Mapping[str, bool | float | int | str]) -> None:
        """Connect to Ray, start its actors, check that they run this very code.

        Raises:
            UserError: if Ray is missing or cannot be reached, if nothing fits in its resources,
                or if its actors import other code than this process.
        """
        if self._backend is not None:
            raise RuntimeError("the engine is open already")
        ray = _import_ray()
        load_app(client_app)
        _check_reachable(self.init_args.get("address"))
        quiet_logs()
        self._ours = not ray.is_initialized()
        try:
            self._backend = _connect(
                {"client_resources": self.resources, "init_args": dict(self.init_args)}
            )
            self._threads.take()
            load = _app_loader(client_app, fingerprint(client_app))
            self._backend.build(load)
            trial = _trial(load, client_app, dict(run_config))
            problems = [each for each in ask_ray_actors(self._backend, trial) if each]
        except (ValueError, ConnectionError, RuntimeError) as error:
            problems = [str(error)]
        except BaseException:
            self.close()
            raise
        if problems:
            self.close()
            raise UserError(f"engine=ray: {' '.join(problems[0].split())}")

    def run(self, jobs: Sequence[Job]) -> list[Message]:
        """Replies in the order of ``jobs``; an actor that dies is replaced."""
        if self._backend is None:
            raise RuntimeError("the engine is not open")
        with ThreadPoolExecutor(max(1, self._backend.num_workers)) as threads:
            try:
                return list(threads.map(self._run_one, jobs))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                kill_busy_ray_actors(self._backend)
                raise

    def _run_one(self, job: Job) -> Message:
        from ray.exceptions import RayActorError

        try:
            reply, context = run_on_ray(self._backend, job.message, job.context)
        except RayActorError as error:
            reason = f"the client's actor died: {str(error).strip().splitlines()[0]}"
            log.warning("client %s failed: %s", job.context.node_id, reason)
            return error_reply(job.message, CLIENT_CRASHED, reason)
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            return error_reply(job.message, CLIENT_RAISED, f"{type(cause).__name__}: {cause}")
        state = job.context.state
        for key in list(state):
            del state[key]
        for key, record in context.state.items():
            state[key] = record
        return reply

    def close(self) -> None:
        """Dismiss the actors; end Ray if this engine has started it."""
        backend, self._backend = self._backend, None
        self._threads.give_back()
        if backend is not None and backend.pool is not None:
            backend.pool.terminate_all_actors()
        if self._ours:
            self._ours = False
            _import_ray().shutdown()


def _import_ray() -> ModuleType:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UserError("engine=ray: Ray is missing; pip install 'fedhive[ray]'") from error
    return ray


def _check_reachable(address: str | None) -> None:
    """Ray itself would try a wrong address for minutes, and then end the process."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # none, or one of Ray's words such as auto
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise UserError(
            f"engine.address: no Ray cluster answers at {address} ({error}); is it up?"
        ) from error


def _connect(config: dict[str, Any]) -> Any:
    """Flower's backend; it changes PYTHONPATH for its actors, and here that is undone."""
    before = os.environ.get("PYTHONPATH")
    try:
        return ray_backend(config)
    finally:
        os.environ.pop("PYTHONPATH", None)
        if before is not None:
            os.environ["PYTHONPATH"] = before


# ---- in the actors ---------------------------------------------------------------------------


def _app_loader(client_app: str, expected: Fingerprint) -> Callable[[], Any]:
    """What Flower's actors call to get their ClientApp.

    The inner function travels by value and not by name, so that it is this one that runs, also
    where another project's ``fedhive`` comes first on the import path.
    """

    def load() -> Any:
        from importlib import import_module

        try:
            here = import_module("fedhive.engines.ray")
            found = here.fingerprint(client_app)
        except (ImportError, AttributeError) as error:
            raise RuntimeError(f"its actors cannot import this fedhive ({error})") from error
        for name, value in expected.items():
            if found.get(name) != value:
                place = getattr(import_module(name), "__path__", ["nowhere"])[0]
                raise RuntimeError(
                    f"its actors import another `{name}` ({place}) than this process; run from "
                    "another folder, or install the same fedhive there"
                )
        return here.actor_app(client_app)

    return load


def _trial(
    load: Callable[[], Any], client_app: str, run_config: Mapping[str, Any]
) -> Callable[[], Any]:
    """Like ``load``, but of an app that returns what is wrong with this actor, or None."""

    def prepare() -> Any:
        try:
            load()
            from importlib import import_module

            import_module("fedhive.engines.ray").warm_actor(client_app, run_config)
        except Exception as error:
            problem = str(error) or repr(error)
            return lambda message, context: problem
        return lambda message, context: None

    return prepare


@lru_cache(maxsize=4)
def fingerprint(client_app: str) -> dict[str, str]:
    """Hashes of the source that clients run, by package; the same code may lie elsewhere."""
    module = client_app.partition(":")[0]
    return {name: _hash(name) for name in dict.fromkeys((*PACKAGES, module))}


def _hash(name: str) -> str:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return ""
    origin = Path(spec.origin)
    digest = hashlib.sha256()
    folder = origin.parent
    for file in sorted(folder.rglob("*.py")) if origin.name == "__init__.py" else [origin]:
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=4)
def actor_app(client_app: str) -> Callable[[Message, Context], Message]:
    """The app as Flower's actors call it; errors become error replies as on every engine."""
    OneThread().take()
    app = load_app(client_app)
    return lambda message, context: run_one(app, Job(message, context))


def warm_actor(client_app: str, run_config: Mapping[str, Any]) -> None:
    """Let the app load what its clients share, if it knows how to."""
    warm = getattr(load_app(client_app), "warm", None)
    if warm is not None:
        warm(run_config)
