"""Turns what happened in a round into the run directory's records and the run's summary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedhive.results.reference import Reference

SUMS = (
    "samples", "bytes_up", "bytes_down", "energy_useful_j", "energy_wasted_j", "carbon_useful_g",
    "carbon_wasted_g",
)  # fmt: skip


def round_record(
    number: int,
    time_s: float,
    wall_s: float,
    selected: int,
    events: Sequence[Mapping[str, Any]],
    loss: float | None,
    accuracy: float | None,
) -> dict[str, Any]:
    """One line of ``rounds.jsonl``.

    Args:
        number: the round, from 1.
        time_s: the run's clock at its end, seconds.
        wall_s: real seconds the round took.
        selected: tasks sent in it.
        events: tasks booked in it.
        loss: on the test set, None if not evaluated.
        accuracy: on the test set, a fraction.
    """
    useful = [event for event in events if event["status"] == "accepted"]
    wasted = [event for event in events if event["status"] != "accepted"]
    trained = [event for event in useful if event["kind"] == "train"]
    return {
        "round": number,
        "time_s": time_s,
        "accuracy": _finite(accuracy),
        "loss": _finite(loss),
        "selected": selected,
        "completed": len(useful),
        "withdrawn": _count(events, "withdrawn"),
        "rejected": _count(events, "rejected") + _count(events, "error"),
        "samples": sum(event["samples"] for event in trained),
        "bytes_up": total(events, "bytes_up"),
        "bytes_down": total(events, "bytes_down"),
        "energy_useful_j": total(useful, "energy_j"),
        "energy_wasted_j": total(wasted, "energy_j"),
        "carbon_useful_g": total(useful, "carbon_g"),
        "carbon_wasted_g": total(wasted, "carbon_g"),
        "wall_s": wall_s,
    }


def total(rows: Iterable[Mapping[str, Any]], key: str) -> Any:
    """The sum of a column; None if any entry is unknown."""
    values = [row.get(key) for row in rows]
    return None if any(value is None for value in values) else sum(values)


def gini(counts: Sequence[float]) -> float | None:
    """Gini coefficient of non-negative numbers: 0 all equal, towards 1 all with one; None if 0."""
    ordered = sorted(counts)
    amount, n = sum(ordered), len(ordered)
    if not amount:
        return None
    ranked = sum(rank * value for rank, value in enumerate(ordered, 1))
    return 2.0 * ranked / (n * amount) - (n + 1) / n


def summarise(
    rounds: Sequence[Mapping[str, Any]],
    leftovers: Sequence[Mapping[str, Any]],
    participation: Sequence[int],
    accounts: Sequence[Mapping[str, float]],
    rates: Sequence[float],
    target: float | None,
    reference: Reference | None = None,
    serving: tuple[float | None, float | None] = (None, None),
) -> dict[str, Any]:
    """The figures of ``summary.json`` that follow from the records.

    Args:
        rounds: lines of ``rounds.jsonl``.
        leftovers: events booked after the last round.
        participation: accepted replies of each machine.
        accounts: seconds of each machine, as the ledger gives them; empty if unknown.
        rates: training speed of each machine, samples/s; empty if unknown.
        target: accuracy whose first reaching is reported.
        reference: what an ideal machine needs; None if unknown.
        serving: joules and grams of the server; None if unknown.
    """
    tail = round_record(0, 0.0, 0.0, 0, leftovers, None, None)
    measured = [row for row in rounds if row["accuracy"] is not None]
    accuracies = [row["accuracy"] for row in measured]
    reached = [row["time_s"] for row in measured if target and row["accuracy"] >= target]
    sums = {key: total([*rounds, tail], key) for key in SUMS}
    available = sum(rate * row["on_s"] for rate, row in zip(rates, accounts, strict=True))
    system = sums["samples"] / available if available > 0 else None
    statistical = None
    if reference is not None and measured and sums["samples"]:
        statistical = reference.samples_to(accuracies[-1]) / sums["samples"]
    return {
        "rounds": len(rounds),
        "accuracy": accuracies[-1] if measured else None,
        "accuracy_best": max(accuracies, default=None),
        "loss": measured[-1]["loss"] if measured else None,
        "target_accuracy": target,
        "time_to_target_s": reached[0] if reached else None,
        "time_virtual_s": rounds[-1]["time_s"] if rounds else 0.0,
        "time_wall_s": sum(row["wall_s"] for row in rounds),
        **sums,
        "energy_waiting_j": total(accounts, "waiting_j") if accounts else None,
        "carbon_waiting_g": total(accounts, "waiting_g") if accounts else None,
        "energy_server_j": serving[0],
        "carbon_server_g": serving[1],
        "eta_system": system,
        "eta_statistical": statistical,
        "eta": None if system is None or statistical is None else system * statistical,
        "participation_gini": gini(participation),
    }


def _count(events: Sequence[Mapping[str, Any]], status: str) -> int:
    return sum(event["status"] == status for event in events)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
