"""Five rounds on three real machines, of which one is killed, one suspended, one cut off.

    python -m experiments.real_hive.drill [drill] [restart] [refusals]

Then a SuperLink is killed within a run, which goes on with one command; and four kinds of
machines that must not be let in come. Writes ``drill.json`` and ``drill.log`` beside this file.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.real_hive.loopback import Loopback, change, free_port, until
from fedhive.deploy import certificates
from fedhive.deploy.notes import sentence
from fedhive.join import sandbox
from fedhive.results.rundir import RunDir

HERE = Path(__file__).parent
RUN = (
    "experiment=quickstart", "nodes=3", "selection.k=3", "rounds=5", "target_accuracy=null",
    "progress=false",
)  # fmt: skip
QUICK = (
    "data=synthetic", "data.n=600", "model=softmax_regression", "partition=iid", "nodes=3",
    "selection.k=3", "progress=false",
)  # fmt: skip
PARTS = ("drill", "restart", "refusals")
SUSPENDED_S, CUT_S = 90.0, 85.0


class Wire:
    """A network cable to the SuperLink: a proxy that can be cut.

    While it is cut it accepts connections and closes them at once, as captive portals do: the
    cut that makes stock Flower throw finished work away and stay as a dead process.
    """

    def __init__(self, port: int) -> None:
        self.target, self.cut = port, False
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, cut: bool) -> None:
        self.cut = cut
        if cut:
            for end in self.open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self.open.clear()

    def _accept(self) -> None:
        while True:
            inner, _ = self.server.accept()
            if self.cut:
                inner.close()
                continue
            try:
                outer = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                inner.close()
                continue
            self.open += [inner, outer]
            for pair in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Expired:
    """A server with an expired certificate in the hive's place."""

    def __init__(self, port: int, server: bytes, key: bytes, folder: Path) -> None:
        (folder / "old.pem").write_bytes(server + key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "old.pem")
        self.socket = socket.create_server(("127.0.0.1", port))

    def __enter__(self) -> Expired:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self.socket.accept()
                with contextlib.suppress(OSError):
                    self.context.wrap_socket(plain, server_side=True).close()


class Drill:
    """The hive, the run, and what is done to them."""

    def __init__(self, folder: Path) -> None:
        self.hive = Loopback(folder, free_port(), sandbox=not sandbox.missing())
        self.run = RunDir(folder / "run")
        self.lines: list[str] = []
        self.began = time.monotonic()

    def say(self, line: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:7.1f} s  {line}")
        print(self.lines[-1], flush=True)

    def rounds(self) -> int:
        return len(self.run.rounds())

    def working(self, name: str, after_round: int) -> None:
        """Wait until a machine works in the round after that one."""
        until(lambda: self.rounds() >= after_round, 900, self.hive.say_logs)
        time.sleep(2.0)
        until(lambda: self.hive.state(name).get("state") == "working", 300, self.hive.say_logs)
        time.sleep(1.0)

    def start(self) -> None:
        """A SuperLink and three machines."""
        hive = self.hive
        hive.start_superlink()
        wire = self.wire = Wire(hive.port)
        for number, name in enumerate(("killed", "suspended", "cut")):
            home = hive.enlist(name, number)
            if name == "cut":
                change(home / "config.toml", {"address": f"127.0.0.1:{wire.port}"})
            hive.join(name)
        self.say("SuperLink and three machines started")

    def play(self) -> dict[str, Any]:
        """Do to the machines what happens to machines."""
        hive, wire = self.hive, self.wire
        hive.begin(
            "run", "run", *RUN, "engine=deployment", f"engine.home={hive.home}",
            f"hydra.run.dir={self.run.path}",
        )  # fmt: skip

        self.working("killed", 1)
        node = hive.node_process("killed")
        assert node is not None
        for process in [*node.children(recursive=True), node]:
            with contextlib.suppress(Exception):
                process.kill()
        self.say(f"round {self.rounds() + 1}: killed the SuperNode of `killed` at work")

        self.working("suspended", 2)
        hive.signal("suspended", signal.SIGSTOP)
        self.say(f"round {self.rounds() + 1}: suspended all of `suspended` at work")
        time.sleep(SUSPENDED_S)
        hive.signal("suspended", signal.SIGCONT)
        self.say(f"woke it after {SUSPENDED_S:g} s")

        self.working("cut", 3)
        wire.set(True)
        self.say(f"round {self.rounds() + 1}: cut `cut` off the network at work")
        time.sleep(CUT_S)
        wire.set(False)
        self.say(f"connected it again after {CUT_S:g} s")

        status = hive.processes["run"].wait(1200)
        self.say(f"the run ended with exit status {status}")
        del hive.processes["run"]
        return {"exit_status": status}

    def restart(self) -> dict[str, Any]:
        """Kill the SuperLink within a run; start it again; go on."""
        hive, run = self.hive, RunDir(self.hive.folder / "broken")
        words = (*QUICK, "rounds=6", "trigger=all")
        hive.begin(
            "broken", "run", *words, "engine=deployment", f"engine.home={hive.home}",
            f"hydra.run.dir={run.path}",
        )  # fmt: skip
        until(lambda: len(run.rounds()) >= 2, 600, hive.say_logs)
        hive.signal("superlink", signal.SIGKILL)
        del hive.processes["superlink"]
        self.say("killed the SuperLink after round 2")
        status = hive.processes.pop("broken").wait(300)
        said = hive.log("broken").strip().splitlines()[-1]
        self.say(f"the run ended with exit status {status}: {said}")
        hive.start_superlink()
        self.say("started the SuperLink again")
        hive.fedhive("resume", run.path, wait_s=900)
        self.say(f"`fedhive resume` went on to round {len(run.rounds())}")
        twin = hive.folder / "unbroken"
        hive.fedhive("run", *words, "engine=local", f"hydra.run.dir={twin}")
        hashes = [RunDir(path).summary()["model_sha256"] for path in (run.path, twin)]
        self.say(f"same bits as an unbroken simulated run: {hashes[0] == hashes[1]}")
        return {
            "exit_status": status, "said": said, "rounds": len(run.rounds()),
            "same_bits_as_unbroken_simulation": hashes[0] == hashes[1],
        }  # fmt: skip

    def refusals(self) -> dict[str, str]:
        """Machines that must not be let in, and what their volunteers are told."""
        hive = self.hive
        found: dict[str, str] = {}

        def told(name: str, word: str) -> None:
            hive.join(name)
            until(lambda: word in hive.log(name), 240, lambda: hive.log(name))
            line = next(line for line in hive.log(name).splitlines() if word in line)
            found[name] = line[21:]
            self.say(f"{name}: {found[name]}")
            hive.end(name)

        hive.enlist("unregistered", register=False)
        told("unregistered", "does not know this machine's key")
        twin = hive.enlist("same_key", register=False)
        for part in ("node", "node.pub"):
            shutil.copy2(hive.folder / "cut" / part, twin / part)
        told("same_key", "takes this machine to be there already")
        other = hive.enlist("wrong_authority")
        (other / "hive.crt").write_bytes(certificates.make_authority("another")[0])
        told("wrong_authority", "another authority")
        hive.enlist("expired")
        hive.end("superlink")
        keys = (hive.home / name for name in ("ca.crt", "ca.key"))
        server, key = certificates.make_server(*(p.read_bytes() for p in keys), ["127.0.0.1"], -1)
        whole = (hive.home / "server.pem").read_bytes()
        (hive.home / "server.pem").write_bytes(server)
        refused = hive.fedhive("deploy", "start", "--home", hive.home, check=False)
        found["expired, to its operator"] = refused.strip().splitlines()[-1]
        self.say(f"the operator: {found['expired, to its operator']}")
        with Expired(hive.port, server, key, hive.folder):
            told("expired", "has expired")
        (hive.home / "server.pem").write_bytes(whole)
        return found

    def twin(self) -> dict[str, Any]:
        """The simulated run with the same seed and nobody leaving."""
        folder = self.hive.folder / "twin"
        self.hive.fedhive(
            "run", *RUN, "engine=pool", "engine.cohort=false", f"hydra.run.dir={folder}"
        )
        return RunDir(folder).summary()


def facts_of(drill: Drill, found: dict[str, Any]) -> dict[str, Any]:
    """What became of the first run."""
    summary, twin = drill.run.summary(), drill.twin()
    notes = [row for row in drill.run.notes() if row["kind"] != "waiting"]
    for row in notes:
        drill.say(f"server: {sentence(row)}")
    counted = [
        {k: e.get(k) for k in ("round", "node", "sent_s", "end_s", "status", "reason")}
        for e in drill.run.events()
    ]
    report = (drill.run.path / "report.html").read_text()
    names = ("killed", "suspended", "cut")
    return found | {
        "rounds": len(drill.run.rounds()),
        "accuracy": summary["accuracy"],
        "accuracy_of_the_simulated_run": twin["accuracy"],
        "events": counted,
        "notes": [sentence(row) for row in notes],
        "notes_with_details": sum(bool(row["what"]) for row in notes),
        "of_these_in_the_report": sum(str(row["what"]) in report for row in notes if row["what"]),
        "crashes": {name: drill.hive.state(name).get("crashes") for name in names},
        "sandbox": drill.hive.sandbox,
    }


def main(folder: Path, parts: Sequence[str]) -> None:
    drill = Drill(folder)
    path = HERE / "drill.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    earlier = HERE / "drill.log"
    if "drill" not in parts and earlier.exists():
        drill.lines = [*earlier.read_text().splitlines(), ""]

    def keep() -> None:
        (HERE / "drill.json").write_text(json.dumps(found, indent=1) + "\n")
        (HERE / "drill.log").write_text("\n".join(drill.lines) + "\n")

    with drill.hive.whole():
        drill.start()
        if "drill" in parts:
            found["drill"] = facts_of(drill, drill.play())
            keep()
        if "restart" in parts:
            found["restart"] = drill.restart()
            keep()
        if "refusals" in parts:
            found["refusals"] = drill.refusals()
            keep()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), sys.argv[1:] or PARTS)
