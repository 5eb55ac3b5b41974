"""Reconstruction of training examples from what a `fedhive.leakage.view.View` shows."""
