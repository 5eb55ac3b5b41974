"""Against one adversary with many identities: weights in [0, 1] for each identity.

No rule that looks at updates alone can tell many identities of one adversary from many clients:
alike updates may be honest clients with alike data, and identities can be made to differ at no
cost. Similarity (`foolsgold`, `hardened_foolsgold`, `near_duplicates`) finds careless Sybils.
Only attributes that cost something (`group_caps`, `tree_shares`, see `defenses.identities`) bound
what an adversary gains from another identity; a rule on `merged` groups then deals with the one
client that is left of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

__all__ = [
    "cosines",
    "foolsgold",
    "group_caps",
    "hardened_foolsgold",
    "joined",
    "merged",
    "near_duplicates",
    "tree_shares",
]

CHUNK = 65_536  # columns widened to float64 at a time
SAME = 1e-9  # cosine distance at which two histories are one; float32 rounding is below it


def cosines(rows: Tensor) -> Tensor:
    """Cosines between rows, float64 [n, n]; 0 to a row of zeros, exactly 0 to oneself.

    Args:
        rows: float [n, d].

    Raises:
        ValueError: if ``rows`` is no matrix with a row, or not finite.
    """
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"need histories [n, d] with n >= 1, got shape {tuple(rows.shape)}")
    products = torch.zeros((len(rows), len(rows)), dtype=torch.float64)
    for start in range(0, rows.shape[1], CHUNK):
        part = rows[:, start : start + CHUNK].double()
        products += part @ part.T
    if not products.isfinite().all():
        raise ValueError("histories must be finite")
    lengths = products.diagonal().sqrt()
    lengths = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return (products / lengths[:, None] / lengths[None, :]).clamp(-1.0, 1.0).fill_diagonal_(0.0)


def foolsgold(history: Tensor, *, kappa: float = 1.0) -> Tensor:
    """FoolsGold as published: the more alike an identity's history is to another's, the less.

    Maximum cosine to others, pardoning of the less alike of each pair, rescaling so that the
    largest weight is 1, logit. With IID clients and one attacker it gives the honest a weight of 0
    and the attacker 1: see `hardened_foolsgold`.

    Args:
        history: float [n, d], the sum of each identity's updates so far.
        kappa: steepness of the logit.

    Returns:
        float64 [n]. Where all histories point the same way the published formula divides zero by
        zero; all weights are 0 then.

    Raises:
        ValueError: if ``history`` is no matrix with a row, or not finite.

    References:
        Fung, Yoon, Beschastnikh: The limitations of federated learning in Sybil settings, RAID
        2020, algorithm 1; the logit's 0.99 is from the authors' code.
    """
    similar = cosines(history)
    weights = (1.0 - _pardoned(similar).amax(1)).clamp(0.0, 1.0)
    top = weights.max()
    if not top > SAME:  # nothing but rounding is left to rescale
        return torch.zeros_like(weights)
    weights = (weights / top).clamp(max=0.99)
    logit = kappa * ((weights / (1.0 - weights)).log() + 0.5)
    return logit.clamp(0.0, 1.0)


def _pardoned(similar: Tensor) -> Tensor:
    """Similarities [n, n], those to less honest-looking identities reduced."""
    most = similar.amax(1)
    reduced = most[:, None] < most[None, :]
    factor = torch.where(reduced, most[:, None] / most[None, :], torch.ones_like(similar))
    return similar * factor


def hardened_foolsgold(history: Tensor, *, kappa: float = 1.0) -> Tensor:
    """FoolsGold that punishes only similarity beyond what is usual, and never down to nothing.

    Three changes. (1) Equal histories count as one identity, and the usual nearest cosine b is the
    median over those that are left; a cosine c counts as ``(c - b) / (1 - b)``, at least 0. (2)
    Weights are not rescaled, so that an identity unlike all others makes nobody look bad. (3) The
    weight of an identity is at least one over the number of those that it is alike, itself
    included: honest clients with equal data share one voice instead of losing it.

    Honest clients with IID data keep their weight, whether there is no attacker or one; clones and
    identities that differ by less than honest ones do share one voice, as long as fewer distinct
    identities than honest ones are malicious. Identities that differ more are not found
    (`attacks.sybil.zero_sum`): no similarity finds them.

    Args:
        history: float [n, d], the sum of each identity's updates so far.
        kappa: steepness of the logit.

    Returns:
        float64 [n].

    Raises:
        ValueError: if ``history`` is no matrix with a row, or not finite.
    """
    similar = cosines(history)
    n = len(similar)
    same = _components(similar >= 1.0 - SAME)
    one_each = [same.index(label) for label in sorted(set(same))]
    excess = (similar >= 1.0 - SAME).double()
    if len(one_each) > 2:  # two identities say nothing about what is usual
        usual = float(similar[one_each][:, one_each].amax(1).median())
        excess = excess.maximum((similar - usual) / max(1.0 - usual, SAME)).clamp(0.0, 1.0)
        excess.fill_diagonal_(0.0)
    distrust = _pardoned(excess).amax(1) if n > 1 else torch.zeros(1, dtype=torch.float64)
    trust = (1.0 - distrust).clamp(0.0, 0.99)
    logit = (kappa * ((trust / (1.0 - trust)).log() + 0.5)).clamp(0.0, 1.0)
    alike = 1.0 + (excess > 0.5).sum(1)
    return logit.maximum(1.0 / alike)


def near_duplicates(updates: Tensor, *, tolerance: float = 0.1) -> list[int]:
    """Groups of updates much closer to each other than updates usually are.

    Two are joined if their distance is at most ``tolerance`` times the median, over updates, of
    the distance to the nearest that is not equal; joining is transitive.

    Args:
        updates: float [n, d].
        tolerance: as above; 0 joins only equal updates.

    Returns:
        A group number for each update, in order of appearance from 0.

    Raises:
        ValueError: if ``updates`` is no matrix with a row, or not finite.
    """
    similar = cosines(updates)  # checks the input
    lengths = updates.double().norm(dim=1)
    squares = lengths[:, None] ** 2 + lengths[None, :] ** 2
    squares = squares - 2.0 * similar * lengths[:, None] * lengths[None, :]
    distances = squares.clamp_min(0.0).sqrt().fill_diagonal_(0.0)
    # Products of equal rows may differ by some 1e-14 of them: no shorter distance can be seen.
    least = 1e-6 * torch.maximum(lengths[:, None], lengths[None, :])
    others = torch.where(distances > least, distances, torch.inf)
    nearest = others.amin(1)
    nearest = nearest[nearest.isfinite()]
    usual = float(nearest.median()) if len(nearest) > 2 else 0.0
    return _components(distances <= least.maximum(torch.tensor(tolerance * usual)))


def _components(joined: Tensor) -> list[int]:
    """Connected components of a symmetric relation [n, n], numbered in order of appearance."""
    labels = [-1] * len(joined)
    count = 0
    for i in range(len(joined)):
        if labels[i] >= 0:
            continue
        front = [i]
        labels[i] = count
        while front:
            for j in joined[front.pop()].nonzero().flatten().tolist():
                if labels[j] < 0:
                    labels[j] = count
                    front.append(j)
        count += 1
    return labels


def joined(labelled: Sequence[Sequence[Hashable]], n: int) -> list[int]:
    """Groups of identities that share any of several attributes, directly or through others.

    Args:
        labelled: for each attribute its n values; None is shared by nobody.
        n: number of identities.

    Returns:
        A group number for each identity, in order of appearance from 0.

    Raises:
        ValueError: if an attribute has not n values.
    """
    same = torch.eye(n, dtype=torch.bool)
    for values in labelled:
        if len(values) != n:
            raise ValueError(f"{len(values)} values of an attribute for {n} identities")
        members: dict[Hashable, list[int]] = {}
        for i, value in enumerate(values):
            if value is not None:
                members.setdefault(value, []).append(i)
        for group in members.values():  # a star joins as well as all pairs do
            same[group[0], group] = True
            same[group, group[0]] = True
    return _components(same)


def group_caps(
    groups: Sequence[Hashable], *, cap: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """All identities of a group together weigh no more than ``cap``.

    Args:
        groups: for each identity what it cannot multiply: owner, address prefix, device, ...;
            None for an identity in no group, which is then a group of its own.
        cap: the most that a group may weigh; one identity of weight 1 weighs 1.
        weights: float [n] in [0, 1], what identities weigh so far; 1 each if None.

    Returns:
        float64 [n].

    Raises:
        ValueError: if ``cap`` is not above 0, or weights and groups differ in number.
    """
    if not cap > 0.0:
        raise ValueError(f"cap must be above 0, got {cap}")
    given = torch.ones(len(groups), dtype=torch.float64) if weights is None else weights.double()
    if len(given) != len(groups):
        raise ValueError(f"{len(given)} weights for {len(groups)} identities")
    capped = given.clone()
    for group in {group for group in groups if group is not None}:
        members = torch.tensor([other == group for other in groups])
        total = float(given[members].sum())
        if total > cap:
            capped[members] = given[members] * (cap / total)
    return capped


def tree_shares(paths: Sequence[Sequence[Hashable]]) -> Tensor:
    """Weights shared equally between the branches of a tree, level by level.

    An adversary gets the share of the branches that it owns, whatever the number of identities in
    them: with address prefixes, one /8 is worth at most another /8, and within it one /16 another.

    Args:
        paths: for each identity its branches from the root, such as ("10", "10.1", "10.1.7");
            lengths may differ. Identities with the same path share its end.

    Returns:
        float64 [n], the largest 1.

    References:
        Bouchra Pilet, Frey, Taïani: Foiling Sybils with HAPS, ISCC 2020, sample peers in this
        way from the tree of network addresses.
    """
    shares = torch.zeros(len(paths), dtype=torch.float64)
    _share(list(range(len(paths))), 0, 1.0, paths, shares)
    return shares / shares.max() if len(paths) else shares


def _share(
    members: list[int],
    level: int,
    amount: float,
    paths: Sequence[Sequence[Hashable]],
    shares: Tensor,
) -> None:
    branches: dict[Hashable, list[int]] = {}
    ends = [i for i in members if len(paths[i]) <= level]
    for i in members:
        if len(paths[i]) > level:
            branches.setdefault(paths[i][level], []).append(i)
    parts = len(branches) + bool(ends)
    for i in ends:
        shares[i] = amount / parts / len(ends)
    for branch in branches.values():
        _share(branch, level + 1, amount / parts, paths, shares)


def merged(
    updates: Tensor, groups: Sequence[Hashable], *, weights: Tensor | None = None
) -> Tensor:
    """One row for each group, the weighted mean of its members: what a robust rule then works on.

    The ``f`` that the rule is told is a number of groups, however many identities they have.

    Args:
        updates: float [n, d].
        groups: as for `group_caps`.
        weights: float [n]; equal if None, or where a group's are all 0.

    Returns:
        float [g, d], groups in order of appearance.

    Raises:
        ValueError: if updates, groups and weights differ in number.
    """
    given = torch.ones(len(updates)) if weights is None else weights
    if not len(updates) == len(groups) == len(given):
        raise ValueError(f"{len(updates)} updates, {len(groups)} groups, {len(given)} weights")
    places: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(("alone", i) if group is None else ("group", group), []).append(i)
    rows = []
    for members in places.values():
        shares = given[members].to(updates)
        total = float(shares.sum())
        shares = shares / total if total > 0 else torch.full_like(shares, 1.0 / len(members))
        rows.append(shares @ updates[members])
    return torch.stack(rows) if rows else updates.new_empty((0, updates.shape[1]))
