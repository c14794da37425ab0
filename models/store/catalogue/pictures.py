"""Avatars: whatever was uploaded becomes a picture of our own making, or is refused. Kept under its SHA-256."""

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
MOST_BYTES = 5 * 1024 * 1024
MOST_PIXELS = 24_000_000
FOLDER = "uploads/avatars"
ASIDE = "uploads/aside/avatars"
"""Where pictures wait that nobody uses, before they are removed."""

GRACE = timedelta(days=1)
"""How long a picture may stand unused, and then wait aside."""

ADDRESS = re.compile(r"/uploads/avatars/[0-9a-f]{64}\.webp")
"""The addresses of the pictures kept here."""

TOO_LARGE = "File too large. Maximum size is 5MB."
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
        raise _refusal(TOO_LARGE)
    with _one_at_a_time:  # decoding takes a hundred megabytes at worst
        picture = run_in_thread(lambda: portrait(raw))
    name = f"{hashlib.sha256(picture).hexdigest()}.webp"
    files.write(f"{FOLDER}/{name}", picture)
    return f"/{FOLDER}/{name}"


def read(files: Files, name: str) -> bytes | None:
    """A picture by its name, also one put aside; None when there is none. Raises FilesUnavailable."""
    return files.read(f"{FOLDER}/{name}") or files.read(f"{ASIDE}/{name}")


def forget_unused(files: Files, used: Callable[[Collection[str]], set[str]], moment: datetime) -> None:
    """Put pictures aside that were kept a day ago and nobody uses; remove those that were put aside a day ago. `used`
    tells which of some addresses publishers show. Idempotent; raises FilesUnavailable.

    Files and database share no lock, so a picture may be chosen while it is put aside, by an upload of the same one or by
    its address. It is shown from there meanwhile, and the next time brought back. One that is chosen while it is removed
    is written again.
    """
    before = moment - GRACE
    kept, waiting = _names(files, FOLDER), _names(files, ASIDE)
    for name in _unused([name for name, since in kept.items() if since < before], used):
        _move(files, name, FOLDER, ASIDE)
    unused = _unused(waiting, used)
    for name, since in waiting.items():
        if name not in unused:
            _move(files, name, ASIDE, FOLDER)
        elif since < before:
            _remove(files, name, used)


def _names(files: Files, folder: str) -> dict[str, datetime]:
    return {
        name: since for name, since in files.names(folder).items() if ADDRESS.fullmatch(f"/{FOLDER}/{name}")
    }


def _unused(names: Collection[str], used: Callable[[Collection[str]], set[str]]) -> set[str]:
    shown = used([f"/{FOLDER}/{name}" for name in names]) if names else set()
    return {name for name in names if f"/{FOLDER}/{name}" not in shown}


def _move(files: Files, name: str, source: str, target: str) -> None:
    picture = files.read(f"{source}/{name}")
    if picture is not None:
        files.write(f"{target}/{name}", picture)
        files.remove(f"{source}/{name}")


def _remove(files: Files, name: str, used: Callable[[Collection[str]], set[str]]) -> None:
    picture = files.read(f"{ASIDE}/{name}")
    files.remove(f"{ASIDE}/{name}")
    if picture is not None and not _unused([name], used):
        files.write(f"{FOLDER}/{name}", picture)


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
