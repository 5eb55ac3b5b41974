"""What encryption cost, what it hides in each layer, and who can see what: for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from defenses.encryption import masks
from defenses.encryption.masks import Bools
from defenses.protection.opening import Meter
from defenses.protection.paths import Path
from defenses.protection.sealing import Tools
from fedhive.flower import Layout

NOT_PROTECTED = (
    "The model that comes out, and every round's, are public: what they tell about a member of "
    "the training data (membership inference) is not changed by encryption.",
    "Numbers of examples, losses, times, sizes of messages, who took part and who dropped out "
    "travel in the clear.",
)
NO_PROOF = {
    "rlwe": "rlwe is our own additive ring-LWE scheme: its parameters are estimated, it has not "
    "been reviewed by cryptographers, and its running time is not constant.",
    "plain": "cipher=plain hides nothing: it is the exact reference for the others.",
}


def facts(
    tools: Tools, path: Path, hidden: Bools | None, layout: Layout, meter: Meter
) -> dict[str, Any]:
    """The content of ``protection.json``.

    Args:
        tools: mask, cipher and keys.
        path: which sums are opened.
        hidden: the mask, bool [P]; None while it has not been agreed upon.
        layout: names and shapes of the model.
        meter: the costs so far.
    """
    return {
        "kind": "encryption",
        "mask": type(tools.mask).__name__,
        "cipher": tools.cipher.name,
        "keys": tools.keys.name,
        "path": path.name,
        "insecure_simulation": tools.keys.insecure_simulation,
        "clip": tools.cipher.fixed.clip,
        "bits": tools.cipher.fixed.bits,
        **shares(hidden, layout),
        "costs": asdict(meter),
        "sight": sight(tools, path),
        "remarks": remarks(tools, hidden, layout),
    }


def shares(hidden: Bools | None, layout: Layout) -> dict[str, Any]:
    """Hidden and protected parts of the model, and of each layer."""
    if hidden is None:
        return {"hidden": None, "protected": None, "layers": []}
    counted = masks.protected(hidden, layout)
    rows: dict[str, list[int]] = {}
    for name, part in masks.places(layout):
        row = rows.setdefault(masks.layer_of(name), [0, 0, 0])
        row[0] += part.stop - part.start
        row[1] += int(hidden[part].sum())
        row[2] += int(counted[part].sum())
    layers = [
        {"layer": layer, "parameters": total, "hidden": some, "protected": good}
        for layer, (total, some, good) in rows.items()
    ]
    return {
        "hidden": float(hidden.mean()), "protected": float(counted.mean()), "layers": layers,
    }  # fmt: skip


def sight(tools: Tools, path: Path) -> list[dict[str, str]]:
    """Who can see what of one client's hidden coordinates, one row a party."""
    if not tools.cipher.secret:
        everything = "everything: cipher=plain encrypts nothing"
        return [{"who": who, "sees": everything} for who in ("server", "somebody on the line")]
    size = getattr(path, "size", None)
    sums = f"sums over groups of {size} or more" if size else "one sum over all that are used"
    rows = [
        {"who": "server", "sees": f"{sums}; no single client's"},
        {"who": "somebody on the line", "sees": "ciphertext"},
    ]
    if tools.keys.name == "shared":
        rows += [
            {"who": "another client alone", "sees": "the models that it is sent"},
            {"who": "any client with the server or on the line",
             "sees": "every client's: all have the one key"},
            {"who": "holder of the key", "sees": "every client's, if it gets the ciphertexts"},
        ]  # fmt: skip
    else:
        threshold = getattr(tools.keys, "threshold", None)
        some = f"{threshold}" if threshold else "a threshold of"
        rows += [
            {"who": "another client", "sees": "the models that it is sent"},
            {"who": f"fewer than {some} members with the server", "sees": "as the server"},
            {"who": f"{some} members with the server", "sees": "every client's"},
        ]  # fmt: skip
    if tools.keys.insecure_simulation:
        rows.append({
            "who": "whoever knows the run's seed",
            "sees": "everything: keys were derived from it, as simulations do",
        })  # fmt: skip
    return rows


def remarks(tools: Tools, hidden: Bools | None, layout: Layout) -> list[str]:
    """What must be said beside the numbers."""
    found = list(NOT_PROTECTED)
    if tools.cipher.name in NO_PROOF:
        found.append(NO_PROOF[tools.cipher.name])
    first = masks.linear_first_of(layout)
    if (
        hidden is not None
        and first is not None
        and hidden[first].any()
        and not hidden[first].all()
    ):
        found.append(
            "The first layer is dense and only partly hidden: the rest of it gives the inputs "
            "back, so what is hidden there does not count as protected."
        )
    if tools.mask.from_data:
        found.append("The mask follows from data: it and the sum of the clients' maps are public.")
    return found


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The keys for ``summary.json``."""
    if not found:
        return {}
    costs = found["costs"]
    saturated, values = costs["saturated"], costs["clear_bytes"] // 4
    return {
        "encrypted_share": found["hidden"],
        "protected_share": found["protected"],
        "bytes_sealed": costs["sealed_bytes"],
        "saturated_share": saturated / values if values else None,
        "rounds_not_opened": len(costs["lost"]),
        "insecure_simulation": found["insecure_simulation"],
    }


def bytes_per_value(found: Mapping[str, Any]) -> float | None:
    """Sealed bytes for each hidden value, None before the first upload."""
    costs = found["costs"]
    values = costs["clear_bytes"] / 4
    return costs["sealed_bytes"] / values if math.isfinite(values) and values else None
