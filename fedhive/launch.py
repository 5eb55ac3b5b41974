"""One run in this process: world, engine, session, report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fedhive import config, guard, seeding
from fedhive.engines.base import Engine
from fedhive.engines.execute import load_app
from fedhive.errors import UserError
from fedhive.flower import quiet_logs
from fedhive.results.display import Display
from fedhive.results.rundir import RunDir
from fedhive.server import Session
from fedhive.world.grid import World


def launch(
    cfg: Mapping[str, Any], directory: str | Path, *, group: str | None = None
) -> dict[str, Any]:
    """Run a configuration; its summary.

    Args:
        cfg: composed, resolved and checked.
        directory: the run directory; must not hold another run.
        group: name of the sweep it belongs to, for loggers.

    Raises:
        UserError: for anything the user can mend.
    """
    run_dir = RunDir.create(directory)
    text = config.dumps(cfg)
    try:
        if _is_elsewhere(cfg):
            summary: dict[str, Any] = config.build(cfg["engine"], "engine").play(cfg, run_dir)
            return summary
        with _session(text, run_dir, group) as session:
            return _play(session, text)
    except UserError:
        run_dir.forget()
        raise


def resume(directory: str | Path) -> dict[str, Any]:
    """Go on with an interrupted run; its summary.

    Raises:
        UserError: if there is nothing to go on from.
    """
    run_dir = RunDir(directory)
    if not run_dir.path.is_dir():
        raise UserError(f"{directory} is not a directory; give the run directory to resume")
    cfg = run_dir.config()
    if not cfg:
        raise UserError(f"{directory} holds no run (no config.json); give the run directory")
    if _is_elsewhere(cfg):
        engine_class: Any = config.locate(cfg["engine"]["_target_"], "engine")
        summary: dict[str, Any] = engine_class.resume(run_dir)
        return summary
    text = config.dumps(cfg)
    with _session(text, run_dir, None) as session:
        session.resume()
        return _play(session, text)


def _is_elsewhere(cfg: Mapping[str, Any]) -> bool:
    """Whether the engine plays whole runs elsewhere, not tasks in this process."""
    target = (cfg.get("engine") or {}).get("_target_")
    return target is not None and hasattr(config.locate(target, "engine"), "play")


def _play(session: Session, text: str) -> dict[str, Any]:
    cfg = config.loads(text)
    console = None if cfg["progress"] else Console(quiet=True)
    with Display(console=console, title=str(cfg["experiment"])) as display:
        display.start(
            int(cfg["rounds"]), int(cfg["nodes"]), cfg.get("target_accuracy"),
            done=session.progress.rounds,
        )  # fmt: skip
        return session.run(display)


@contextlib.contextmanager
def _session(text: str, run_dir: RunDir, group: str | None) -> Iterator[Session]:
    guard.check()
    quiet_logs()
    torch.set_num_threads(1)  # more threads would change sums, and cost more than they bring
    cfg = config.loads(text)
    engine: Engine = config.build(cfg["engine"], "engine")
    run_config = {config.RUN_CONFIG_KEY: text}
    try:
        engine.open(str(cfg["client_app"]), run_config)
        built = [config.build(cfg.get("logger"), "logger")]
        built += config.build(cfg.get("callbacks") or [], "callbacks")
        watchers = [watcher for watcher in built if watcher is not None]
        yield Session(build_world(cfg, engine, run_config), text, run_dir, watchers, group)
    finally:
        engine.close()


def build_world(
    cfg: Mapping[str, Any], engine: Engine, run_config: Mapping[str, bool | float | int | str]
) -> World:
    """The configured world around an open engine.

    Raises:
        UserError: for a fleet, availability or carbon signal that cannot be made.
    """
    n, seed = int(cfg["nodes"]), int(cfg["seed"])
    devices = config.build(cfg["fleet"], "fleet")(n, seeding.stream(seed, "fleet"))
    about = {"nodes": n, "seed": seed, "devices": devices}  # for those parts that ask for it
    availability = config.build(cfg["availability"], "availability", **about)
    carbon = config.build(cfg["carbon"], "carbon", **about)
    server = config.build(cfg.get("server"), "server")
    adversary = config.build(cfg.get("attack"), "attack")
    declared = devices
    if hasattr(adversary, "pretend"):
        declared, availability = adversary.pretend(devices, availability, seed)
    drawing = [*devices, *declared, *([server] if getattr(server, "zone", None) else [])]
    for zone in sorted({str(each.zone) for each in drawing}):
        carbon.mean_g_per_kwh(zone, 0.0, 0.0)  # a zone without intensity stops the run here
    app = load_app(str(cfg["client_app"]))
    return World(
        devices,
        availability,
        carbon,
        engine,
        run_config,
        planner=getattr(app, "plan", None),
        detection_s=float(cfg["detection_s"]),
        withdrawal=config.build(cfg.get("withdrawal"), "withdrawal"),
        history_s=float(cfg["history_s"]),
        colluders=adversary if hasattr(adversary, "rewrite") else None,
        server=server,
        declared=declared,
    )
