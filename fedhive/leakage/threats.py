"""Threat models of the literature as what an adversary knows, on top of what it sees.

Letters are those of Carletti, Foggia, Mazzocca, Parrella and Vento, "SoK: Gradient Inversion
Attacks in Federated Learning" (USENIX Security 2025). Their B adds only that images are smooth
and bounded, which is a prior of the attack and no knowledge about the subject; their E adds
batch-norm statistics, which no model here has; their H adds sybils, which is a world with
``attack`` of its own. A preset keeps of a view's knowledge only what its adversary has; it never
adds any.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedhive.leakage.view import Knowledge, Role, View


@dataclass(frozen=True)
class Threat:
    """One adversary.

    Args:
        roles: where it may sit.
        keeps: fields of `Knowledge` that it has; those not named are unknown to it.
        meaning: one line for reports.
    """

    roles: frozenset[Role]
    keeps: frozenset[str]
    meaning: str


ANYWHERE: frozenset[Role] = frozenset({"server", "client", "eavesdropper", "device"})
SERVER: frozenset[Role] = frozenset({"server"})
RECIPE = frozenset({"examples", "lr", "steps", "batch_size"})
THREATS: dict[str, Threat] = {
    "A": Threat(ANYWHERE, frozenset({"examples"}), "sees updates and how many examples they tell"),
    "C": Threat(ANYWHERE, RECIPE, "and knows rate, steps and batch size of local training"),
    "D": Threat(ANYWHERE, RECIPE | {"public_data"}, "and has data of the same kind"),
    "F": Threat(SERVER, RECIPE | {"may_edit_model"}, "a server that edits the model it sends"),
    "G": Threat(SERVER, RECIPE | {"may_edit_model", "public_data"}, "the same with public data"),
    "curious_server": Threat(SERVER, RECIPE, "C at the server: follows the protocol and looks"),
    "curious_client": Threat(
        frozenset({"client"}), RECIPE, "C at a client: sees consecutive global models"
    ),
    "device_system": Threat(
        frozenset({"device"}),
        RECIPE | {"labels"},
        "the system under training: all but shields",
    ),
    "labels_told": Threat(
        ANYWHERE, RECIPE | {"labels"}, "C told the classes: an upper bound used in papers"
    ),
    "strongest": Threat(
        SERVER, RECIPE | {"labels", "may_edit_model", "public_data"}, "all of it at once"
    ),
}
"""By name; ``docs/threat-model.md`` explains them."""


def as_seen_by(view: View, threat: str) -> View:
    """The view with no more knowledge than a threat model of `THREATS` allows.

    Raises:
        ValueError: for an unknown name, or one that cannot sit where the view was taken.
    """
    if threat not in THREATS:
        raise ValueError(f"unknown threat model {threat!r}; known: {', '.join(THREATS)}")
    chosen = THREATS[threat]
    if view.role not in chosen.roles:
        raise ValueError(f"threat model {threat} does not sit at a {view.role}")
    unknown = [name for name in vars(Knowledge()) if name not in chosen.keeps]
    return view.restrict(knows=view.knows.without(*unknown))
