"""Selective encryption: ciphers, keys, masks."""
