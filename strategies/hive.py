"""The composed strategy: whom to ask, for how much, until when, and what to make of the replies.

`Hive` is one Flower Strategy that holds parts; no part is a subclass of another and nothing
inherits from `Hive`. It runs on any Flower Grid: our virtual world, Flower's simulation runtime,
or a real SuperLink. On a world it also reports its verdict on every reply, so that the ledger
can tell useful energy from wasted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from defenses.containment import Containment
from defenses.enrolment import Enrolment, Register
from defenses.protection.base import Protection, Request, Step
from fedhive.flower import (
    Layout,
    failed_early,
    flatten_record,
    from_flat,
    in_memory,
    layout_of,
)
from fedhive.world.carbon_forecast import CarbonForecaster
from fedhive.world.clock import Clock, clock_of
from fedhive.world.forecast import Forecaster
from strategies import verdicts
from strategies.combine import Combine, Mean
from strategies.inbox import Asked, Inbox
from strategies.local_work import Epochs, LocalWork
from strategies.placement import Placement
from strategies.probing import probe as probe_losses
from strategies.reading import Reader, Reply, cohort_of, mean_loss, round_facts
from strategies.schedule import Agenda, Now, Schedule
from strategies.selection import Choice, Selection, Uniform
from strategies.server_opt import FedAvg, ServerOptimizer
from strategies.trigger import All, Trigger
from strategies.view import NodeHistory, View
from strategies.watch import Watch

Vector = NDArray[np.float32]

LONGEST_WAIT_S = 86_400.0
"""A schedule that lets nobody work for so long ends the round, so that clocks can be looked at."""


class Hive(Strategy):
    """Federated training composed of parts.

    Args:
        selection: whom to ask, with what weight.
        local_work: how much each of them trains.
        trigger: when the round closes, and what becomes of replies that come later.
        combine: how accepted replies become one proposed model.
        server_opt: how the model moves towards it.
        containment: what a reply must be to be looked at.
        forecast: what may be expected of machines that come and go; None for no forecasts.
        screen_forecasts: do without a forecaster while its recent skill is negative.
        identities: who stands behind a node; None for what the grid tells.
        placement: which training data the machines are given; None for their own.
        schedule: who may work at which time; None for everybody at any.
        carbon_forecast: what may be expected of carbon intensity; None for no forecasts.
        protection: who may see what of a client's update; None for the server, everything.
        max_staleness: rounds after which a reply is too old, where the trigger keeps late ones;
            null for never.
        seed: of the selection's random streams.
        idle_s: how long to wait before looking again when there is nobody to ask, seconds.
    """

    def __init__(
        self,
        selection: Selection | None = None,
        local_work: LocalWork | None = None,
        trigger: Trigger | None = None,
        combine: Combine | None = None,
        server_opt: ServerOptimizer | None = None,
        containment: Containment | None = None,
        forecast: Forecaster | None = None,
        screen_forecasts: bool = False,
        identities: Enrolment | None = None,
        placement: Placement | None = None,
        max_staleness: int | None = None,
        seed: int = 0,
        idle_s: float = 60.0,
        schedule: Schedule | None = None,
        carbon_forecast: CarbonForecaster | None = None,
        protection: Protection | None = None,
    ) -> None:
        if not idle_s > 0.0:
            raise ValueError(f"idle_s must be above 0, got {idle_s}")
        if max_staleness is not None and max_staleness < 0:
            raise ValueError(f"max_staleness must not be negative, got {max_staleness}")
        self.selection: Selection = selection or Uniform()
        self.local_work: LocalWork = local_work or Epochs()
        self.trigger: Trigger = trigger or All()
        self.combine: Combine = combine or Mean()
        self.server_opt: ServerOptimizer = server_opt or FedAvg()
        self.containment = containment or Containment()
        self.placement, self.protection = placement, protection
        self.seed, self.idle_s = seed, idle_s
        self.schedule: Schedule = schedule or Now()
        self._check_schedule(carbon_forecast)
        limit_s = self.trigger.limit_s
        self.watch = Watch(forecast, seed, limit_s, screen_forecasts, carbon_forecast)
        self.inbox = Inbox()
        limit = getattr(self.containment, "max_strikes", None)
        self.register = Register(identities, limit)
        self.reader = Reader(
            self.containment, self.combine.expects, self.inbox, self.watch, self.register,
            max_staleness, protection,
        )  # fmt: skip
        self._check_enough()
        self._vectors: dict[str, dict[str, Vector]] | None = None
        self._choices: dict[int, Choice] = {}
        self._agenda = Agenda()
        self._sent: tuple[Vector, Layout] | None = None
        self._grid: Grid | None = None  # for a strategy that is driven as Flower's are

    def _check_schedule(self, carbon_forecast: CarbonForecaster | None) -> None:
        """Refuse a schedule that cannot do its work with the other parts."""
        name = type(self.schedule).__name__
        if self.schedule.forecasts and carbon_forecast is None:
            raise ValueError(
                f"schedule {name} goes by carbon intensity; add a carbon_forecast, e.g. "
                "carbon_forecast=seasonal_naive"
            )
        if not self.schedule.chooses:
            return
        if not (isinstance(self.selection, Uniform) and self.selection.k is None):
            raise ValueError(
                f"schedule {name} picks the machines itself, and so does selection "
                f"{type(self.selection).__name__}; add selection=all"
            )
        if getattr(self.trigger, "refills", False):
            raise ValueError(
                f"schedule {name} picks the machines of a round at once, trigger "
                f"{type(self.trigger).__name__} asks more while it is open; use trigger=all or "
                "deadline"
            )

    def _check_enough(self) -> None:
        """Refuse a rule that needs more replies than a round can bring."""
        check = getattr(self.combine, "check", None)
        k = self.selection.k if isinstance(self.selection, Uniform) else None
        if check is not None and k is not None and not self._keeps:
            check(min(k, getattr(self.combine, "nodes", None) or k))

    @property
    def history(self) -> dict[int, NodeHistory]:
        """What each node has shown so far, by node id."""
        return self.watch.history

    # ---- a round ------------------------------------------------------------------------------

    def train_round(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> ArrayRecord:
        """Ask, wait, combine, step: the new model, or the old one if nothing usable came."""
        clock = clock_of(grid)
        if not self._keeps:
            self._forget_leftovers(grid)
        self._await(server_round, arrays, grid, clock)
        ready = self._prepare(server_round, arrays, grid)
        ids = self._ask(server_round, arrays, config, grid) if ready else []
        if not ids and not (self._keeps and self.inbox.owing):
            clock.sleep_until(clock.now + self.idle_s)
            alone = self._step([], server_round, grid)
            return arrays if alone is None else alone
        opened = clock.now
        replies, arrivals = self._gather(server_round, ids, arrays, config, grid, clock)
        came_s = {
            r.metadata.reply_to_message_id: t for r, t in zip(replies, arrivals, strict=True)
        }
        usable = self._read(replies, server_round, grid, came_s)
        new = self._step(usable, server_round, grid)
        self._learn(usable, server_round, len(ids), [t - opened for t in arrivals], grid)
        return arrays if new is None else new

    def _await(
        self, server_round: int, arrays: ArrayRecord, grid: Grid, clock: Clock
    ) -> None:  # fmt: skip
        """Let time pass until somebody is there whom the schedule lets work."""
        if isinstance(self.schedule, Now):
            return
        until_s = clock.now + LONGEST_WAIT_S
        while True:
            view = self.watch.view(server_round, grid, self.inbox.busy(), 0, arrays)
            self._agenda = self.schedule.plan(view)
            wake_s = self._agenda.wake_s
            if wake_s is None or any(self._agenda.allows(node) for node in view.idle):
                return
            if clock.now >= until_s or (self._keeps and self.inbox.owing):
                return
            if self._agenda.nodes:  # somebody may work, and may come before the hour is over
                wake_s = min(wake_s, clock.now + self.idle_s)
            clock.sleep_until(min(max(wake_s, clock.now + 1.0), until_s))

    def _ask(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid,
        also_busy: Iterable[int] = (), wave: int = 0,
    ) -> list[str]:  # fmt: skip
        """Send instructions to whom the selection picks; their message ids."""
        view = self._view(server_round, grid, arrays, also_busy, wave)
        if wave:
            self._agenda = self.schedule.plan(view)
            view = self._allowed(view)
        messages = self._instructions(view, arrays, config)
        self.register.meet(list(self._choices), grid)
        ids = list(grid.push_messages(messages)) if messages else []
        assert self._sent is not None
        for message_id, message in zip(ids, messages, strict=True):
            node = message.metadata.dst_node_id
            choice = self._choices[node]
            asked = Asked(node, server_round, view.now_s, choice.weight, choice.probability)
            self.inbox.expect(message_id, asked, self._sent[0], self._personal(node))
        return ids

    def _gather(
        self, server_round: int, ids: list[str], arrays: ArrayRecord, config: ConfigRecord,
        grid: Grid, clock: Clock,
    ) -> tuple[list[Message], list[float]]:  # fmt: skip
        """The replies in hand when the trigger closes the round, and when each came."""
        opened, wave, arrivals = clock.now, 0, []
        arrived: list[Message] = []
        pending = dict.fromkeys(self.inbox.owing if self._keeps else ids)
        asked = len(ids)
        while True:
            for reply in grid.pull_messages(list(pending)):
                key = reply.metadata.reply_to_message_id
                del pending[key]
                if failed_early(reply):
                    self.reader.give_up(reply, grid)
                else:
                    arrived.append(reply)
                    arrivals.append(clock.now)
            if self.trigger.closed(asked, len(pending), len(arrived), clock.now - opened):
                break
            if getattr(self.trigger, "refills", False) and arrived:
                wave += 1
                done = [reply.metadata.src_node_id for reply in arrived]
                more = self._ask(server_round, arrays, config, grid, done, wave)
                pending |= dict.fromkeys(more)
                asked += len(more)
            clock.wait(opened + self.trigger.limit_s())
        if not self._keeps:
            for key in pending:
                verdicts.settle(grid, key, self.trigger.leftover, "the round had closed")
                self.watch.of(self.inbox.owing[key].node).late += 1
        return arrived, arrivals

    @property
    def _keeps(self) -> bool:
        """Whether replies that come after their round has closed are still used."""
        return self.trigger.leftover == "keep"

    def _forget_leftovers(self, grid: Grid) -> None:
        """Learn which nodes have meanwhile answered earlier rounds: they are idle again."""
        if self.inbox.owing:
            for reply in grid.pull_messages(list(self.inbox.owing)):
                taken = self.inbox.take(reply.metadata.reply_to_message_id)
                if taken is not None and not failed_early(reply):
                    self._delivered(reply, taken[0])

    def _delivered(self, reply: Message, asked: Asked) -> None:
        """A reply too late to be used still tells that the data sent along has arrived."""
        awaits = getattr(self.placement, "awaits", None)
        if awaits is not None and awaits(asked.node, asked.round) and reply.has_content():
            assert self.placement is not None
            self.placement.arrived(asked.node, asked.round)

    def _learn(
        self, usable: list[Reply], server_round: int, asked: int, arrivals: list[float], grid: Grid
    ) -> None:
        """Let parts that learn look at the round that has ended."""
        learn = getattr(self.trigger, "learn", None)
        if learn is not None:
            learn(round_facts(usable, server_round, asked, arrivals))
        learn = getattr(self.schedule, "learn", None)
        if learn is not None:
            moved = {reply.node: reply.update.model - reply.base for reply in usable}
            learn(self._view(server_round, grid, None), moved)
        learn = getattr(self.selection, "learn", None)
        if learn is not None:
            accepted = {reply.node: self.watch.of(reply.node) for reply in usable}
            learn(self._view(server_round, grid, None), accepted)

    # ---- Flower's Strategy --------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Instructions for the nodes that the selection picks."""
        view = self.watch.view(server_round, grid, self.inbox.busy(), 0, arrays)
        self._agenda = self.schedule.plan(view)
        self._grid = grid
        if not self._prepare(server_round, arrays, grid):
            return []
        return self._instructions(self._view(server_round, grid, arrays), arrays, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message], grid: Grid | None = None
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model from whatever can be used of the replies; None if nothing can.

        Raises:
            RuntimeError: if called before ``configure_train``.
        """
        if self._sent is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        usable = self._read(list(replies), server_round, grid, {})
        new = self._step(usable, server_round, grid or self._grid)
        return new, None if new is None else mean_loss(usable)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Nobody: fedhive evaluates on the server's test set."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Flower logs a summary here; fedhive's is in the run directory."""

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Flower's way to run a strategy; rounds end as the trigger says, not by ``timeout``."""
        result = Result()
        result.arrays = initial_arrays
        for server_round in range(1, num_rounds + 1):
            config = ConfigRecord(dict(train_config or {}))
            result.arrays = self.train_round(server_round, result.arrays, config, grid)
            metrics = evaluate_fn(server_round, result.arrays) if evaluate_fn else None
            if metrics is not None:
                result.evaluate_metrics_serverapp[server_round] = metrics
        return result

    # ---- checkpoints --------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Vector]]:
        """(plain data, vectors by name): all that a later `restore` needs."""
        owing, bases = self.inbox.state(self._keeps)
        vectors = {
            f"{part}.{name}": vector
            for part, state in (self._vectors or {}).items()
            for name, vector in state.items()
        }
        vectors |= {f"inbox.{name}": vector for name, vector in bases.items()}
        plain = {
            "owing": owing,
            "watch": self.watch.state(),
            "started": self._vectors is not None,
            "register": self.register.state(),
            "parts": {name: part.state() for name, part in self._remembering()},
        }
        return plain, vectors

    def restore(self, plain: Mapping[str, Any], vectors: Mapping[str, Vector]) -> None:
        """Take up a state given by `state`."""
        self.watch.restore(plain["watch"])
        if "register" in plain:  # absent from checkpoints of earlier versions
            self.register.restore(plain["register"])
        for name, part in self._remembering():
            part.restore(plain["parts"][name])
        parts: dict[str, dict[str, Vector]] = {"combine": {}, "server_opt": {}, "inbox": {}}
        for key, vector in vectors.items():
            part_name, _, name = key.partition(".")
            parts[part_name][name] = vector
        self.inbox.restore(plain["owing"], parts.pop("inbox"))
        if plain["started"]:
            self._vectors = parts

    def _remembering(self) -> list[tuple[str, Any]]:
        """The parts with a memory of their own."""
        parts = {
            "selection": self.selection, "trigger": self.trigger, "placement": self.placement,
            "local_work": self.local_work, "schedule": self.schedule, "combine": self.combine,
            "protection": self.protection,
        }  # fmt: skip
        return [(name, part) for name, part in parts.items() if hasattr(part, "restore")]

    # ---- inside -------------------------------------------------------------------------------

    def _view(
        self, server_round: int, grid: Grid, arrays: ArrayRecord | None,
        also_busy: Iterable[int] = (), wave: int = 0,
    ) -> View:  # fmt: skip
        busy = self.inbox.busy().union(also_busy, self.register.outcasts(server_round))
        view = self._named(self.watch.view(server_round, grid, busy, wave, arrays), grid)
        view = self._allowed(view)
        ask = getattr(self.selection, "probe", None)
        if ask is None or arrays is None or wave:
            return view
        samples = getattr(self.selection, "probe_samples", None)
        losses = probe_losses(ask(view), arrays, grid, server_round, samples)
        view = self.watch.view(server_round, grid, busy, wave, arrays, losses)
        return self._allowed(self._named(view, grid))

    def _named(self, view: View, grid: Grid) -> View:
        """The view with what is known of the identities behind nodes."""
        if getattr(self.selection, "by_identity", False):
            self.register.meet(list(view.idle), grid)
        return replace(view, identity=lambda node: self.register.identity(node, view.round))

    def _allowed(self, view: View) -> View:
        """The view with only those idle whom the schedule lets work."""
        if self._agenda.nodes is None:
            return view
        return replace(view, idle=tuple(n for n in view.idle if self._agenda.allows(n)))

    def _memory(self, current: Vector) -> dict[str, dict[str, Vector]]:
        if self._vectors is None:
            self._vectors = {
                "combine": self.combine.init(current),
                "server_opt": self.server_opt.init(current),
            }
        return self._vectors

    def _instructions(
        self, view: View, arrays: ArrayRecord, config: ConfigRecord
    ) -> list[Message]:
        choices = self.selection.select(view)
        self._choices = {choice.node: choice for choice in choices}
        arrays = in_memory(arrays)
        layout = layout_of(arrays)
        current = flatten_record(arrays, layout)
        self._sent = current, layout
        memory = self._memory(current)["combine"]
        extra = {
            name: from_flat(memory[name], [(name, (current.size,))])
            for name in self.combine.broadcasts
        }
        moves = self.placement.settings(view, list(self._choices)) if self.placement else {}
        if self.protection is not None:
            request = self._request(view.round, current, layout, view)
            config = ConfigRecord({**config, **self.protection.settings(request)})
        return [
            self._instruction(node, view, arrays, {**config, **moves.get(node, {})}, extra)
            for node in self._choices
        ]

    def _instruction(
        self,
        node: int,
        view: View,
        arrays: ArrayRecord,
        config: Mapping[str, Any],
        extra: Mapping[str, ArrayRecord],
    ) -> Message:
        work = self._agenda.settings.get(node) or self.local_work.settings(view, node)
        settings = {**config, **work, "server-round": view.round}
        if self.protection is not None:
            settings["node-id"] = node  # a machine may be known here by another id than its own
            if self._choices[node].weight != 1.0:
                settings["selection-weight"] = self._choices[node].weight
        own = self._personal(node)
        if own is not None and self._sent is not None:
            arrays = from_flat(own, self._sent[1], shared=True)
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(settings)})
        for name, record in extra.items():
            content[name] = record
        past = self.watch.of(node)
        past.selected += 1
        past.last_selected = view.round
        return Message(content, node, "train", group_id=str(view.round))

    def _prepare(self, server_round: int, arrays: ArrayRecord, grid: Grid) -> bool:
        """Let the protection settle what it must before anybody is asked."""
        if self.protection is None:
            return True
        arrays = in_memory(arrays)
        layout = layout_of(arrays)
        view = self.watch.view(server_round, grid, self.inbox.busy(), 0, arrays)
        self._choices = {}
        request = self._request(server_round, flatten_record(arrays, layout), layout, view)
        return self.protection.prepare(request, grid)

    def _request(self, server_round: int, current: Vector, layout: Layout, view: View) -> Request:
        chosen = self._choices
        return Request(
            server_round, current, layout, {n: c.probability for n, c in chosen.items()},
            self.watch.known, view.idle, {n: c.weight for n, c in chosen.items()},
        )  # fmt: skip

    def _personal(self, node: int) -> Vector | None:
        """The model that this node is sent in place of the global one, if it has its own."""
        model_for = getattr(self.combine, "model_for", None)
        if model_for is None or self._vectors is None:
            return None
        model: Vector | None = model_for(node, self._vectors["combine"])
        return model

    def _read(
        self, replies: list[Message], server_round: int, grid: Grid | None,
        came_s: Mapping[str, float],
    ) -> list[Reply]:  # fmt: skip
        """The usable replies, by node; verdicts on all."""
        assert self._sent is not None

        def stranger(node: int) -> Asked:
            choice = self._choices.get(node, Choice(node))
            return Asked(node, server_round, 0.0, choice.weight, choice.probability)

        usable = self.reader.read(replies, server_round, self._sent, stranger, grid, came_s)
        if self.placement is not None:
            for reply in usable:
                self.placement.arrived(reply.node, reply.asked.round)
        return usable

    def _screened(self, usable: list[Reply], server_round: int, grid: Grid | None) -> list[Reply]:
        """The replies that the protection can use; the verdict on others is taken back."""
        if self.protection is None or not usable:
            return usable
        opened = {reply.node: reply.opened for reply in usable}
        bad = self.protection.screen(opened, server_round, grid)
        for reply in usable:
            if reply.node in bad:
                verdicts.revise(grid, reply.key, "rejected", bad[reply.node])
        return [reply for reply in usable if reply.node not in bad]

    def _step(
        self, usable: list[Reply], server_round: int, grid: Grid | None
    ) -> ArrayRecord | None:
        """The model after this round; None if there is nothing to make one of."""
        usable = self._screened(usable, server_round, grid)
        if not usable and not getattr(self.protection, "moves_alone", False):
            return None
        assert self._sent is not None
        current, layout = self._sent
        memory = self._memory(current)
        cohort = cohort_of(
            usable, current, server_round, self.combine.expects, self.watch.known, self.register
        )
        target, combine_state = current, memory["combine"]
        if usable:
            target, combine_state = self.combine.combine(cohort, combine_state)
        if self.protection is not None:
            opened = [reply.opened for reply in usable]
            step = Step(cohort, target, opened, self.combine, memory["combine"], grid)
            release = self.protection.reveal(step)
            self.reader.leave_out(usable, release, grid)
            if release.model is None:
                return None
            target = release.model
        model, opt_state = self.server_opt.step(
            current, target, memory["server_opt"], server_round
        )
        if not np.isfinite(model).all():
            return None
        self._vectors = {"combine": combine_state, "server_opt": opt_state}
        return from_flat(model, layout, shared=True)
