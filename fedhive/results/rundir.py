"""The run directory: what a run leaves behind, written so that nothing finished is ever lost.

In ``rounds.jsonl`` every amount (samples, bytes, joules, grams, ``wall_s``) belongs to its round
alone; ``time_s`` is the virtual clock when the round closed. Unknown is null, never 0.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedhive.errors import UserError
from fedhive.results.fields import EVENT_KEYS, ROUND_KEYS, SUMMARY_KEYS
from fedhive.results.records import encoded, filled, gunzipped, parsed, plain

SCHEMA = 1
ROUNDS = "rounds.jsonl"
EVENTS = "events.jsonl.gz"
SUMMARY = "summary.json"
CONFIG = "config.json"
MACHINES = "machines.json"
SPLIT = "split.json"
ACCOUNTS = "accounts.json"
AVAILABILITY = "availability.json"
FORECAST = "forecast.json"
CARBON = "carbon.json"
PROTECTION = "protection.json"
CHECKPOINT = "checkpoint"
HIVE = "hive.json"
REPORT = "report.html"

_OURS = (
    ROUNDS, EVENTS, SUMMARY, CONFIG, MACHINES, SPLIT, ACCOUNTS, AVAILABILITY, FORECAST, CARBON,
    CHECKPOINT, REPORT, "wandb", "tensorboard", "views",
)  # fmt: skip
_PREAMBLE = (CONFIG, MACHINES, SPLIT, SUMMARY, ACCOUNTS, AVAILABILITY, FORECAST, CARBON)


@contextlib.contextmanager
def _explained(run: Path, path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"disk full while writing {path}: free some space, then 'fedhive resume "
                f"{run}' goes on from the last finished round"
            ) from error
        if isinstance(error, PermissionError):
            raise UserError(
                f"no permission to write {path}: choose another run directory"
            ) from error
        raise


class RunDir:
    """One run's directory: append while it runs, read whenever.

    Args:
        path: The directory. It need not exist; nothing is made until something is written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | os.PathLike[str], overwrite: bool = False) -> RunDir:
        """Make the directory of a new run.

        What Hydra puts there first (``.hydra/`` and logs) does not count as content.

        Args:
            path: Where; parents are made.
            overwrite: Remove an earlier run's files (only those that a run writes) from it.

        Raises:
            UserError: If the path is a file, or holds something and ``overwrite`` is false.
        """
        run = cls(path)
        if run.path.exists() and not run.path.is_dir():
            raise UserError(f"{run.path} is a file: choose another run directory")
        try:
            with _explained(run.path, run.path):
                run.path.mkdir(parents=True, exist_ok=True)
                if overwrite:
                    run._clear()
        except OSError as error:
            raise UserError(
                f"cannot make the run directory {run.path} ({error.strerror}): choose another"
            ) from error
        found = sorted(
            entry.name
            for entry in run.path.iterdir()
            if entry.name != ".hydra" and entry.suffix != ".log"
        )
        if found and not overwrite:
            raise UserError(
                f"run directory {run.path} is not empty (it holds {found[0]}): choose another, "
                f"or go on with its run by 'fedhive resume {run.path}'"
            )
        return run

    @staticmethod
    def holds_run(path: str | os.PathLike[str]) -> bool:
        """Whether a run has written anything there."""
        return any((Path(path) / name).is_file() for name in (ROUNDS, SUMMARY, CONFIG))

    def forget(self) -> None:
        """Take back what a run writes before its first round, if it came no further."""
        if not (self.path / ROUNDS).exists():
            self._clear(_PREAMBLE)

    def _clear(self, names: Iterable[str] = _OURS) -> None:
        for name in names:
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    @property
    def checkpoint(self) -> Path:
        """Where checkpoints go."""
        return self.path / CHECKPOINT

    # Writing

    def append_round(self, record: Mapping[str, Any]) -> None:
        """Add one line to ``rounds.jsonl``; it is in the operating system's hands on return.

        Raises:
            UserError: If the disk is full. The file then ends with the round before.
        """
        self._append(ROUNDS, encoded(record, ROUND_KEYS))

    def append_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Add a round's events to ``events.jsonl.gz`` as one more gzip member.

        Raises:
            UserError: If the disk is full. The file then ends with the round before.
        """
        lines = b"".join(encoded(event, EVENT_KEYS) for event in events)
        if lines:
            self._append(EVENTS, gzip.compress(lines, 6, mtime=0))

    def write_json(self, name: str, obj: Any, compact: bool = False) -> None:
        """Write a JSON file at once or not at all.

        ``summary.json`` gets every key of the contract, null where unknown.

        Args:
            name: File name inside the run directory.
            obj: What :func:`plain` takes; NaN and infinity become null.
            compact: On one line, for files with many numbers.

        Raises:
            UserError: If the disk is full. The earlier file, if any, is left as it was.
        """
        value = filled({"schema": SCHEMA, **obj}, SUMMARY_KEYS) if name == SUMMARY else plain(obj)
        text = json.dumps(value, indent=None if compact else 2, allow_nan=False) + "\n"
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write a file at once or not at all: a temporary one beside it, then a rename.

        Args:
            name: File name inside the run directory, may lie in a folder of it.
            data: Its new content.
            durable: Wait until it is on the disk; else only a killed process is survived, not a
                power cut.

        Raises:
            UserError: If the disk is full. The earlier file, if any, is left as it was.
        """
        path = self.path / name
        temporary = path.with_name(f".{path.name}.tmp")
        with _explained(self.path, path):
            try:
                path.parent.mkdir(exist_ok=True)
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def sizes(self) -> dict[str, int]:
        """How long the files that grow are now; a checkpoint keeps it for `cut`."""
        return {
            name: path.stat().st_size if (path := self.path / name).exists() else 0
            for name in (ROUNDS, EVENTS)
        }

    def cut(self, sizes: Mapping[str, int]) -> None:
        """Take the files that grow back to lengths given by `sizes`, exactly.

        Raises:
            UserError: If one of them is shorter than it was.
        """
        for name, size in sizes.items():
            path = self.path / name
            if name not in (ROUNDS, EVENTS):
                continue
            if (path.stat().st_size if path.exists() else 0) < size:
                raise UserError(
                    f"{path} is shorter than its checkpoint says: it cannot be resumed"
                )
            if path.exists():
                os.truncate(path, size)

    def truncate(self, rounds: int) -> None:
        """Forget everything after a round, and half-written ends, before going on from it.

        Args:
            rounds: The last round to keep.
        """
        kept = [record for record in self.rounds() if record["round"] <= rounds]
        self.write_bytes(ROUNDS, b"".join(encoded(record, ROUND_KEYS) for record in kept))
        events = [event for event in self.events() if event["round"] <= rounds]
        lines = b"".join(encoded(event, EVENT_KEYS) for event in events)
        self.write_bytes(EVENTS, gzip.compress(lines, 6, mtime=0) if lines else b"")

    def _append(self, name: str, data: bytes) -> None:
        path = self.path / name
        with _explained(self.path, path), open(path, "ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise

    # Reading

    def rounds(self) -> list[dict[str, Any]]:
        """The finished rounds; a last line cut short by a kill is left out.

        Raises:
            UserError: If any other line is not a round, naming file and line.
        """
        path = self.path / ROUNDS
        return parsed(path, path.read_bytes(), "round") if path.is_file() else []

    def events(self) -> list[dict[str, Any]]:
        """The events of finished rounds; what a kill cut short is left out.

        Raises:
            UserError: If the file is damaged elsewhere, naming file and line.
        """
        path = self.path / EVENTS
        return parsed(path, gunzipped(path), "round") if path.is_file() else []

    def summary(self) -> dict[str, Any]:
        """``summary.json``, or an empty dict where there is none."""
        return self._object(SUMMARY)

    def config(self) -> dict[str, Any]:
        """``config.json``: the resolved, composed configuration; empty where there is none."""
        return self._object(CONFIG)

    def split(self) -> dict[str, Any]:
        """``split.json``: ``classes`` and ``counts`` [clients x classes]; empty if none."""
        return self._object(SPLIT)

    def machines(self) -> list[dict[str, Any]]:
        """``machines.json``: one profile a node; empty where there is none."""
        return self._list(MACHINES)

    def accounts(self) -> list[dict[str, Any]]:
        """``accounts.json``: how each node spent the seconds it was on; empty if none."""
        return self._list(ACCOUNTS)

    def notes(self) -> list[dict[str, Any]]:
        """``hive.json``: what happened to the machines of a real hive; empty elsewhere."""
        return self._list(HIVE)

    def forecast(self) -> dict[str, Any]:
        """``forecast.json``: how good the forecasts were; empty where there is none."""
        return self._object(FORECAST)

    def carbon(self) -> dict[str, Any]:
        """``carbon.json``: intensities by zone and hour; empty where there is none."""
        return self._object(CARBON)

    def protection(self) -> dict[str, Any]:
        """``protection.json``: who could see what, and its cost; empty where there is none."""
        return self._object(PROTECTION)

    def availability(self) -> dict[str, list[tuple[float, float]]]:
        """``availability.json``: when each node was on, in seconds; empty where there is none.

        Raises:
            UserError: If it holds anything but pairs of times.
        """
        found = self._object(AVAILABILITY)
        try:
            return {
                node: [(float(on), float(off)) for on, off in spans]
                for node, spans in found.items()
            }
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{self.path / AVAILABILITY}: expected [on, off] in seconds for each node; repair "
                "or remove the file"
            ) from error

    def _object(self, name: str) -> dict[str, Any]:
        value = self._json(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise UserError(
                f"{self.path / name} holds no JSON object: it was not written by a run"
            )
        return value

    def _list(self, name: str) -> list[dict[str, Any]]:
        value = self._json(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise UserError(
                f"{self.path / name} holds no list of objects: it was not written by a run"
            )
        return value

    def _json(self, name: str) -> Any:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_bytes())
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {error.lineno}: not JSON ({error.msg}); repair or remove the file"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not text: repair or remove the file") from error
