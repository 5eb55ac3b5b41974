"""The engine that is no simulation: a SuperLink, and whoever has joined its hive.

The run is played by a ServerApp beside the SuperLink. Here it is submitted and followed: rounds
are shown as they end, and the run directory fills as if everything had happened in this process.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fedhive import config
from fedhive.deploy import wire
from fedhive.deploy.bundle import RUN_KEY, app_files
from fedhive.deploy.control import Control
from fedhive.deploy.hive import DEFAULT_HOME, Hive, parted
from fedhive.deploy.notes import sentence
from fedhive.errors import UserError
from fedhive.results.display import Display
from fedhive.results.rundir import RunDir
from fedhive.world.roster import read_rows, roster_of

SUBMISSION = "submission.json"
STOP_PATIENCE_S = 20.0


class DeploymentEngine:
    """Submits runs to a SuperLink and follows them.

    Args:
        home: folder of a hive that `fedhive deploy` made on this machine; null for its default.
        superlink: ``host:port`` of any other SuperLink.
        root_certificates: of the authority that signed its certificate; needed with it.
        least: begin when so many machines have come; null for all ``nodes``.
        wait_s: longest to wait for them, seconds.
        patience_s: how long a machine that owes a reply may be away, seconds.
        poll_s: how often the server looks for replies, seconds.
        machines: file with what is known of the machines, as for ``fleet=file``, so that schedules
            see zones and watts and energy is accounted for; or what is in it. None for nothing.
        cohort: presets of simulations set it; machines far from each other train alone.
    """

    name = "deployment"

    def __init__(
        self,
        home: str | None = None,
        superlink: str | None = None,
        root_certificates: str | None = None,
        least: int | None = None,
        wait_s: float = 600.0,
        patience_s: float = 600.0,
        poll_s: float = 0.2,
        machines: str | list[dict[str, Any]] | None = None,
        cohort: bool = False,
    ) -> None:
        if superlink is not None and root_certificates is None:
            raise ValueError(
                "superlink needs root_certificates, the certificate of the authority that signed "
                "its own; a hive is never dialled without TLS"
            )
        if least is not None and least < 1:
            raise ValueError(f"least must be at least 1, got {least}")
        if not wait_s > 0 or not patience_s > 0 or not poll_s > 0:
            raise ValueError("wait_s, patience_s and poll_s must be above 0")
        self.home = str(DEFAULT_HOME) if home is None else home
        self.superlink, self.root_certificates = superlink, root_certificates
        self.serving: dict[str, Any] = {
            "least": least, "wait_s": wait_s, "patience_s": patience_s, "poll_s": poll_s,
            # The server may be far from the file: its content travels.
            "machines": read_rows(machines) if isinstance(machines, str) else machines,
        }  # fmt: skip

    # ---- a run --------------------------------------------------------------------------------

    def play(self, cfg: Mapping[str, Any], run_dir: RunDir) -> dict[str, Any]:
        """Run a configuration; its summary.

        Raises:
            UserError: for what the user can mend, on either side.
            KeyboardInterrupt: on Ctrl-C, after the run was stopped.
        """
        least = self.serving["least"]
        if least is not None and least > int(cfg["nodes"]):
            raise UserError(f"engine.least={least} is more than nodes={cfg['nodes']}")
        if self.serving["machines"] is not None:  # told here, not after it was submitted
            roster_of(cfg, self.serving["machines"])
        # Where the hive lies on this machine is nobody else's business.
        engine = {"_target_": cfg["engine"]["_target_"], **self.serving}
        text = config.dumps({**cfg, "engine": engine})
        place = {
            "home": None if self.superlink else str(Path(self.home).expanduser().absolute()),
            "superlink": self.superlink,
            "root_certificates": self.root_certificates
            and str(Path(self.root_certificates).expanduser().absolute()),
            "submission": uuid.uuid4().hex,
        }
        return self._submit(text, run_dir, place, resume=False)

    @classmethod
    def resume(cls, run_dir: RunDir) -> dict[str, Any]:
        """Go on with an interrupted run from its last checkpoint; its summary.

        Raises:
            UserError: as `play`, and if there is nothing to go on from.
        """
        cfg = run_dir.config()
        path = run_dir.path / SUBMISSION
        if not path.is_file():
            raise UserError(
                f"{run_dir.path} does not say where it was submitted ({SUBMISSION} is missing)"
            )
        place = json.loads(path.read_text(encoding="utf-8"))
        options = {k: v for k, v in cfg["engine"].items() if not k.startswith("_")}
        places = {k: place[k] for k in ("home", "superlink", "root_certificates")}
        engine = cls(**options, **places)
        return engine._submit(config.dumps(cfg), run_dir, place, resume=True)

    def _submit(
        self, text: str, run_dir: RunDir, place: dict[str, Any], resume: bool
    ) -> dict[str, Any]:
        cfg = config.loads(text)
        control, order = self._control(place["submission"])
        if order is not None:
            order.parent.mkdir(exist_ok=True, mode=0o700)
            note = {"run_dir": str(run_dir.path.absolute()), "resume": resume}
            order.write_text(json.dumps(note), encoding="utf-8")
        files = app_files(str(cfg["client_app"]))
        run_config = {config.RUN_CONFIG_KEY: text, RUN_KEY: place["submission"]}
        run_id = control.start(files, run_config)
        run_dir.write_json(SUBMISSION, {**place, "run_id": run_id})
        follower = Follower(run_dir)
        console = None if cfg["progress"] else Console(quiet=True)
        try:
            with Display(console=console, title=str(cfg["experiment"])) as display:
                done = run_dir.rounds()
                display.start(
                    int(cfg["rounds"]), int(cfg["nodes"]), cfg.get("target_accuracy"), done=done
                )  # fmt: skip
                follower.follow(control, run_id, display.update)
        except KeyboardInterrupt:
            with contextlib.suppress(UserError):
                control.stop(run_id)
                self._let_finish(run_dir, here=order is not None)
            raise
        finally:
            if order is not None:
                order.unlink(missing_ok=True)
        return follower.result(control, run_id)

    @staticmethod
    def _let_finish(run_dir: RunDir, here: bool) -> None:
        """Give a stopped server the time to write down what it has."""
        until = time.monotonic() + (STOP_PATIENCE_S if here else 0.0)
        while time.monotonic() < until and not run_dir.summary():
            time.sleep(0.2)

    def _control(self, submission: str) -> tuple[Control, Path | None]:
        if self.superlink is not None:
            parted(self.superlink)
            return Control(self.superlink, Path(str(self.root_certificates))), None
        hive = Hive(Path(self.home))
        return hive.control, hive.submissions / f"{submission}.json"


class Follower:
    """Reads what a run's server tells.

    Args:
        run_dir: filled where the server cannot write into it itself.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self.mistake: str | None = None
        self.ended = False
        self._last: list[str] = []

    def follow(
        self, control: Control, run_id: int, on_round: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Take in all lines until the run ends.

        Raises:
            UserError: if the SuperLink goes away.
        """
        try:
            for line in control.log(run_id):
                self.take(line, on_round)
        except ConnectionError as error:
            raise self._gone() from error

    def take(self, line: str, on_round: Callable[[Mapping[str, Any]], None]) -> None:
        """Take in one line."""
        found = wire.understood(line)
        if found is None:
            self._last = [*self._last[-30:], line]
        elif found["kind"] == "note":
            print(sentence(dict(found.get("row") or {})), file=sys.stderr)
        elif found["kind"] == "round":
            on_round(dict(found["record"]))
        elif found["kind"] == "file":
            wire.unpack(self.run_dir.path, found)
        elif found["kind"] == "mistake":
            self.mistake = str(found.get("text"))
        elif found["kind"] == "ended":
            self.ended = True

    def result(self, control: Control, run_id: int) -> dict[str, Any]:
        """The run's summary.

        Raises:
            UserError: if the run did not end as it should.
        """
        if self.ended:
            return self.run_dir.summary()
        if self.mistake is not None:
            raise UserError(self.mistake)
        try:
            status, details = control.status(run_id)
        except UserError as error:
            raise self._gone() from error
        if "stopped" in status:
            raise UserError(f"the run was stopped; go on with: fedhive resume {self.run_dir.path}")
        said = "\n".join(self._last)
        raise RuntimeError(f"the run's server ended as {status}: {details}\n{said}")

    def _gone(self) -> UserError:
        rounds = len(self.run_dir.rounds())
        if not rounds:
            return UserError("the SuperLink went away before the first round had ended")
        return UserError(
            f"the SuperLink went away after round {rounds}; start it again, then go on with: "
            f"fedhive resume {self.run_dir.path}"
        )
