"""Avatars: an upload is re-encoded or rejected, and stored under the SHA-256 of the result."""

import hashlib
import io
import re
import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import TypeVar

from PIL import Image, ImageOps

from models.core.errors import Invalid
from models.core.files import Files, run_in_thread

T = TypeVar("T")

SIDE = 512
MAX_BYTES = 5 * 1024 * 1024
MAX_PIXELS = 24_000_000
FOLDER = "uploads/avatars"
UNUSED_FOLDER = "uploads/aside/avatars"
"""Unused pictures, before they are deleted."""

GRACE = timedelta(days=1)
"""How long an unused picture stays in `FOLDER`, and then in `UNUSED_FOLDER`."""

ADDRESS = re.compile(r"/uploads/avatars/[0-9a-f]{64}\.webp")
"""URL paths of stored avatars."""

TOO_LARGE = "File too large. Maximum size is 5MB."
UNREADABLE = "This file is not a complete JPEG, PNG or WebP image. Export it again and upload the new file."
TOO_MANY_PIXELS = f"The picture is too large. Use at most {MAX_PIXELS // 1_000_000} megapixels."
ANIMATED = "The picture is animated. Upload a still image."

_decoding = threading.Lock()


def store(files: Files, raw: bytes) -> str:
    """Store an uploaded picture as an avatar and return its URL path. Idempotent: the same picture has the same path.

    Call it outside a transaction: it decodes and may access a bucket. Raises Invalid (400) for an unusable picture and
    FilesUnavailable (503).
    """
    if len(raw) > MAX_BYTES:
        raise _refusal(TOO_LARGE)
    with _decoding:  # one at a time: decoding takes up to 100 MB
        picture = run_in_thread(lambda: to_avatar(raw))
    name = f"{hashlib.sha256(picture).hexdigest()}.webp"
    files.write(f"{FOLDER}/{name}", picture)
    return f"/{FOLDER}/{name}"


def read(files: Files, name: str) -> bytes | None:
    """A stored picture by file name, unused ones included; None if unknown. Raises FilesUnavailable."""
    return files.read(f"{FOLDER}/{name}") or files.read(f"{UNUSED_FOLDER}/{name}")


def delete_unused(files: Files, used: Callable[[Collection[str]], set[str]], moment: datetime) -> None:
    """Move pictures that are unused a day after their upload to `UNUSED_FOLDER`, and delete them a day later. `used` returns
    which of the given URL paths are in use. Idempotent. Raises FilesUnavailable.

    Files and database share no lock, so a picture may come into use while it is moved. It is then served from
    `UNUSED_FOLDER` and moved back by the next call. A picture that comes into use while it is deleted is restored.
    """
    before = moment - GRACE
    stored, waiting = _names(files, FOLDER), _names(files, UNUSED_FOLDER)
    for name in _unused([name for name, since in stored.items() if since < before], used):
        _move(files, name, FOLDER, UNUSED_FOLDER)
    unused = _unused(waiting, used)
    for name, since in waiting.items():
        if name not in unused:
            _move(files, name, UNUSED_FOLDER, FOLDER)
        elif since < before:
            _remove(files, name, used)


def _names(files: Files, folder: str) -> dict[str, datetime]:
    return {
        name: since for name, since in files.names(folder).items() if ADDRESS.fullmatch(f"/{FOLDER}/{name}")
    }


def _unused(names: Collection[str], used: Callable[[Collection[str]], set[str]]) -> set[str]:
    in_use = used([f"/{FOLDER}/{name}" for name in names]) if names else set()
    return {name for name in names if f"/{FOLDER}/{name}" not in in_use}


def _move(files: Files, name: str, source: str, target: str) -> None:
    picture = files.read(f"{source}/{name}")
    if picture is not None:
        files.write(f"{target}/{name}", picture)
        files.remove(f"{source}/{name}")


def _remove(files: Files, name: str, used: Callable[[Collection[str]], set[str]]) -> None:
    picture = files.read(f"{UNUSED_FOLDER}/{name}")
    files.remove(f"{UNUSED_FOLDER}/{name}")
    if picture is not None and not _unused([name], used):
        files.write(f"{FOLDER}/{name}", picture)


def to_avatar(raw: bytes) -> bytes:
    """Crop a picture to a square of 512 pixels, upright, and re-encode it as WebP without metadata. Raises Invalid (400) for
    other formats, broken files, animations, and more than 24 million pixels, which are checked before decoding."""
    opened = _guarded(lambda: Image.open(io.BytesIO(raw), formats=("JPEG", "PNG", "WEBP")))
    if opened.width * opened.height > MAX_PIXELS:
        raise _refusal(TOO_MANY_PIXELS)
    # phones write JPEGs with several pictures (MPO): the first is the photo, the others are previews
    if getattr(opened, "is_animated", False) and opened.format not in ("JPEG", "MPO"):
        raise _refusal(ANIMATED)
    return _guarded(lambda: _reencoded(opened))


def _reencoded(opened: Image.Image) -> bytes:
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
    except Exception:  # hostile input makes decoders raise anything: OSError, SyntaxError, struct.error …
        raise _refusal(UNREADABLE) from None


def _refusal(message: str) -> Invalid:
    return Invalid(message, fields={"avatar": message}, status=400)
