"""Inference from recorded views: membership, properties, attributes, local models."""
