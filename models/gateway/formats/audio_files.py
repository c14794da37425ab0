"""How long an uploaded audio file is, from its own header."""

import io
import logging
from math import ceil

from models.core.cooperative import heavy
from models.gateway.chat_format import UploadedFile

log = logging.getLogger("stoa.gateway")

FASTEST, SLOWEST = 192_000, 1_000
"""Bytes per second of the densest and of the most compressed speech."""
USUAL = 4_000
"""Bytes per second of speech in formats whose length cannot be read (WebM)."""


def file_seconds(file: UploadedFile) -> int | None:
    """The seconds that the file's header tells, rounded up, as far as its size allows; None if it cannot be read."""
    from tinytag import TinyTag  # of little use elsewhere

    try:
        with heavy(len(file.data)):
            tag = TinyTag.get(filename=file.name, file_obj=io.BytesIO(file.data), tags=False, duration=True)
        duration = tag.duration
    except Exception as error:  # whatever a broken file makes of the reader
        log.info("the length of an audio file could not be read: %s", type(error).__name__)
        return None
    if not duration or not 0 < duration < 1e7:
        return None
    size = len(file.data)
    return min(max(ceil(duration), size // FASTEST), size // SLOWEST + 1)


def most_seconds(file: UploadedFile) -> int:
    """The most seconds that the file may have."""
    return file.seconds or len(file.data) // SLOWEST + 1


def usual_seconds(file: UploadedFile) -> int:
    """The seconds to charge if neither the file nor the provider tells them."""
    return file.seconds or len(file.data) // USUAL + 1
