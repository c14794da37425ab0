"""Avatars: whatever was uploaded becomes a picture of our own making, or is refused. Kept under its SHA-256."""

import hashlib
import io
import re
import threading
from collections.abc import Callable
from typing import TypeVar

from PIL import Image, ImageOps

from models.errors import Invalid
from models.files import Files, apart

T = TypeVar("T")

SIDE = 512
MOST_BYTES = 5 * 1024 * 1024
MOST_PIXELS = 24_000_000
FOLDER = "uploads/avatars"
ADDRESS = re.compile(r"/uploads/avatars/[0-9a-f]{64}\.webp")
"""The addresses of the pictures kept here."""

UNREADABLE = "This file is not a whole JPEG, PNG or WebP picture. Export it again, then upload that."
TOO_MANY_PIXELS = (
    f"The picture has too many pixels. Use one of at most {MOST_PIXELS // 1_000_000} megapixels."
)
ANIMATED = "The picture is animated. Upload a still one."

_one_at_a_time = threading.Lock()


def keep(files: Files, raw: bytes) -> str:
    """Keep the uploaded picture as an avatar; its address on this server. The same picture gives the same address.

    Raises Invalid (400) for what is no picture or too big a one, DomainError (503) when the store of files is away.
    Call it outside a transaction: it decodes, and may speak with a bucket.
    """
    if len(raw) > MOST_BYTES:
        raise _refusal("File too large. Maximum size is 5MB.")
    with _one_at_a_time:  # decoding takes a hundred megabytes at worst
        picture = apart(lambda: portrait(raw))
    name = f"{hashlib.sha256(picture).hexdigest()}.webp"
    files.keep(f"{FOLDER}/{name}", picture)
    return f"/{FOLDER}/{name}"


def portrait(raw: bytes) -> bytes:
    """The picture cut to a square of 512 pixels, as WebP, upright, without a byte of the original: neither metadata
    nor whatever else the file was. Raises Invalid (400) for other formats, broken files, animations, and more than
    24 million pixels, which are counted before anything is unpacked."""
    opened = _guarded(lambda: Image.open(io.BytesIO(raw), formats=("JPEG", "PNG", "WEBP")))
    if opened.width * opened.height > MOST_PIXELS:
        raise _refusal(TOO_MANY_PIXELS)
    # a JPEG with several pictures is what phones make: the first is the photo, the others its preview
    if getattr(opened, "is_animated", False) and opened.format not in ("JPEG", "MPO"):
        raise _refusal(ANIMATED)
    return _guarded(lambda: _redrawn(opened))


def _redrawn(opened: Image.Image) -> bytes:
    opened.draft("RGB", (SIDE, SIDE))
    opened.load()
    upright = ImageOps.exif_transpose(opened)
    mode = "RGBA" if upright.has_transparency_data else "RGB"
    square = ImageOps.fit(upright.convert(mode), (SIDE, SIDE), Image.Resampling.LANCZOS)
    clean = Image.new(mode, square.size)
    clean.paste(square)
    buffer = io.BytesIO()
    clean.save(buffer, "WEBP", quality=85, method=4)
    return buffer.getvalue()


def _guarded(decode: Callable[[], T]) -> T:
    try:
        return decode()
    except Image.DecompressionBombError:
        raise _refusal(TOO_MANY_PIXELS) from None
    except Exception:  # decoders raise whatever hostile bytes make them: OSError, SyntaxError, struct.error …
        raise _refusal(UNREADABLE) from None


def _refusal(words: str) -> Invalid:
    return Invalid(words, fields={"avatar": words}, status=400)
