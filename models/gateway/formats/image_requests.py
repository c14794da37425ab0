"""Images: what a request asks for, and the tokens that it may cost."""

import re
from collections.abc import Mapping
from typing import Any

from models.gateway.chat_format.token_usage import image_unit

MAX_IMAGES = 10
INPUT_IMAGE_TOKENS = 10_000
"""Maximum tokens of an image to edit, in high fidelity."""
PARTIAL_TOKENS = 100
"""Output tokens of each partial image of a stream."""
TOKENS_PER_MEGAPIXEL = {
    "low": 272,
    "medium": 1_056,
    "standard": 1_056,
    "high": 4_160,
    "hd": 4_160,
    "xhigh": 8_320,
}
"""Output tokens by quality, as OpenAI charges them."""
MOST_TOKENS = 16_640
"""The same for the highest quality, and for unknown ones."""
MEGAPIXEL, LARGEST_PIXELS = 1_024 * 1_024, 3_840 * 2_160
AUTO_PIXELS = 1_536 * 1_024
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def image_count(body: Mapping[str, Any]) -> int:
    """How many images a parsed request asks for; an animation counts each of its frames."""
    return int(body.get("n") or 1) * int(body.get("frame_count") or 1)


def image_tokens(body: Mapping[str, Any]) -> int:
    """The most output tokens of one image. With `auto`, models choose up to high quality."""
    size, quality = body.get("size"), body.get("quality")
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    pixels = min(int(found[1]) * int(found[2]), LARGEST_PIXELS) if found else AUTO_PIXELS
    each = (
        TOKENS_PER_MEGAPIXEL["high"]
        if quality in (None, "auto")
        else TOKENS_PER_MEGAPIXEL.get(str(quality), MOST_TOKENS)
    )
    return -(-pixels * each // MEGAPIXEL) + PARTIAL_TOKENS * int(body.get("partial_images") or 0)


def unit_of(*bodies: Mapping[str, Any]) -> str:
    """The unit of the images of an answer or request: the first size and the first quality that are given."""
    size, quality = (
        next((body[key] for body in bodies if body.get(key) not in (None, "auto")), None)
        for key in ("size", "quality")
    )
    return image_unit(size, quality)
