"""Measures in a process of its own; the last line it prints is a JSON object."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.encryption_cost.contenders import CLIP, contender

torch.set_num_threads(1)


def memory_mb(which: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{which}:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def model(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(0, 0.05, count).astype(np.float32)


def size(name: str, count: int, repetitions: int) -> dict[str, Any]:
    """Costs of one cipher at one size: least CPU seconds of some repetitions.

    Without repetitions, one encryption only.
    """
    # Libraries are warm before memory is looked at, large buffers are not.
    contender(name, 1000).upload(model(1000), 0)
    values, made = model(count), contender(name, count)
    best: dict[str, float] = {}
    result: dict[str, Any] = {}
    for _ in range(max(repetitions, 1)):
        forget_peak()
        before = memory_mb("VmRSS")
        start = time.process_time()
        first = made.upload(values, 0)
        cost = {"encrypt_s": time.process_time() - start}
        peak = memory_mb("VmHWM") - before
        result["bytes"] = len(first)
        # Later, memory that was freed may still be resident and be used again.
        result.setdefault("extra_mb", round(peak, 2))
        if not repetitions:
            return {**result, **cost, "input_mb": values.nbytes / 2**20}
        second = made.upload(values, 1)
        start = time.process_time()
        total = made.add([first, second])
        cost["add_s"] = (time.process_time() - start) / 2
        start = time.process_time()
        opened = made.decrypt(total)
        cost["decrypt_s"] = time.process_time() - start
        result["error"] = float(np.abs(opened[:count] - 2 * np.clip(values, -CLIP, CLIP)).max())
        for key, value in cost.items():
            best[key] = round(min(best.get(key, 1e9), value), 5)
        del first, second, total, opened
    return {**result, **best, "input_mb": values.nbytes / 2**20}


def ratios(count: int, repetitions: int) -> dict[str, Any]:
    """Encrypt and serialise, contenders taking turns: CPU seconds of every turn."""
    names = ("nvflare", "plato", "add-only", "tenseal", "seal", "rlwe", "rlwe-6")
    values, seconds = model(count), {name: [] for name in names}
    made = {name: contender(name, count) for name in names}
    for turn in range(repetitions + 1):
        for name in names[:: -1 if turn % 2 else 1]:
            start = time.process_time()
            made[name].upload(values, 0)
            if turn:
                seconds[name].append(round(time.process_time() - start, 5))
    return {"seconds": seconds}


def committee(clients: int) -> dict[str, Any]:
    """What keys=committee costs a client, a member and the server (7 members, 5 to open)."""
    from defenses.encryption.base import Context
    from defenses.encryption.keys_committee import Committee
    from defenses.encryption.rlwe import Rlwe

    cipher, count = Rlwe(CLIP), 20_000
    keys = Committee(nodes=list(range(7)), seed=1)
    here, values = Context(bytes(16), 1, bytes(16), 0, count), model(count)
    client, parsed, shares = [], [], 0
    for sender in range(clients):
        there = replace(here, sender=sender)
        start = time.process_time()
        key = keys.for_upload(cipher, there)
        client.append(time.process_time() - start)
        shares = len(key.shares)
        parsed.append(cipher.parse(cipher.encrypt(values, key, there).data, there, keys))
    members = [keys.member(node, cipher) for node in range(7)]
    member: list[float] = []
    sent: list[int] = []
    received: list[int] = []

    def ask(messages: Any) -> dict[int, bytes]:
        answers = {}
        for node, message in messages.items():
            start = time.process_time()
            answers[node] = members[node].answer(message)
            member.append(time.process_time() - start)
            sent.append(len(answers[node]))
            received.append(len(message))
        return answers

    total = cipher.add(parsed)
    start = time.process_time()
    keys.open(cipher, [total], ask)
    server = time.process_time() - start - sum(member)
    return {
        "client_ms": round(1e3 * min(client), 2), "client_bytes": shares,
        "member_ms": round(1e3 * min(member), 2), "member_sends": max(sent),
        "member_receives": max(received), "server_ms": round(1e3 * server, 2),
    }  # fmt: skip


if __name__ == "__main__":
    # TenSEAL writes warnings to standard output from C++.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    task, *numbers = sys.argv[1:]
    call = {"size": lambda n, c, r: size(n, int(c), int(r)),
            "ratios": lambda c, r: ratios(int(c), int(r)),
            "committee": lambda c: committee(int(c))}[task]  # fmt: skip
    print(json.dumps(call(*numbers)), file=out, flush=True)
