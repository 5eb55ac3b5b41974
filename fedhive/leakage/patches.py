"""Small natural colour images without a download: patches of the photographs in scikit-learn."""

from __future__ import annotations

import numpy as np

from fedhive import seeding
from fedhive.errors import UserError
from fedhive.learning.data import Dataset

SIDE = 32
CROP = 128
CLASSES = tuple(f"brightness {i}" for i in range(10))


def photo_patches(n: int = 2000, n_test: int = 500, seed: int = 0) -> Dataset:
    """32 x 32 colour patches in [0, 1]; the class is the tenth of brightness it falls into.

    Each is a random 128 x 128 crop of one of two photographs (a palace, a flower), possibly
    mirrored, averaged over 4 x 4 pixels. Training patches come from the photographs' left two
    thirds, test patches from the rest. For studies of leakage: there is nothing else to learn.

    Args:
        n: training patches.
        n_test: test patches.
        seed: of the draw; independent of the run's seed.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise UserError(
            "data=patches needs scikit-learn and Pillow: pip install 'fedhive[digits]' pillow"
        ) from error
    photos = [np.asarray(image, np.float32) / 255.0 for image in load_sample_images().images]
    rng = seeding.stream(seed, "patches")
    cuts = [int(photo.shape[1] * 2 / 3) for photo in photos]
    train = draw([photo[:, :cut] for photo, cut in zip(photos, cuts, strict=True)], n, rng)
    test = draw([photo[:, cut:] for photo, cut in zip(photos, cuts, strict=True)], n_test, rng)
    edges = np.quantile(train.mean((1, 2, 3)), np.linspace(0, 1, 11)[1:-1])
    labels = [np.searchsorted(edges, x.mean((1, 2, 3))).astype(np.int64) for x in (train, test)]
    return Dataset("photo patches", train, labels[0], test, labels[1], CLASSES, None, "image")


def draw(
    photos: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
    n: int,
    rng: np.random.Generator,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """float32 [n, 3, 32, 32] random patches of photographs [height, width, 3] in [0, 1]."""
    out = np.empty((n, 3, SIDE, SIDE), np.float32)
    for i in range(n):
        photo = photos[int(rng.integers(len(photos)))]
        top = int(rng.integers(photo.shape[0] - CROP + 1))
        left = int(rng.integers(photo.shape[1] - CROP + 1))
        crop = photo[top : top + CROP, left : left + CROP]
        small = crop.reshape(SIDE, CROP // SIDE, SIDE, CROP // SIDE, 3).mean((1, 3))
        out[i] = (small[:, ::-1] if rng.integers(2) else small).transpose(2, 0, 1)
    return out
