"""Flower's own runtimes: how they wait, what they log, and its Ray backend."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

from flwr.app import (
    Context,
    Message,
)
from flwr.serverapp.strategy import strategy_utils


@contextlib.contextmanager
def sleeping_on(sleep: Callable[[float], None]) -> Iterator[None]:
    """Let Flower's strategies wait for nodes with ``sleep(seconds)`` in place of real seconds.

    ``sample_nodes`` sleeps until enough nodes are on, which on a virtual clock would be for ever.
    """
    module: Any = strategy_utils
    real, module.sleep = module.sleep, sleep
    try:
        yield
    finally:
        module.sleep = real


def quiet_logs(level: int = logging.WARNING) -> None:
    """Keep Flower's console log to warnings: fedhive shows progress itself."""
    logger = logging.getLogger("flwr")
    logger.propagate = False
    logger.addFilter(_worth_saying)
    for handler in logger.handlers:
        handler.setLevel(level)


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not that nobody evaluates on the clients: fedhive's presets want it so."""
    return "Federated evaluation will be skipped" not in str(record.msg)


def ray_backend(config: dict[str, Any]) -> Any:
    """Flower's own simulation backend (a pool of Ray actors), not yet built."""
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend

    return RayBackend(config)


def run_on_ray(backend: Any, message: Message, context: Context) -> tuple[Message, Context]:
    """A client's reply and context from an idle actor of a built `ray_backend`.

    Flower's own ``process_message`` puts an actor that has died back into the pool, where it
    fails every client it meets; here a fresh one takes its place.

    Raises:
        ray.exceptions.RayActorError: if the actor died.
        Exception: whatever else kept the actor from answering.
    """
    from ray.exceptions import RayActorError

    pool = backend.pool
    job = (backend.app_fn, message, str(context.node_id), context)
    future = pool.submit(lambda actor, *args: actor.run.remote(*args), job)
    try:
        return cast(tuple[Message, Context], pool.fetch_result_and_return_actor_to_pool(future))
    except RayActorError:
        del pool._future_to_actor[future]
        pool.pool.append(pool.create_actor_fn())
        raise
    except Exception:
        pool.add_actor_back_to_pool(future)
        raise


def ask_ray_actors(backend: Any, load: Callable[[], Callable[..., Any]]) -> list[Any]:
    """What ``load()(message=None, context=None)`` returns in each idle actor."""
    import ray

    asked = [actor.run.remote(load, None, "", None) for actor in backend.pool.pool]
    return [answer for _, answer, _ in ray.get(asked)]


def kill_busy_ray_actors(backend: Any) -> None:
    """Make all calls of `run_on_ray` that are under way fail; other actors take over."""
    import ray

    for actor in list(backend.pool._future_to_actor.values()):
        ray.kill(actor)
