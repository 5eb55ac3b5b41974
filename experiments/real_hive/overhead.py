"""Seconds a round takes when there is nothing to do: fedhive's deployment beside stock Flower's.

    python -m experiments.real_hive.overhead [ROUNDS [TURNS]]

Two machines on loopback, TLS and keys, the same ClientApp and hardly any work (one step of softmax
regression). Stock: `flower-superlink`, `flower-supernode` and FedAvg.start as they come.
Ours: `fedhive deploy`, `fedhive join` with and without sandbox, `fedhive run`. They take turns, so
that the load of other programs meets them alike, at the same priority. Writes ``overhead.json``
beside this file.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.real_hive.loopback import Loopback, until
from fedhive import config
from fedhive.compose import compose
from fedhive.deploy.bundle import app_files
from fedhive.deploy.environment import flower_environment
from fedhive.deploy.hive import Hive, Settings
from fedhive.results.rundir import RunDir

HERE = Path(__file__).parent
WORK = (
    "data=synthetic", "data.n=200", "model=softmax_regression", "partition=iid", "nodes=2",
    "selection.k=2", "local_work=steps", "local_work.steps=1", "progress=false",
)  # fmt: skip
STOCK = """
import time
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from fedhive.flower import from_flat
from fedhive.learning.workbench import workbench

app = ServerApp()


class Timed(FedAvg):
    def aggregate_train(self, server_round, replies):
        found = list(replies)
        print(f"stock-round {server_round} {len(found)} {time.time()}", flush=True)
        return super().aggregate_train(server_round, found)


@app.main()
def main(grid, context):
    bench = workbench(context.run_config["fedhive-config"])
    arrays = from_flat(bench.initial.numpy(), bench.layout)
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.5)
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    print(f"stock-round 0 0 {time.time()}", flush=True)
    strategy.start(grid, arrays, num_rounds=context.run_config["rounds"])
"""


def stock(folder: Path, rounds: int) -> list[float]:
    """Seconds of each round under Flower's own programs."""
    hive = Hive(folder / "hive")
    port = Loopback(folder).port
    hive.create(Settings("stock", "127.0.0.1", port, ("127.0.0.1",)))
    environment = flower_environment(folder / "flower")
    for name in ("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "PYTHONPATH"):
        environment.pop(name, None)
    programs = Path(sys.executable).parent
    running = []
    try:
        with open(folder / "log", "ab") as log:

            def begin(words: list[str], home: str) -> None:
                running.append(subprocess.Popen(
                    words, env={**environment, "FLWR_HOME": str(folder / home)}, stdout=log,
                    stderr=log, cwd=folder, start_new_session=True,
                ))  # fmt: skip

            begin([str(programs / "flower-superlink"), *hive.command()[3:]], "link")
            until(lambda: not hive.unreachable(), 120)
            from fedhive.deploy import certificates

            for number in range(2):
                private, public = certificates.make_node_key()
                key = folder / f"key{number}"
                certificates.write_private(key, private)
                key.with_suffix(".pub").write_bytes(public)
                hive.register(key.with_suffix(".pub"), f"n{number}", None)
                begin(
                    [
                        str(programs / "flower-supernode"), "--superlink", f"127.0.0.1:{port}",
                        "--root-certificates", str(hive.authority), "--port",
                        str(Loopback(folder).port), "--auth-supernode-private-key", str(key),
                        "--node-config", f"partition-id={number} num-partitions=2",
                    ],
                    f"node{number}",
                )  # fmt: skip
            files = app_files()
            text = files["pyproject.toml"].decode()
            text = text.replace('"fedhive.app:server"', '"fedhive.stock:app"')
            files["pyproject.toml"] = (text + f"rounds = {rounds}\n").encode()
            files["fedhive/stock.py"] = STOCK.encode()
            run_config = {config.RUN_CONFIG_KEY: config.dumps(compose([*WORK]))}
            run_id = hive.control.start(files, run_config)
            times = [
                float(line.split()[-1])
                for line in hive.control.log(run_id)
                if line.startswith("stock-round")
            ]
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(60)
    return [b - a for a, b in itertools.pairwise(times)]


def ours(folder: Path, rounds: int, sandbox: bool) -> list[float]:
    """Seconds of each round under fedhive's; what the server does between rounds included."""
    hive = Loopback(folder, sandbox=sandbox)
    with hive.whole():
        hive.start_superlink()
        for number in range(2):
            hive.enlist(f"n{number}", number, poll_s=1.0, nice=0)
            hive.join(f"n{number}")
        hive.fedhive(
            "run", *WORK, f"rounds={rounds}", "engine=deployment", f"engine.home={hive.home}",
            f"hydra.run.dir={folder / 'run'}",
        )  # fmt: skip
    return [float(record["wall_s"]) for record in RunDir(folder / "run").rounds()]


def main(rounds: int, turns: int = 1) -> None:
    found: dict[str, list[float]] = {"stock": [], "ours, sandbox": [], "ours, no sandbox": []}
    for _ in range(turns):
        for name in found:
            with tempfile.TemporaryDirectory() as temporary:
                folder, began = Path(temporary), time.monotonic()
                if name == "stock":
                    got = stock(folder, rounds)
                else:
                    got = ours(folder, rounds, "no" not in name)
                found[name] += got[1:]  # the first round also fetches the app
                print(
                    name,
                    [round(s, 2) for s in got],
                    f"{time.monotonic() - began:.0f} s",
                    flush=True,
                )
    median: dict[str, Any] = {name: statistics.median(values) for name, values in found.items()}
    table = {
        "rounds": rounds, "turns": turns, "load": os.getloadavg(),
        "seconds": {name: [round(v, 2) for v in values] for name, values in found.items()},
        "median_s": median,
        "share_of_stock": {name: value / median["stock"] for name, value in median.items()},
    }  # fmt: skip
    (HERE / "overhead.json").write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table["median_s"]), json.dumps(table["share_of_stock"]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3] or ["6"]))
