"""Ciphers behind one small interface: encrypt to bytes, add from bytes, decrypt to numbers."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

CLIP = 0.25
PEERS = {
    # name: N, bits of the primes, log2 of the scale, symmetric
    "nvflare": (8192, (60, 40, 40), 40, True),
    "plato": (8192, (60, 40, 40, 60), 40, False),
    "add-only": (4096, (60, 49), 40, True),
}
OURS = ("plain", "rlwe", "rlwe-6", "seal", "tenseal")


class Contender(Protocol):
    def upload(self, values: np.ndarray, sender: int) -> bytes: ...
    def add(self, uploads: list[bytes]) -> Any: ...
    def decrypt(self, total: Any) -> np.ndarray: ...


class Peer:
    """TenSEAL's vectors as other frameworks use them: the whole model in one."""

    def __init__(self, name: str, count: int) -> None:
        import tenseal

        degree, bits, scale, symmetric = PEERS[name]
        kind = tenseal.ENCRYPTION_TYPE
        self.tenseal, self.context = tenseal, tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=list(bits), n_threads=1,
            encryption_type=kind.SYMMETRIC if symmetric else kind.ASYMMETRIC,
        )  # fmt: skip
        self.context.global_scale = 2.0**scale

    def upload(self, values: np.ndarray, sender: int) -> bytes:
        return self.tenseal.ckks_vector(self.context, values).serialize()  # type: ignore[no-any-return]

    def add(self, uploads: list[bytes]) -> Any:
        load = self.tenseal.ckks_vector_from
        total = load(self.context, uploads[0])
        for data in uploads[1:]:
            total += load(self.context, data)
        return total

    def decrypt(self, total: Any) -> np.ndarray:
        return np.array(total.decrypt())


class Ours:
    """One of fedhive's ciphers with a shared key, headers, tags and checks included."""

    def __init__(self, name: str, count: int) -> None:
        from defenses.encryption.base import Context
        from defenses.encryption.ckks import Tenseal
        from defenses.encryption.keys_shared import Shared
        from defenses.encryption.plain import Plain
        from defenses.encryption.rlwe import Rlwe
        from defenses.encryption.seal import Seal

        made = {
            "plain": lambda: Plain(CLIP), "rlwe": lambda: Rlwe(CLIP),
            "rlwe-6": lambda: Rlwe(CLIP, 14, 100, 6), "seal": lambda: Seal(CLIP),
            "tenseal": lambda: Tenseal(CLIP),
        }  # fmt: skip
        self.cipher, self.round = made[name](), 0
        self.keys = Shared(seed=int.from_bytes(os.urandom(6), "little"))
        self.context = Context(os.urandom(16), 0, bytes(16), 0, count)

    def upload(self, values: np.ndarray, sender: int) -> bytes:
        if sender == 0:  # a new round: keys are never used twice
            self.round += 1
        here = replace(self.context, sender=sender, round=self.round)
        return self.cipher.encrypt(values, self.keys.for_upload(self.cipher, here), here).data

    def add(self, uploads: list[bytes]) -> Any:
        here = replace(self.context, round=self.round)
        total = None
        for sender, data in enumerate(uploads):
            one = self.cipher.parse(data, replace(here, sender=sender), self.keys)
            total = self.cipher.add([one] if total is None else [total, one])
        return total

    def decrypt(self, total: Any) -> np.ndarray:
        [opened] = self.keys.open(self.cipher, [total])
        return self.cipher.fixed.decode(opened)


def contender(name: str, count: int) -> Contender:
    return Peer(name, count) if name in PEERS else Ours(name, count)
