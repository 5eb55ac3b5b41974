"""Why something sealed was refused; each reason has its own name.

A server contains them: the reply is dropped, the reason goes into the run's events, the run goes
on. Messages never hold key material or values.
"""

from __future__ import annotations


class SealError(ValueError):
    """Something sealed that was refused."""

    @property
    def name(self) -> str:
        """The reason in a word, e.g. ``"WrongRound"``."""
        return type(self).__name__


class Truncated(SealError):
    """Fewer bytes than the header announces or than a header has."""


class Oversized(SealError):
    """More bytes than the header announces, or more than these parameters can need."""


class NotSealed(SealError):
    """Does not begin as something sealed does."""


class WrongVersion(SealError):
    """Another version of the format."""


class WrongCipher(SealError):
    """Made by another cipher."""


class WrongParameters(SealError):
    """Made with other parameters of the same cipher (lattice, clip, bits or capacity)."""


class WrongRun(SealError):
    """Made for another run."""


class WrongRound(SealError):
    """Made for another round."""


class WrongMask(SealError):
    """Made under another mask."""


class WrongSender(SealError):
    """Made by another node than the one that sent it."""


class WrongCount(SealError):
    """Holds another number of values."""


class ForeignKey(SealError):
    """Made with keys that do not belong to this run."""


class Tampered(SealError):
    """The authentication tag does not fit: changed on its way, or made without the keys."""


class Malformed(SealError):
    """Authentic, but its content breaks the cipher's rules."""


class Replayed(SealError):
    """The same sender or the same nonce twice."""


class TooManyClients(SealError):
    """More summands than the parameters can hold exactly."""


class NotFinite(SealError):
    """NaN or infinity among the values to encrypt."""


class KeyReused(SealError):
    """A key that seals one upload only was asked for another."""


class Overflowed(SealError):
    """A decrypted sum outside the range that honest summands can reach."""


class TooFewClients(SealError):
    """A sum over fewer clients than the holders of the key agree to open."""


class OverlappingBuckets(SealError):
    """One client in two sums of the same round: their difference would lay others bare."""


class AlreadyAnswered(SealError):
    """A second question in one round; two answers would lay single clients bare."""


class TooFewAnswers(SealError):
    """Fewer members of the committee answered than its threshold."""


class RosterChanged(SealError):
    """Another committee than the one that was pinned."""


class BadShare(SealError):
    """A share that cannot be opened or does not fit."""
