"""Several protections at once: noise on what is then encrypted, for instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from defenses.protection.base import Mod, Protection, Release, Request, SentModel, Setting, Step
from fedhive.errors import UserError
from fedhive.flower import Layout

if TYPE_CHECKING:
    from fedhive.leakage.view import View


class Stack(Protection):
    """Protections one inside the other.

    Args:
        layers: outermost first: the first layer's mods touch a reply last, on its way out.

    Raises:
        UserError: if two of them use a record, a metric or a setting of the same name.
    """

    def __init__(self, layers: Sequence[Protection]) -> None:
        self.layers = tuple(layers)
        self.records = tuple(name for layer in self.layers for name in layer.records)
        self.metrics = tuple(name for layer in self.layers for name in layer.metrics)
        for name in (*self.records, *self.metrics):
            if (*self.records, *self.metrics).count(name) > 1:
                raise UserError(f"protection: two layers use {name!r}; each can be there once")

    def check(self, cfg: Mapping[str, Any]) -> None:
        """Each layer's."""
        for layer in self.layers:
            layer.check(cfg)

    def mods(self, node_number: int) -> Sequence[Mod]:
        """Those of all layers."""
        return tuple(mod for layer in self.layers for mod in layer.mods(node_number))

    def sealed_bytes(self, node_number: int, layout: Layout) -> int:
        """The sum of all layers'."""
        return sum(layer.sealed_bytes(node_number, layout) for layer in self.layers)

    def answer(self, message: Message, context: Context) -> Message:
        """That of the first layer that answers queries."""
        for layer in self.layers:
            if type(layer).answer is not Protection.answer:
                return layer.answer(message, context)
        return super().answer(message, context)

    def prepare(self, request: Request, grid: Grid | None) -> bool:
        """Whether all layers are ready."""
        return all(layer.prepare(request, grid) for layer in self.layers)

    def settings(self, request: Request) -> Mapping[str, Setting]:
        """Those of all layers."""
        found: dict[str, Setting] = {}
        for layer in self.layers:
            own = layer.settings(request)
            if common := found.keys() & own.keys():
                raise UserError(f"protection: two layers send the setting {min(common)!r}")
            found |= own
        return found

    def open(self, content: RecordDict, sent: SentModel) -> tuple[RecordDict, Any]:
        """The reply without any layer's records, and what each parsed."""
        opened = []
        for layer in self.layers:
            content, found = layer.open(content, sent)
            opened.append(found)
        return content, tuple(opened)

    def disbelieved(self, claimed: int, counted: int) -> str:
        """The first layer's reason."""
        reasons = (layer.disbelieved(claimed, counted) for layer in self.layers)
        return next((reason for reason in reasons if reason), "")

    def screen(
        self, opened: Mapping[int, Any], server_round: int, grid: Grid | None
    ) -> dict[int, str]:
        """What any layer finds."""
        found: dict[int, str] = {}
        for i, layer in enumerate(self.layers):
            own = {node: parts[i] for node, parts in opened.items()}
            found = layer.screen(own, server_round, grid) | found
        return found

    def reveal(self, step: Step) -> Release:
        """What the layers reveal, one after the other."""
        release = Release(step.proposed)
        reasons: list[str] = []
        left_out: dict[int, str] = {}
        for i, layer in enumerate(self.layers):
            assert release.model is not None
            own = [found[i] for found in step.opened]
            release = layer.reveal(replace(step, proposed=release.model, opened=own))
            reasons += [release.reason] if release.reason else []
            left_out |= release.left_out or {}
            if release.model is None:
                break
        return Release(release.model, "; ".join(reasons), left_out or None)

    def epsilon(self) -> float | None:
        """That of the layer that promises any; two promises are not added up: the larger one."""
        found = [e for layer in self.layers if (e := layer.epsilon()) is not None]
        return max(found, default=None)

    def facts(self) -> dict[str, Any]:
        """Those of all layers, by the names of their classes."""
        return {type(layer).__name__.lower(): layer.facts() for layer in self.layers}

    def summary(self) -> dict[str, Any]:
        """Those of all layers."""
        return {key: value for layer in self.layers for key, value in layer.summary().items()}

    def state(self) -> dict[str, Any]:
        """Those of all layers, by place."""
        return {str(i): layer.state() for i, layer in enumerate(self.layers)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Each layer's."""
        for i, layer in enumerate(self.layers):
            layer.restore(state[str(i)])

    def view(self, view: View) -> View:
        """Through all layers, innermost first, as a reply goes."""
        for layer in reversed(self.layers):
            view = layer.view(view)
        return view
