"""What does encryption cost? See README.md here.

python experiments/encryption_cost/run.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from experiments.cells import fill  # noqa: E402

NAMES = ("plain", "rlwe", "rlwe-6", "seal", "tenseal", "add-only", "nvflare", "plato")
SHOWN = {
    "plain": "`cipher=plain`", "rlwe": "`cipher=rlwe`", "rlwe-6": "`cipher=rlwe` with `word: 6`",
    "seal": "`cipher=seal`", "tenseal": "`cipher=tenseal`",
    "add-only": "TenSEAL 4096 [60, 49]", "nvflare": "TenSEAL 8192 [60, 40, 40], NVFlare's",
    "plato": "TenSEAL 8192 [60, 40, 40, 60], Plato's",
}  # fmt: skip
SIZES = (100_000, 1_000_000, 10_000_000)
TURNS = 262_144, 11


def cells() -> list[str]:
    turns = f"ratios {TURNS[0]} {TURNS[1]}"
    sizes = [
        f"size {name} {count} {repetitions(name, count)}" for count in SIZES for name in NAMES
    ]
    return [turns, *(f"committee {clients}" for clients in (10, 100)), *sizes]


def repetitions(name: str, count: int) -> int:
    """Runs; 0 for an encryption only, as two uploads of ten million would take 1.5 GB."""
    if count < 10_000_000:
        return 3
    return 0 if name in ("add-only", "nvflare", "plato") else 1


def measure(cell: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.encryption_cost.worker", *cell.split()],
        cwd=ROOT, env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:100] if done.stderr else "killed"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def markdown(results: dict[str, dict[str, Any]]) -> str:
    turns = results[f"ratios {TURNS[0]} {TURNS[1]}"]["seconds"]
    base = turns["nvflare"]
    lines = ["# What encryption costs", "", about(), "",
             f"## Encrypt and serialise {TURNS[0]:,} values, contenders taking turns", "",
             "| contender | million values per CPU second, median | best | to NVFlare's, median "
             "of the turns' ratios | ratio of the bests |", "|--|--:|--:|--:|--:|"]  # fmt: skip
    for name in reversed(NAMES[1:]):
        mine = turns[name]
        ratio = statistics.median(b / m for b, m in zip(base, mine, strict=True))
        lines.append(
            f"| {SHOWN[name]} | {TURNS[0] / statistics.median(mine) / 1e6:.2f} "
            f"| {TURNS[0] / min(mine) / 1e6:.2f} | {ratio:.1f} | {min(base) / min(mine):.1f} |"
        )
    for count in SIZES:
        lines += ["", f"## {count:,} values ({count * 4 / 2**20:.1f} MiB as float32)", "",
                  "| contender | encrypt, CPU s | parse and add, per upload | decrypt | bytes a "
                  "value | memory beside the input, MiB | of the input | largest error |",
                  "|--|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
        for name in NAMES:
            cell = next(v for k, v in results.items() if k.startswith(f"size {name} {count} "))
            if "failed" in cell:
                lines.append(f"| {SHOWN[name]} | {cell['failed']} | | | | | | |")
                continue
            add, decrypt, error = ("", "", "")
            if "add_s" in cell:
                add, decrypt = f"{cell['add_s']:.3f}", f"{cell['decrypt_s']:.3f}"
                error = f"{cell['error']:.1e}"
            lines.append(
                f"| {SHOWN[name]} | {cell['encrypt_s']:.3f} | {add} | {decrypt} "
                f"| {cell['bytes'] / count:.2f} | {cell['extra_mb']:.1f} "
                f"| {cell['extra_mb'] / cell['input_mb']:.2f} | {error} |"
            )
    lines += ["", "## keys=committee, 7 members of whom 5 open", "",
              "| clients in the sum | client, CPU ms | client sends more, bytes | member, CPU ms "
              "| member sends, bytes | member receives | server, CPU ms |",
              "|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for clients in (10, 100):
        c = results[f"committee {clients}"]
        lines.append(
            f"| {clients} | {c['client_ms']} | {c['client_bytes']:,} | {c['member_ms']} "
            f"| {c['member_sends']:,} | {c['member_receives']:,} | {c['server_ms']} |"
        )
    return "\n".join([*lines, "", *bars(results), ""])


def bars(results: dict[str, dict[str, Any]]) -> list[str]:
    turns = results[f"ratios {TURNS[0]} {TURNS[1]}"]["seconds"]

    def ratio(name: str) -> float:
        return statistics.median(b / m for b, m in zip(turns["nvflare"], turns[name], strict=True))

    large = results["size rlwe 10000000 1"]
    claims = [
        ("seal, encrypt and serialise, to NVFlare's parameters", ratio("seal"), ">=", 5),
        ("rlwe, likewise", ratio("rlwe"), ">=", 20),
        ("rlwe, bytes to float32's", large["bytes"] / 4e7, "<=", 0.9),
        ("rlwe, 1e7 values, CPU s", large["encrypt_s"], "<=", 1.0),
        ("rlwe, 1e7 values, memory beside the input, of it", large["extra_mb"] / large["input_mb"],
         "<=", 1.3),
        ("committee member sends, kB a round", results["committee 100"]["member_sends"] / 1e3,
         "<=", 10),
    ]  # fmt: skip
    lines = ["## Bars", "", "| claim | measured | bar | holds |", "|--|--:|--:|--|"]
    for name, value, sign, bar in claims:
        holds = value >= bar if sign == ">=" else value <= bar
        lines.append(f"| {name} | {value:.2f} | {sign} {bar} | {'yes' if holds else 'no'} |")
    return lines


def about() -> str:
    import tenseal
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return (
        f"{platform.machine()} {processor}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, TenSEAL {tenseal.__version__}; one thread, CPU seconds "
        "(`time.process_time`)."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"),
                        help="begin no further cell after so many seconds")  # fmt: skip
    options = parser.parse_args()
    found = fill(HERE / "results.json", cells(), measure, options.seconds)
    if found is not None:
        (HERE / "results.md").write_text(markdown(found), encoding="utf-8")
