"""Who may see what of a client's update: encryption, noise, and what they leave in the clear."""

from __future__ import annotations

from defenses.protection.base import Handler, Mod, Protection, Release, Request, SentModel, Step
from defenses.protection.stack import Stack

__all__ = ["Handler", "Mod", "Protection", "Release", "Request", "SentModel", "Stack", "Step"]
