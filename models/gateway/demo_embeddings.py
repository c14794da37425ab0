"""`stoa/demo-embeddings`: deterministic vectors that work offline. Texts with words in common are near each other."""

import hashlib
import math
import re
import struct
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from models.core.cooperative import in_slices
from models.gateway import tokens

DIMENSIONS, MAX_DIMENSIONS = 256, 1_024
MAX_TEXT = 2_000
"""Characters or tokens of an input that are read."""


def embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request that was parsed by its dialect."""
    given = body["input"]
    whole = isinstance(given, str) or isinstance(given[0], int)
    inputs = [given] if whole else given
    size = min(body.get("dimensions") or DIMENSIONS, MAX_DIMENSIONS)
    encoded = body.get("encoding_format") == "base64"
    count = sum(tokens.count(each) if isinstance(each, str) else len(each) for each in in_slices(inputs))
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(each, size, encoded)}
        for index, each in enumerate(in_slices(inputs))
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def _vector(given: str | list[int], size: int, encoded: bool) -> Any:
    """A vector of length 1: each word adds to or takes from four of its numbers."""
    words = re.findall(r"\w+", given[:MAX_TEXT].lower()) if isinstance(given, str) else given[:MAX_TEXT]
    total = [0.0] * size
    for word in words or [""]:
        for part in _parts(str(word)):
            total[part % size] += 1 if part & 1 << 31 else -1
    length = math.hypot(*total)
    if not length:
        total[0] = length = 1.0
    values = [value / length for value in total]
    return b64encode(struct.pack(f"<{size}f", *values)).decode() if encoded else values


@lru_cache(maxsize=4096)
def _parts(word: str) -> tuple[int, ...]:
    return struct.unpack("<4I", hashlib.shake_128(word.encode("utf-8", "replace")).digest(16))
