"""Reconstruction from gradients: fedhive beside breaching 0.1.2, equal work and equal CPU time.

python experiments/reconstruction_speed/run.py --peer ~/breaching/bin/python [--seconds 100]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cells import fill  # noqa: E402

SINGLE = [("lenet", 1, 4), ("lenet", 2, 3), ("lenet", 4, 3), ("convnet", 1, 2)]
"""Network, batch, seeds."""
SEVERAL = [("lenet", 1, 2, 5), ("lenet", 2, 2, 4)]
"""Network, batch, seeds, local steps."""
PEER_DLG = 2
IDENTICAL, DEFAULT = ("own:same", "breaching:inverting"), ("own:default", "breaching:inverting")


def cells() -> Iterable[str]:
    """All cells, one seed after the other, so that a study cut short is a smaller one."""
    for seed in range(4):
        for net, batch, seeds in SINGLE:
            if seed < seeds:
                for who in ("breaching:inverting", "own:default", "own:same"):
                    if who != "own:same" or net == "lenet":
                        yield f"{who} {net} {batch} {seed}"
        for net, batch, seeds, steps in SEVERAL:
            if seed < seeds:
                for who in ("own:unrolled", "breaching:multistep"):
                    yield f"{who} {net} {batch} {seed} {steps}"
                if batch == 1:
                    yield f"own:ceiling {net} {batch} {seed} {steps}"
        yield f"own:dlg lenet 1 {seed}"
    for seed in range(PEER_DLG):
        yield f"breaching:dlg lenet 1 {seed}"


class Workers:
    """One process a library, started when it is first needed.

    Args:
        peer: python with breaching 0.1.2.
    """

    def __init__(self, peer: str) -> None:
        self.python = {"own": sys.executable, "breaching": peer}
        self.running: dict[str, subprocess.Popen[str]] = {}

    def measure(self, cell: str) -> dict[str, Any]:
        """One contender on one case."""
        while os.environ.get("WAIT_WHILE") and Path(os.environ["WAIT_WHILE"]).exists():
            time.sleep(5)  # somebody else measures on this machine
        who = cell.partition(":")[0]
        if who not in self.running:
            self.running[who] = subprocess.Popen(
                [self.python[who], str(HERE / "contender.py")], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        worker = self.running[who]
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(cell + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        if not answer:
            raise SystemExit(f"{cell}: the contender ended; its message is above")
        found: dict[str, Any] = json.loads(answer)
        return found


def mean_db(found: dict[str, Any]) -> float:
    return statistics.fmean(found["psnr"])


def table(results: dict[str, dict[str, Any]]) -> str:
    """The table of means over seeds, Markdown."""
    rows = [
        "| case | images | own, dB | breaching, dB | difference | CPU, own / breaching |",
        "|---|---|---|---|---|---|",
    ]
    lines = [(f"identical recipe, {net}", net, batch, seeds, 1, IDENTICAL)
             for net, batch, seeds in SINGLE if net == "lenet"]  # fmt: skip
    lines += [(f"default engine, {net}", net, batch, seeds, 1, DEFAULT)
              for net, batch, seeds in SINGLE]  # fmt: skip
    lines += [("DLG, lenet", "lenet", 1, 4, 1, ("own:dlg", "breaching:dlg"))]
    lines += [(f"{steps} local steps, {net}", net, batch, seeds, steps,
               ("own:unrolled", "breaching:multistep"))
              for net, batch, seeds, steps in SEVERAL]  # fmt: skip
    for title, net, batch, seeds, steps, pair in lines:
        found = []
        for seed in range(seeds):
            end = f" {net} {batch} {seed}" + (f" {steps}" if steps > 1 else "")
            if all(who + end in results for who in pair):
                found.append([results[who + end] for who in pair])
        if not found:
            continue
        mine = [mean_db(own) for own, _ in found]
        theirs = [mean_db(peer) for _, peer in found]
        ratio = statistics.median(o["search_cpu_s"] / p["search_cpu_s"] for o, p in found)
        each = [" / ".join(f"{value:.1f}" for value in side) for side in (mine, theirs)]
        gap = statistics.fmean(mine) - statistics.fmean(theirs)
        rows.append(
            f"| {title} | {batch} | {statistics.fmean(mine):.1f} ({each[0]}) | "
            f"{statistics.fmean(theirs):.1f} ({each[1]}) | {gap:+.1f} | {ratio:.2f} |"
        )
    alone = [results[f"own:dlg lenet 1 {seed}"]["psnr"][0] for seed in range(4)
             if f"own:dlg lenet 1 {seed}" in results]  # fmt: skip
    rows.append(f"\nDLG, own, dB by seed: {', '.join(f'{value:.1f}' for value in alone)}.")
    for net, batch, seeds, steps in SEVERAL:
        ends = [f" {net} {batch} {seed} {steps}" for seed in range(seeds)]
        gaps = [mean_db(results["own:unrolled" + end]) - mean_db(results["own:ceiling" + end])
                for end in ends
                if "own:ceiling" + end in results and "own:unrolled" + end in results]  # fmt: skip
        if gaps:
            said = ", ".join(f"{gap:+.1f}" for gap in gaps)
            rows.append(f"\nUnrolled {steps} steps against one gradient, dB by seed: {said}.")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", default=sys.executable, help="python with breaching 0.1.2")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    path = HERE / "results.json"
    done = fill(path, cells(), Workers(options.peer).measure, options.seconds)
    if path.is_file():
        (HERE / "results.md").write_text(table(json.loads(path.read_text())))
    if done is None:
        print("time is up; run again to go on")


if __name__ == "__main__":
    main()
