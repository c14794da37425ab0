"""Meters answers of embeddings."""

from collections.abc import Mapping
from typing import Any

from models.gateway.formats.passed_meter import PassedMeter

BYTES_PER_NUMBER, CHARACTERS_PER_GROUP, BYTES_PER_GROUP = 4, 4, 3


class EmbeddingsMeter(PassedMeter):
    """Counts the vectors; their numbers are not kept."""

    def read_content(self, body: Mapping[str, Any]) -> str:
        data = body.get("data")
        vectors = (
            [item.get("embedding") for item in data if isinstance(item, dict)]
            if isinstance(data, list)
            else []
        )
        if not vectors:
            return ""
        return f"{len(vectors)} embedding{'s' if len(vectors) > 1 else ''} of {_dimensions(vectors[0])} dimensions"


def _dimensions(vector: Any) -> int:
    """The numbers of a vector, which may be base64 of them."""
    if isinstance(vector, str):
        return len(vector.rstrip("=")) * BYTES_PER_GROUP // CHARACTERS_PER_GROUP // BYTES_PER_NUMBER
    return len(vector) if isinstance(vector, list) else 0
