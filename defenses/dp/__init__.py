"""Differential privacy: noise, and the accounts that tell its worth."""

from __future__ import annotations
