"""Attacking a run that was recorded: from the store alone, guesses go beside it.

Nothing here knows where the data are: the model is built from the store's manifest, the target
is what crossed the wire. `fedhive.leakage.judge` compares guesses with the truth afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.reconstruction.attacks import Attack, attack_called
from attacks.reconstruction.guess import Guess
from attacks.reconstruction.scene import Scene
from fedhive import seeding
from fedhive.flower import Layout
from fedhive.leakage import tensorfile
from fedhive.leakage.store import Public, ViewStore
from fedhive.leakage.threats import as_seen_by
from fedhive.leakage.view import View

GUESSES = "guesses"


def reconstruct(
    store: ViewStore,
    name: str,
    nodes: Iterable[int] | None = None,
    rounds: Iterable[int] | None = None,
    threat: str | None = None,
    seed: int = 0,
) -> dict[int, Guess | str]:
    """Attack nodes of a recorded run; guesses are saved in the folder ``guesses``.

    Args:
        store: what was recorded.
        name: of the attack, see `attacks.reconstruction.attacks.ATTACKS`.
        nodes: ids; None for all.
        rounds: that the attack may look at; it attacks the last of them; None for all.
        threat: keep only what this threat model knows (`fedhive.leakage.threats`).
        seed: of the attack's own randomness.

    Returns:
        By node, the guess, or why there is none.
    """
    attack, scene = attack_called(name), Scene.of(store)
    views = store.views(rounds)
    wanted = sorted(views) if nodes is None else list(nodes)
    found: dict[int, Guess | str] = {}
    for node in wanted:
        view = views[node] if node in views else store.view(node, rounds)
        if threat is not None:
            view = as_seen_by(view, threat)
        found[node] = attempt(attack, view, scene, seed)
        guess = found[node]
        if isinstance(guess, Guess):
            save(store.path / GUESSES, name, view, guess)
    return found


def attempt(attack: Attack, view: View, scene: Scene, seed: int) -> Guess | str:
    """One attack on one view, or the reason why it cannot work there."""
    node, number = view.subjects[0], view.exchanges[-1].round
    try:
        return attack(view, scene, seeding.stream(seed, "reconstruction", node, number))
    except ValueError as error:
        return str(error)


def save(folder: Path, name: str, view: View, guess: Guess) -> Path:
    """Write a guess, named by attack, round and node."""
    folder.mkdir(parents=True, exist_ok=True)
    number, node = view.exchanges[-1].round, view.subjects[0]
    path = folder / f"{name}-round-{number:06d}-node-{node}.safetensors"
    arrays: dict[str, NDArray[Any]] = {
        "samples": guess.samples, "labels": guess.labels, "scores": guess.scores,
        "certified": guess.certified.astype(np.uint8),
    }  # fmt: skip
    about = {"attack": name, "round": number, "node": node, "facts": _plain(guess.facts)}
    tensorfile.save(path, arrays, {"about": json.dumps(about)})
    return path


@dataclass
class Online:
    """The same attack while the run goes on: an onlooker for ``observer.onlookers``.

    Args:
        attack: its name.
        folder: where guesses go.
        seed: of the attack's own randomness.
    """

    attack: str
    folder: str
    seed: int = 0

    def look(self, number: int, views: Mapping[int, View], layout: Layout, public: Public) -> None:
        """Attack every node that answered in this round."""
        scene = Scene.from_public(public)
        for view in views.values():
            guess = attempt(attack_called(self.attack), view, scene, self.seed)
            if isinstance(guess, Guess):
                save(Path(self.folder), self.attack, view, guess)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if isinstance(value, int | float | str)}
