"""What an adversary has recorded of a run, on disk: attacks work from here, long after the run.

``views/manifest.json`` says what the models look like and what is publicly known; each round is
one ``round-<n>.safetensors`` with the models sent (each once) and, per exchange, what came back.
No label, no example and no seed of a client is in here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhive.errors import UserError
from fedhive.flower import Layout
from fedhive.leakage import tensorfile
from fedhive.leakage.recorded import Knower, Recorded, packed, unpacked, view_of
from fedhive.leakage.view import View

FOLDER = "views"
MANIFEST = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Public:
    """What everybody may know of a run: the model's recipe and how local training goes.

    Args:
        model: the ``model`` node of the configuration.
        input_shape: of one example.
        classes: how many.
        bounds: smallest and largest value that an input can have, in the units of training.
        client: the ``client`` node of the configuration (rate, batch size, ...).
        seed: of the model's initial weights; they are sent in the first round anyway.
    """

    model: Mapping[str, Any] | None = None
    input_shape: tuple[int, ...] = ()
    classes: int = 0
    bounds: tuple[float, float] = (0.0, 1.0)
    client: Mapping[str, Any] | None = None
    seed: int = 0


class ViewStore:
    """A folder of recorded rounds.

    Args:
        path: the folder; ``views`` in a run directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    # ---- writing ------------------------------------------------------------------------------

    def create(self, layout: Layout, public: Public, about: Mapping[str, Any]) -> None:
        """Begin, or take up what is there if it is of the same model.

        Args:
            layout: of the model.
            public: what everybody may know.
            about: plain facts on who records (role, what it may do).

        Raises:
            UserError: if the folder holds views of another model.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        plain = [[name, list(shape)] for name, shape in layout]
        if (self.path / MANIFEST).exists():
            if self._manifest()["layout"] != plain:
                raise UserError(f"{self.path} holds views of another model; record elsewhere")
            return
        self._write({"schema": SCHEMA, "layout": plain, "public": _plain(public),
                     "about": dict(about), "rounds": []})  # fmt: skip

    def save_round(self, number: int, exchanges: Sequence[Recorded]) -> int:
        """Write what was recorded while a round was played; bytes written.

        What is there of this and later rounds is replaced: a resumed run plays them again.
        """
        manifest = self._manifest()
        for row in [row for row in manifest["rounds"] if row["round"] >= number]:
            (self.path / row["file"]).unlink(missing_ok=True)
        kept = [row for row in manifest["rounds"] if row["round"] < number]
        written = 0
        if exchanges:
            name = f"round-{number:06d}.safetensors"
            arrays, rows = packed(exchanges)
            written = tensorfile.save(self.path / name, arrays, {"exchanges": json.dumps(rows)})
            kept.append({"round": number, "file": name, "bytes": written, "exchanges": len(rows)})
        self._write({**manifest, "rounds": kept})
        return written

    def _write(self, manifest: Mapping[str, Any]) -> None:
        temporary = self.path / f".{MANIFEST}.tmp"
        temporary.write_text(json.dumps(manifest, separators=(",", ":")) + "\n")
        os.replace(temporary, self.path / MANIFEST)

    # ---- reading ------------------------------------------------------------------------------

    def _manifest(self) -> dict[str, Any]:
        path = self.path / MANIFEST
        try:
            manifest = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"{self.path} holds no recorded views; run with observer=server to record them"
            ) from None
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}); record the run anew") from error
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise UserError(f"{path} was written by another version of fedhive; record anew")
        return manifest

    @property
    def layout(self) -> Layout:
        """Names and shapes of the model's parameters."""
        return [(name, tuple(shape)) for name, shape in self._manifest()["layout"]]

    @property
    def public(self) -> Public:
        """What everybody may know."""
        row = self._manifest()["public"]
        shape, bounds = tuple(row["input_shape"]), tuple(row["bounds"])
        return Public(**{**row, "input_shape": shape, "bounds": bounds})

    @property
    def about(self) -> dict[str, Any]:
        """Plain facts on who recorded."""
        return dict(self._manifest()["about"])

    def exchanges(self, nodes: Iterable[int] | None = None) -> Iterator[Recorded]:
        """What was recorded, in order; arrays are mapped from the files, not read.

        Args:
            nodes: only these; None for all.

        Raises:
            UserError: if a file is missing or damaged.
        """
        manifest, wanted = self._manifest(), None if nodes is None else set(nodes)
        size = sum(math.prod(shape) for _, shape in manifest["layout"])
        for row in manifest["rounds"]:
            path = self.path / row["file"]
            try:
                arrays, texts = tensorfile.load(path)
                for item in json.loads(texts["exchanges"]):
                    if wanted is None or item["node"] in wanted:
                        yield unpacked(item, arrays, size)
            except (OSError, ValueError, KeyError) as error:
                raise UserError(f"{path} is damaged ({error}); record the run anew") from error

    def nodes(self) -> list[int]:
        """Ids of the nodes of which something was recorded, ascending."""
        return sorted({recorded.node for recorded in self.exchanges()})

    def view(self, node: int, rounds: Iterable[int] | None = None) -> View:
        """What was seen of one node.

        Where a node answered twice in a round the first answer counts. Numbers that differ from
        round to round (a falling learning rate) are known only of views in which they are alike.

        Args:
            node: its id.
            rounds: only these; None for all in which it answered.

        Raises:
            UserError: if nothing was recorded of it.
        """
        wanted = None if rounds is None else set(rounds)
        found: dict[int, Recorded] = {}
        for recorded in self.exchanges([node]):
            if wanted is None or recorded.round in wanted:
                found.setdefault(recorded.round, recorded)
        if not found:
            raise UserError(f"{self.path}: nothing was recorded of node {node}")
        return view_of([found[number] for number in sorted(found)], self.layout, self._knower())

    def views(self, rounds: Iterable[int] | None = None) -> dict[int, View]:
        """`view` of every node that answered, by id."""
        wanted = None if rounds is None else list(rounds)
        found = {}
        for node in self.nodes():
            answered = {recorded.round for recorded in self.exchanges([node])}
            if wanted is None or answered & set(wanted):
                found[node] = self.view(node, wanted)
        return found

    def _knower(self) -> Knower:
        about = self.about
        return Knower(
            about.get("role", "server"), self.public.client or {},
            bool(about.get("may_edit_model")), bool(about.get("public_data")),
        )  # fmt: skip


def _plain(public: Public) -> dict[str, Any]:
    shape, bounds = list(public.input_shape), list(public.bounds)
    return {**vars(public), "input_shape": shape, "bounds": bounds}
