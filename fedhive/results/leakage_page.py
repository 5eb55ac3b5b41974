"""The part of a report on leakage: what attacks made of recorded views, beside the originals."""

from __future__ import annotations

import base64
import html
import json
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhive.results.facts import Facts, Record
from fedhive.results.page import Markup, Page, el
from fedhive.results.widgets import table_of

LEAKAGE, IMAGES = "leakage.json", "leakage.safetensors"
MOST_SHEETS = 12
ZOOM = 3
GAP = 2


def add(made: Page, run: Facts) -> None:
    """Add the section to a page, if guesses about the run were judged."""
    path = run.path / LEAKAGE
    if not path.is_file():
        return
    rows: list[Record] = json.loads(path.read_text())
    parts = [
        el(
            "p", "An attack had nothing but what was recorded of the messages; it was compared "
            "with the truth afterwards. From 30 dB an example counts as recovered. A failed "
            "attack is no proof of safety.", class_="note",
        ),
        _table(rows), *_sheets(run, rows),
    ]  # fmt: skip
    made.section("leakage", "Leakage", "What attacks could reconstruct", *parts)


def _table(rows: list[Record]) -> Markup:
    heads = [
        ("Attack", True), ("Round", False), ("Node", False), ("Examples", False),
        ("Samples", False),
        ("Mean PSNR", False), ("Best PSNR", False), ("Recovered", False), ("Identified", False),
    ]  # fmt: skip
    body = [
        (
            (str(row["attack"]), str(row["attack"])),
            (str(row["round"]), row["round"]),
            (str(row["node"]), row["node"]),
            (str(row["examples"]), row["examples"]),
            (str(row["samples"]), row["samples"]),
            (_decibel(row["psnr_mean"]), row["psnr_mean"]),
            (_decibel(row["psnr_best"]), row["psnr_best"]),
            (_share(row["recall"]), row["recall"]),
            (_share(row["identified"]), row["identified"]),
        )
        for row in rows
    ]
    return table_of(heads, body)


def _decibel(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} dB"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.0f} %"


def _sheets(run: Facts, rows: list[Record]) -> list[Markup]:
    """Contact sheets of the guesses with most recovered, if inputs are images."""
    from fedhive.leakage.tensorfile import load

    if not (run.path / IMAGES).is_file():
        return []
    arrays, _ = load(run.path / IMAGES)
    found = []
    ranked = sorted(rows, key=lambda row: -(row["psnr_mean"] or 0.0))
    for row in ranked[:MOST_SHEETS]:
        stem = f"{row['attack']}-round-{row['round']:06d}-node-{row['node']}"
        originals = arrays.get(f"{stem}/original")
        if originals is None or originals.ndim != 4 or originals.shape[1] not in (1, 3):
            continue
        made, decibels = arrays[f"{stem}/reconstructed"], arrays[f"{stem}/psnr"]
        label = f"{row['attack']}, round {row['round']}, node {row['node']}: originals above"
        found += [
            el("h3", f"{row['attack']}, round {row['round']}, node {row['node']}"),
            _image(sheet(originals, made), label),
            el("p", "Above originals, below reconstructions, best to worst: "
               + ", ".join(f"{value:.1f}" for value in decibels) + " dB.", class_="note"),
        ]  # fmt: skip
    return found


def _image(pixels: NDArray[np.uint8], label: str) -> Markup:
    data = base64.b64encode(png(pixels)).decode()
    width = pixels.shape[1] * ZOOM
    return Markup(
        f'<img alt="{html.escape(label)}" width="{width}" '
        f'style="image-rendering:pixelated;max-width:100%" src="data:image/png;base64,{data}">'
    )


def sheet(originals: NDArray[Any], made: NDArray[Any]) -> NDArray[np.uint8]:
    """Two rows of images as pixels [height, width, 3].

    Args:
        originals: [k, channels, height, width] in [0, 1], one or three channels.
        made: of the same shape.
    """
    k, channels, height, width = originals.shape
    out = np.full((2 * height + GAP, k * (width + GAP) - GAP, 3), 255, np.uint8)
    for top, images in ((0, originals), (height + GAP, made)):
        for i, image in enumerate(images):
            shown = np.repeat(image, 3 // channels, axis=0).transpose(1, 2, 0)
            left = i * (width + GAP)
            out[top : top + height, left : left + width] = np.rint(255 * np.clip(shown, 0, 1))
    return out


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of pixels [height, width, 3]."""
    height, width, _ = pixels.shape
    raw = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
