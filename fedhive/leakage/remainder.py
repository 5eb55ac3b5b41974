"""What a client sees of the others: the global model's move without its own part in it.

A client of share a in a weighted average knows the models w_t and w_(t+1) and its own update u_a:

    w_(t+1) - w_t = rate * (a * u_a + sum_k p_k u_k),
    R_t = ((w_(t+1) - w_t) / rate - a * u_a) / (1 - a),

the others' average, which for equal weights is R = (N (w_(t+1) - w_t) - u_a) / (N - 1). With two
clients it is the other's update, as the server sees it; and where a rule such as Krum hands on one
client's update alone, the broadcast is that client's update for everybody to see.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from fedhive.flower import Layout
from fedhive.leakage.view import Channel, Exchange, Knowledge, Vector, View


def client_view(
    models: Sequence[tuple[int, Vector]],
    own: Mapping[int, Vector],
    layout: Layout,
    others: Mapping[int, float],
    *,
    share: float,
    rate: float = 1.0,
    channel: Channel | None = None,
    knows: Knowledge | None = None,
) -> View:
    """The view of a client that keeps the models it receives.

    Assumptions: the server averages linearly, with weights that the client knows (its own share
    and the others'; they are sent along or can be guessed where all are equal), moves by ``rate``
    times the average without momentum, and the others are the same in each round. Only rounds
    whose next model was received, too, can be seen. Differences of float32 models carry their
    rounding, of relative size 6e-8 of the weights, divided by 1 - share.

    Args:
        models: (round, global model [P]) as received, ascending by round.
        own: this client's update, model returned - model received, by round; a round without one
            is a round in which it did not take part, and the whole move is the others'.
        layout: of the model.
        others: weight in the average of each other node, by id; they add up to 1 - share.
        share: this client's weight, at least 0 and below 1.
        rate: of the server.
        channel: what the sum is known to have come through.
        knows: what else is known of the others.

    Returns:
        A view of role "client" whose subjects are the others, weighted to add up to 1.

    Raises:
        ValueError: weights do not add up, or no two consecutive models were received.
    """
    total = sum(others.values())
    if not 0 <= share < 1 or not others or abs(total + share - 1) > 1e-6 or rate == 0:
        raise ValueError(f"a share of {share} and others' of {total} do not add up to 1")
    exchanges = []
    for (number, before), (following, after) in itertools.pairwise(models):
        if following != number + 1:
            continue
        moved = (after.astype(np.float64) - before) / rate
        if number in own:
            rest = (moved - share * own[number].astype(np.float64)) / (1 - share)
        else:
            rest = moved
        exchanges.append(Exchange(number, before, rest.astype(np.float32)))
    if not exchanges:
        raise ValueError("no two consecutive models were received")
    weights = tuple(weight / total for weight in others.values())
    everything = np.ones(len(models[0][1]), np.bool_)
    return View(
        "client", tuple(others), weights, tuple(exchanges), everything, layout,
        channel or Channel(), knows or Knowledge(),
    )  # fmt: skip


def as_client(
    views: Mapping[int, View], me: int, shares: Mapping[int, float], *, rate: float = 1.0
) -> View:
    """What node ``me`` saw of a run that the server recorded whole, for simulations.

    It sees less than the server: the views of the others enter only through the models sent.

    Args:
        views: the server's, of every node, in the same rounds.
        me: the client that looks.
        shares: weight of each node in the average; they add up to 1.
        rate: of the server.

    Raises:
        ValueError: as `client_view`.
    """
    mine = views[me]
    models = [(each.round, each.sent) for each in mine.exchanges]
    own = {each.round: each.seen for each in mine.exchanges}
    others = {node: share for node, share in shares.items() if node != me}
    # Of the others it knows the public recipe, not how many examples each has.
    recipe = mine.knows.without("labels", "examples", "may_edit_model")
    return client_view(models, own, mine.layout, others, share=shares[me], rate=rate, knows=recipe)
