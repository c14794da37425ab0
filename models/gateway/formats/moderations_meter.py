"""Meters answers of moderation, which report no usage."""

from collections.abc import Mapping
from typing import Any

from models.gateway.formats.passed_meter import PassedMeter


class ModerationsMeter(PassedMeter):
    """What is stored says what was flagged."""

    def read_content(self, body: Mapping[str, Any]) -> str:
        results = body.get("results")
        found = [each for each in results if isinstance(each, dict)] if isinstance(results, list) else []
        return "\n".join(map(_verdict, found))


def _verdict(result: Mapping[str, Any]) -> str:
    categories = result.get("categories")
    names = (
        [str(name)[:100] for name, hit in categories.items() if hit] if isinstance(categories, dict) else []
    )
    return f"flagged: {', '.join(names)}" if result.get("flagged") else "not flagged"
