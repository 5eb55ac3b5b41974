"""The bytes of a sealed upload: one fixed header, ciphertext, shares, tag.

Everything is checked in the order of its cost and before anything of an announced size is
allocated: length, magic, version, cipher, parameters, run, round, mask, sender, count, key, then
the tag over all of it. Little-endian::

    offset size          offset size
         0    4 magic         60    8 sender
         4    2 version       68    8 count of values
         6    2 cipher        76   16 key id
         8   16 parameters    92   32 nonce
        24   16 run          124    8 length of the ciphertext
        40    4 round        132    4 length of the shares
        44   16 mask         136      ciphertext, shares, 16 bytes of tag

The tag is Poly1305 under a key that is derived from the upload's tag key and the whole header. It
is used once, because the nonce in the header is.
"""

from __future__ import annotations

import hmac
import io
import struct
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.poly1305 import Poly1305

from defenses.encryption import errors
from defenses.encryption.base import Cipher, Context, UploadKey, Verifier
from defenses.encryption.prg import derive

MAGIC, VERSION = b"FHSE", 1
HEADER = struct.Struct("<4sHH16s16sI16sQQ16s32sQI")
TAG = 16
CIPHERS = {"plain": 0, "rlwe": 1, "seal": 2, "tenseal": 3}
MOST_SHARES = 1 << 20
"""Longest shares of one upload, bytes: more members than any committee has."""


def seal(
    cipher: Cipher,
    context: Context,
    key: UploadKey,
    size: int,
    write: Callable[[memoryview], None],
) -> bytes:
    """A sealed upload.

    Args:
        cipher: that makes it.
        context: bound into its header.
        key: the upload's key; its shares are appended.
        size: bytes of ciphertext.
        write: fills them in, in place: the ciphertext exists once in memory.
    """
    header = _header(cipher, context, key, size)
    total = HEADER.size + size + len(key.shares) + TAG
    buffer = io.BytesIO()
    buffer.seek(total - 1)
    buffer.write(b"\0")  # the whole size at once; growing would copy
    with buffer.getbuffer() as view:
        view[: HEADER.size] = header
        with view[HEADER.size : HEADER.size + size] as body:
            write(body)
        view[HEADER.size + size : total - TAG] = key.shares
        with view[HEADER.size : total - TAG] as authentic:
            view[total - TAG :] = _tag(key.tag_key, header, authentic)
    return buffer.getvalue()


def seal_pieces(
    cipher: Cipher, context: Context, key: UploadKey, pieces: Iterable[bytes]
) -> bytes:
    """A sealed upload of pieces whose sizes are not known before; each with its length."""
    buffer = io.BytesIO()
    buffer.seek(HEADER.size)
    for piece in pieces:
        buffer.write(len(piece).to_bytes(4, "little"))
        buffer.write(piece)
    header = _header(cipher, context, key, buffer.tell() - HEADER.size)
    buffer.write(key.shares)
    with buffer.getbuffer() as view:
        view[: HEADER.size] = header
        with view[HEADER.size :] as authentic:
            tag = _tag(key.tag_key, header, authentic)
    buffer.write(tag)
    return buffer.getvalue()


def pieces_of(body: memoryview, count: int, least: int, most: int) -> list[memoryview]:
    """The pieces of a ciphertext of `seal_pieces`.

    Raises:
        Malformed: for another number of pieces, or one shorter or longer than allowed.
    """
    pieces, at = [], 0
    for _ in range(count):
        size = int.from_bytes(body[at : at + 4], "little")
        if not least <= size <= min(most, len(body) - at - 4):
            raise errors.Malformed("a piece of the ciphertext has the wrong size")
        pieces.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(body):
        raise errors.Malformed("the ciphertext has more pieces than its values need")
    return pieces


def _header(cipher: Cipher, context: Context, key: UploadKey, size: int) -> bytes:
    return HEADER.pack(
        MAGIC, VERSION, CIPHERS[cipher.name], cipher.params_id, context.run, context.round,
        context.mask, context.sender, context.count, key.key_id, key.nonce, size, len(key.shares),
    )  # fmt: skip


def unseal(
    data: bytes, cipher: Cipher, context: Context, keys: Verifier, most: int, exactly: bool = True
) -> tuple[memoryview, bytes, bytes]:
    """The checked parts of a sealed upload.

    Args:
        data: from the network.
        cipher: that it must have been made by.
        context: that it must have been made for.
        keys: tell the tag's key.
        most: bytes of ciphertext that ``context.count`` values need.
        exactly: whether they need exactly so many, or at most.

    Returns:
        The ciphertext (a view into ``data``), the nonce and the shares.

    Raises:
        SealError: naming what is wrong.
    """
    if len(data) < HEADER.size + TAG:
        raise errors.Truncated(f"{len(data)} bytes are less than a header and a tag")
    fields = HEADER.unpack_from(data)
    magic, version, name, params, run, round_, mask, sender, count, key_id, nonce = fields[:11]
    size, shares = fields[11:]
    for wrong, error, what in (
        (magic != MAGIC, errors.NotSealed, "does not begin with the magic of a sealed upload"),
        (version != VERSION, errors.WrongVersion, f"has version {version}, not {VERSION}"),
        (name != CIPHERS[cipher.name], errors.WrongCipher, f"was not made by {cipher.name}"),
        (params != cipher.params_id, errors.WrongParameters, "was made with other parameters"),
        (run != context.run, errors.WrongRun, "was made for another run"),
        (round_ != context.round, errors.WrongRound, f"is of round {round_}"),
        (mask != context.mask, errors.WrongMask, "was made under another mask"),
        (sender != context.sender, errors.WrongSender, "was made by another node"),
        (count != context.count, errors.WrongCount, f"holds {count} values"),
        (key_id != keys.key_id, errors.ForeignKey, "was made with foreign keys"),
        (size > most or shares > MOST_SHARES, errors.Oversized, f"announces {size} bytes"),
        (exactly and size < most, errors.Truncated, f"announces {size} of {most} bytes"),
    ):
        if wrong:
            raise error(f"the upload {what}")
    total = HEADER.size + size + shares + TAG
    if len(data) != total:
        error = errors.Truncated if len(data) < total else errors.Oversized
        raise error(f"the upload has {len(data)} bytes and announces {total}")
    view = memoryview(data)
    tag = _tag(keys.tag_key(nonce, context), data[: HEADER.size], view[HEADER.size : -TAG])
    if not hmac.compare_digest(tag, view[-TAG:]):
        raise errors.Tampered("the upload's tag does not fit")
    end = HEADER.size + size
    return view[HEADER.size : end], nonce, bytes(view[end : end + shares])


def _tag(key: bytes, header: bytes, authentic: memoryview) -> bytes:
    return Poly1305.generate_tag(derive(key, "tag", header), authentic)
