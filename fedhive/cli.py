"""The command ``fedhive``.

Exit status: 0 done; 2 the user's mistake (one line, no traceback); 1 anything else; 130 on Ctrl-C.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from errno import EACCES, EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import Any, NoReturn

from fedhive import __version__
from fedhive.errors import UserError

USAGE = f"""\
fedhive {__version__}: federated learning on machines that come and go

Usage:
  fedhive run [OVERRIDES...]      run an experiment (a Hydra application: -m sweeps, --cfg job)
  fedhive report RUN_DIR...       build report.html; several runs or a sweep folder are compared
  fedhive resume RUN_DIR          go on from the last checkpoint
  fedhive deploy ...              run a hive for real machines (see fedhive deploy --help)
  fedhive join ...                let this machine work for a hive (see fedhive join --help)
  fedhive trust ...               let machines in by their TPM (see fedhive trust --help)
  fedhive doctor                  what this machine can do, what is missing and how to get it

Start with:
  fedhive run experiment=quickstart
  fedhive run --help
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its status."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_guarded(lambda: _dispatch(argv)))


def _dispatch(argv: list[str]) -> None:
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
    elif command in ("-V", "--version", "version"):
        print(f"fedhive {__version__}")
    elif command in COMMANDS:
        COMMANDS[command](rest)
    else:
        from fedhive.config import nearest

        raise UserError(
            f"no command {command!r}{nearest(command, COMMANDS)} (see `fedhive --help`)"
        )


def _guarded(action: Callable[[], None]) -> int:
    """Run and turn what goes wrong into an exit status and, for mistakes, one line."""
    try:
        action()
        return 0
    except KeyboardInterrupt:
        print("\nfedhive: interrupted", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"fedhive: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        line = _explained(error)
        if line is not None:
            print(f"fedhive: {line}", file=sys.stderr)
            return 2
        import traceback

        traceback.print_exc()
        return 1


def _explained(error: BaseException) -> str | None:
    """One line for Hydra's and OmegaConf's complaints about what the user wrote, else None."""
    from fedhive.hydra_errors import explain

    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, EROFS, EACCES):
        advice = {ENOSPC: "free some space", EDQUOT: "free some space"}
        remedy = advice.get(error.errno, "choose another place, or change its permissions")
        return f"{error.filename or 'writing'}: {error.strerror}; {remedy}"
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        if isinstance(current, UserError):
            return str(current)
        chain.append(current)
        current = current.__cause__ or current.__context__
    return explain(chain)


# ---- run ----------------------------------------------------------------------------------


def _run(argv: list[str]) -> None:
    from fedhive import config, guard

    gc.disable()  # importing makes hundreds of thousands of objects and hardly any garbage
    guard.check()  # before Hydra looks for `conf`
    import hydra

    config.register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let us say what is wrong, in one line
    sys.argv = ["fedhive run", *argv]
    application = hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
    application(_job)()
    if _failure:
        raise _failure.pop()


_failure: list[Exception] = []


def _job(composed: Any) -> float | None:
    """What Hydra calls; a single run's failure is kept for `_run`, so that Hydra adds no line."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return _experiment(composed)
    try:
        return _experiment(composed)
    except Exception as error:
        _failure.append(error)
        _remove_unused(Path(HydraConfig.get().runtime.output_dir))
        return None


def _remove_unused(directory: Path) -> None:
    """Take away a run directory in which nothing was written but Hydra's own notes."""
    if {entry.name for entry in directory.iterdir()} <= {".hydra"}:
        shutil.rmtree(directory, ignore_errors=True)


def _experiment(composed: Any) -> float | None:
    """One experiment in its own run directory; returns its accuracy, for sweepers."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from fedhive import early
    from fedhive.compose import plain
    from fedhive.sweep import check_cores

    settings = HydraConfig.get()
    cfg = plain(composed, settings.overrides.task)
    directory = Path(settings.runtime.output_dir)
    group = None
    if settings.mode == RunMode.MULTIRUN:
        check_cores(settings.launcher, cfg["engine"])
        group = directory.parent.name

    early.load_data(cfg["data"])
    from fedhive.launch import launch

    _collect_again()
    summary = _reported(lambda: launch(cfg, directory, group=group), directory)
    accuracy = summary.get("accuracy")
    return float(accuracy) if accuracy is not None else None


def _collect_again() -> None:
    """Collect garbage again, but never look through what was imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _reported(action: Callable[[], dict[str, Any]], directory: Path) -> dict[str, Any]:
    """Run, then build the report and show the result; also for what an interrupt left."""
    from fedhive.results.display import print_summary
    from fedhive.results.report import build_report

    try:
        summary = action()
    except KeyboardInterrupt:
        if (directory / "rounds.jsonl").exists():
            build_report(directory)
            print(f"\ngo on with: fedhive resume {directory}", file=sys.stderr)
        raise
    build_report(directory)
    print_summary(summary, directory)
    return summary


# ---- the other commands -------------------------------------------------------------------


def _resume(argv: list[str]) -> None:
    if len(argv) != 1 or argv[0].startswith("-"):
        raise UserError("usage: fedhive resume RUN_DIR")
    gc.disable()
    from fedhive.launch import resume

    _collect_again()
    directory = Path(argv[0])
    _reported(lambda: resume(directory), directory)


def _report(argv: list[str]) -> None:
    if not argv or any(word.startswith("-") for word in argv):
        raise UserError("usage: fedhive report RUN_DIR...")
    from rich.console import Console

    from fedhive.results.comparison import compare, table
    from fedhive.results.report import build_report
    from fedhive.results.rundir import RunDir

    paths = [Path(word) for word in argv]
    missing = [path for path in paths if not path.is_dir()]
    if missing:
        raise UserError(f"{missing[0]} is not a directory; give run directories or a sweep folder")
    if len(paths) == 1 and RunDir.holds_run(paths[0]):
        print(f"report: {build_report(paths[0])}")
        return
    page = compare(paths, None)
    Console().print(table(paths))
    print(f"comparison: {page}")


def _doctor(argv: list[str]) -> None:
    if argv not in ([], ["--json"]):
        raise UserError("usage: fedhive doctor [--json]")
    from fedhive.doctor import examine

    examine(as_json=bool(argv))


def _deploy(argv: list[str]) -> None:
    from fedhive.deploy.command import main as deploy

    deploy(argv)


def _join(argv: list[str]) -> None:
    from fedhive.join.command import main as join

    join(argv)


def _trust(argv: list[str]) -> None:
    from fedhive.trust.command import main as trust

    trust(argv)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": _run,
    "report": _report,
    "resume": _resume,
    "doctor": _doctor,
    "deploy": _deploy,
    "join": _join,
    "trust": _trust,
}


if __name__ == "__main__":
    main()
