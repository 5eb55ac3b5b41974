"""Which ciphertexts may be added; the same for every cipher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from defenses.encryption import errors
from defenses.encryption.base import Ciphertext, Upload


def summands(ciphertexts: Sequence[Ciphertext], capacity: int) -> tuple[Upload, ...]:
    """The uploads of a sum, ascending by sender.

    Raises:
        TooFewClients: for no ciphertext.
        TooManyClients: beyond the capacity.
        WrongRun, WrongRound, WrongMask, WrongCount: for summands of different contexts.
        Replayed: for a sender or a nonce that appears twice.
    """
    if not ciphertexts:
        raise errors.TooFewClients("there is nothing to add")
    first = ciphertexts[0].context
    for context in (ciphertext.context for ciphertext in ciphertexts):
        for name, error in (
            ("run", errors.WrongRun), ("round", errors.WrongRound),
            ("mask", errors.WrongMask), ("count", errors.WrongCount),
        ):  # fmt: skip
            if getattr(context, name) != getattr(first, name):
                raise error(f"the summands were made for different contexts ({name})")
    uploads = sorted((u for c in ciphertexts for u in c.uploads), key=lambda u: u.sender)
    if len(uploads) > capacity:
        raise errors.TooManyClients(
            f"{len(uploads)} clients cannot be summed exactly; the capacity is {capacity}"
        )
    senders, nonces = {u.sender for u in uploads}, {u.nonce for u in uploads}
    if len(senders) < len(uploads) or len(nonces) < len(uploads):
        raise errors.Replayed("a client's upload appears twice in a sum")
    return tuple(uploads)


def total(
    ciphertexts: Sequence[Ciphertext], uploads: tuple[Upload, ...], body: object
) -> Ciphertext:
    """The sum's ciphertext, from its body."""
    context = replace(ciphertexts[0].context, sender=uploads[0].sender)
    return Ciphertext(context, uploads, body)
