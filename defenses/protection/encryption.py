"""Selective encryption as a part of a method (``protection=encryption``).

Four choices make it: mask, cipher, keys, path. In every round a client trains as always. What the
mask hides is scaled by the client's weight, turned into integers and encrypted; the rest stays in
the clear. The server combines what it sees, and has sums of the rest opened by whoever holds the
keys.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from defenses.encryption import masks
from defenses.encryption.agreement import Sensitive
from defenses.encryption.base import Cipher, Keys
from defenses.encryption.base import Context as SealContext
from defenses.encryption.errors import SealError
from defenses.encryption.masks import Bools, Mask
from defenses.protection import combinations, opening, report, sealing
from defenses.protection.base import Mod, Protection, Release, Request, SentModel, Setting, Step
from defenses.protection.opening import FILLED, QUERY, Meter, Opened, Sums
from defenses.protection.paths import Path
from defenses.protection.sealing import RECORD, Seal, Tools
from defenses.rows import TooFewRowsError
from fedhive import config
from fedhive.client import task_of
from fedhive.flower import Layout, Malformed, flatten_record, from_flat, records_of

if TYPE_CHECKING:
    from fedhive.leakage.view import View

LOG = logging.getLogger(__name__)
COMMITTEE = "committee"
"""Record of a key holder's memory: the rounds that it has answered."""
PATIENCE_S = 600.0


class Encryption(Protection):
    """Some coordinates of every update are encrypted; only sums of them are ever opened.

    Args:
        mask: which coordinates.
        cipher: how.
        keys: who can open sums.
        path: which sums are opened.
        unit: an update of so many training examples is encrypted with weight 1 (where updates are
            weighted by examples); larger ones meet the cipher's clip earlier.

    Raises:
        ValueError: for a unit that is not above 0.
    """

    def __init__(
        self, mask: Mask, cipher: Cipher, keys: Keys, path: Path, unit: float = 100.0
    ) -> None:
        if not unit > 0.0:
            raise ValueError(f"unit must be above 0 examples, got {unit}")
        self.path = path
        self.tools = Tools(mask, cipher, keys, unit)
        self.meter = Meter()
        self.run = os.urandom(16)
        self.weighting = "examples"
        self._agreed: tuple[Bools, bytes, bytes] | None = None
        self._layout: Layout = []

    # ---- before the run -----------------------------------------------------------------------

    def check(self, cfg: Mapping[str, Any]) -> None:
        """Refuse what cannot work, see `defenses.protection.combinations`."""
        self.weighting = combinations.check(self.tools, self.path, cfg)
        if self.tools.keys.insecure_simulation:  # the same bits in every run of the same text
            text = config.dumps(cfg)
            self.run = hashlib.sha256(b"fedhive run" + text.encode()).digest()[:16]

    # ---- client -------------------------------------------------------------------------------

    def mods(self, node_number: int) -> Sequence[Mod]:
        """The one that seals."""
        return (Seal(self.tools),)

    def sealed_bytes(self, node_number: int, layout: Layout) -> int:
        """As much as sealing zeros takes; of a mask from data, by the share that was asked for."""
        mask, size = self.tools.mask, masks.size_of(layout)
        if isinstance(mask, Sensitive):
            return self.tools.sealed_size(masks.count_of(mask.share, size))
        return self.tools.sealed_size(int(self.tools.own_mask(layout)[0].sum()))

    def answer(self, message: Message, context: Context) -> Message:
        """A holder's answer to a question about sums, or a voter's encrypted map.

        Raises:
            SealError: whatever the holder refuses; Flower makes an error reply of it.
            ValueError: for a question about anything else.
        """
        settings = task_of(message)
        if settings.get("about") == "map":
            return sealing.sealed_vote(self.tools, message, context)
        question = settings.get("question")
        if settings.get("about") != "share" or not isinstance(question, bytes):
            raise ValueError("the question is about nothing that a client answers")
        held = context.state.get(COMMITTEE)
        state = held.get("state") if isinstance(held, ConfigRecord) else None
        member = self.tools.keys.member(
            sealing.known_as(settings, context),
            self.tools.cipher,
            state[1:] if isinstance(state, bytes) else None,
        )
        try:
            answer = member.answer(question)
        finally:  # a round that was begun to be answered stays answered
            context.state[COMMITTEE] = ConfigRecord({"state": FILLED + member.state()})
        record = ConfigRecord({"answer": FILLED + answer})
        return Message(RecordDict({"config": record}), reply_to=message)

    # ---- server -------------------------------------------------------------------------------

    def mask_of(self, layout: Layout) -> tuple[Bools, bytes]:
        """The mask on a model, and its digest.

        Raises:
            RuntimeError: if it is to be agreed upon and has not been.
        """
        if not self.tools.mask.from_data:
            return self.tools.own_mask(layout)
        if self._agreed is None:
            raise RuntimeError("the mask has not been agreed upon yet")
        return self._agreed[0], self._agreed[1]

    def prepare(self, request: Request, grid: Grid | None) -> bool:
        """Have the clients agree on a mask from data, once."""
        self._layout = [(name, tuple(shape)) for name, shape in request.layout]
        if self._agreed is not None or not isinstance(self.tools.mask, Sensitive):
            return True
        hidden = self._voted(self.tools.mask, request, grid)
        if hidden is None:
            return False
        self._agreed = hidden, masks.digest_of(hidden, self._layout), masks.packed(hidden)
        return True

    def settings(self, request: Request) -> Mapping[str, Setting]:
        """Run, mask, parameters and keys by digest; a mask from data with its bits."""
        _, digest = self.mask_of(request.layout)
        found: dict[str, Setting] = {
            sealing.RUN: self.run, sealing.MASK: digest, sealing.WEIGHTING: self.weighting,
            **self._named(),
        }  # fmt: skip
        if self._agreed is not None:
            found[sealing.BITS] = self._agreed[2]
        return found

    def open(self, content: RecordDict, sent: SentModel) -> tuple[RecordDict, Any]:
        """See `defenses.protection.base.Protection.open`; hidden coordinates must be untouched."""
        hidden, digest = self.mask_of(sent.layout)
        count = int(hidden.sum())
        if not count:
            return content, None
        sealed_for = SealContext(self.run, sent.round, digest, sent.node, count)
        rest, opened = opening.parse_reply(self.tools, content, sealed_for, self.meter)
        record = rest.get("arrays")
        if isinstance(record, ArrayRecord):
            model = flatten_record(record, sent.layout)
            if not np.array_equal(model[hidden], sent.base[hidden]):
                self.meter.refuse("HiddenInTheClear")
                raise Malformed("a hidden coordinate is not the value that was sent")
        self._book(opened, count)
        return rest, opened

    def disbelieved(self, claimed: int, counted: int) -> str:
        """A sealed part is scaled by what its client claims: it cannot be counted as less."""
        if self.weighting != "examples" or claimed == counted:
            return ""
        return f"its sealed part is scaled by {claimed} examples, of which {counted} are believed"

    def screen(
        self, opened: Mapping[int, Any], server_round: int, grid: Grid | None
    ) -> dict[int, str]:
        """Whose key shares the holders cannot use: their sums could not be opened."""
        found = [part.ciphertext for part in opened.values() if isinstance(part, Opened)]
        if not found:
            return {}
        ask = opening.asker(self.tools.keys, grid, server_round, self.meter)
        bad = self.meter.timed(
            "open", lambda: self.tools.keys.screen(self.tools.cipher, found, ask)
        )
        for name in bad.values():
            self.meter.refuse(name)
        return {node: f"sealed part: {name}" for node, name in bad.items()}

    def reveal(self, step: Step) -> Release:
        """The proposed model with the opened sums in its hidden coordinates."""
        hidden, _ = self.mask_of(self._layout)
        if not hidden.any():
            return Release(step.proposed)
        cohort = step.cohort
        samples = [float(s or 0) for s in cohort.samples or [0] * len(cohort.nodes)]
        factors = [
            self.tools.factor(self.weighting, n, s, w)
            for n, s, w in zip(cohort.examples, samples, cohort.weights, strict=True)
        ]
        sums = Sums(self.tools, step.opened, factors, step.grid, self.meter)
        try:
            moved = self.path.hidden(step, sums)
        except (SealError, TooFewRowsError) as error:
            reason = f"{type(error).__name__}: {error}"
            self.meter.lost[str(cohort.round)] = reason
            LOG.warning("round %d: no sum was opened (%s); same model", cohort.round, reason)
            return Release(None, f"no sum was opened: {reason}")
        model = step.proposed.copy()
        model[hidden] = cohort.current[hidden] + moved.astype(np.float32)
        return Release(model)

    def facts(self) -> dict[str, Any]:
        """What it cost, what is hidden in each layer, and who can see what."""
        if not self._layout:
            return {}
        hidden = self._agreed[0] if self._agreed is not None else None
        if hidden is None and not self.tools.mask.from_data:
            hidden = self.tools.own_mask(self._layout)[0]
        return report.facts(self.tools, self.path, hidden, self._layout, self.meter)

    def summary(self) -> dict[str, Any]:
        """Shares, bytes and lost rounds."""
        return report.summary(self.facts())

    def state(self) -> dict[str, Any]:
        """Run, agreed mask and costs so far."""
        bits = None if self._agreed is None else self._agreed[2].hex()
        return {
            "run": self.run.hex(), "bits": bits, "meter": asdict(self.meter),
            "layout": [[name, list(shape)] for name, shape in self._layout],
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state given by `state`."""
        self.run = bytes.fromhex(state["run"])
        self.meter = Meter(**state["meter"])
        self._layout = [(name, tuple(shape)) for name, shape in state["layout"]]
        if state["bits"] is not None:
            bits = bytes.fromhex(state["bits"])
            hidden = masks.unpacked(bits, masks.size_of(self._layout))
            self._agreed = hidden, masks.digest_of(hidden, self._layout), bits

    # ---- what is left to see ------------------------------------------------------------------

    def view(self, view: View) -> View:
        """Single clients' hidden coordinates vanish, except for who holds the key."""
        if len(view.subjects) > 1 or not self.tools.cipher.secret or view.role == "device":
            return view
        if view.role == "client" and self.tools.keys.name == "shared":
            return view  # every client has the key: what it gets to see of the wire, it can open
        return view.restrict(visible=~self.mask_of(view.layout)[0])

    # ---- inside -------------------------------------------------------------------------------

    def _named(self) -> dict[str, Setting]:
        return {
            sealing.PARAMS: self.tools.cipher.params_id, sealing.KEY: self.tools.keys.key_id,
        }  # fmt: skip

    def _book(self, opened: Opened, count: int) -> None:
        meter = self.meter
        meter.uploads += 1
        meter.sealed_bytes += opened.size
        meter.clear_bytes += 4 * count
        meter.saturated += opened.saturated
        meter.seconds["seal"] += opened.seconds

    def _voted(self, mask: Sensitive, request: Request, grid: Grid | None) -> Bools | None:
        """The mask that the clients' encrypted maps give; None if too few came."""
        run = hashlib.sha256(b"mask" + self.run).digest()[:16]
        size = masks.size_of(self._layout)
        digest = masks.digest_of(np.ones(size, np.bool_), self._layout)
        settings: dict[str, Any] = {
            "server-round": request.round, "about": "map", sealing.RUN: run, **self._named(),
        }  # fmt: skip
        asked = list(request.idle)[: mask.voters]
        if grid is None or len(asked) < mask.least_voters:
            return None
        arrays = from_flat(request.current, self._layout, shared=True)
        messages = []
        for node in asked:
            own = ConfigRecord({**settings, "node-id": node})
            content = RecordDict({"arrays": arrays, "config": own})
            messages.append(Message(content, node, QUERY, group_id="mask"))
        ciphertexts = []
        for reply in grid.send_and_receive(messages, timeout=PATIENCE_S):
            node = reply.metadata.src_node_id
            if reply.has_error() or RECORD not in records_of(reply.content, ArrayRecord):
                continue
            sealed_for = SealContext(run, request.round, digest, node, size)
            try:
                data = opening.sealed_bytes(self.tools, reply.content)
                ciphertexts.append(self.tools.cipher.parse(data, sealed_for, self.tools.keys))
            except (SealError, Malformed) as error:
                self.meter.refuse(type(error).__name__)
        if len(ciphertexts) < mask.least_voters:
            LOG.warning("round %d: %d maps, too few for a mask", request.round, len(ciphertexts))
            return None
        sums = Sums(self.tools, [Opened(c, 0, 0, 0.0) for c in ciphertexts],
                    [1.0] * len(ciphertexts), grid, self.meter)  # fmt: skip
        try:
            [total] = sums.means([range(len(ciphertexts))])
        except SealError as error:
            LOG.warning("round %d: no sum of maps was opened (%s)", request.round, error)
            return None
        return mask.agreed(np.rint(total / self.tools.cipher.fixed.step * len(ciphertexts)),
                           self._layout)  # fmt: skip
