"""Attacks on encryption itself: what published results give away about the key."""
