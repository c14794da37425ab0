"""How a provider served a call, where that has a price of its own: service tier, speed, region, batch."""

from collections.abc import Mapping
from typing import Any

BATCH = "batch"
_USUAL = {
    "service_tier": ("auto", "default", "standard", "standard_only", "on_demand"),
    "speed": ("standard",),
    "inference_geo": ("global", "not_available"),
}
"""Fields of requests and answers, and the values that need no price of their own."""
_KEYS = {"service_tier": "service_tier", "speed": "speed", "inference_geo": "region"}
UNPRICED = ("service_tier:priority", "speed:fast")
"""Ways that cost more than the list price."""
MAX_VALUE = 40


def way_of(field: str, value: Any) -> str | None:
    """The way that a field names; None for the usual one."""
    if not isinstance(value, str) or not value or len(value) > MAX_VALUE or value in _USUAL[field]:
        return None
    return BATCH if (field, value) == ("service_tier", BATCH) else f"{_KEYS[field]}:{value}"


def served_ways(*objects: Mapping[str, Any]) -> tuple[str, ...]:
    """The ways that the fields of an answer name."""
    found = (way_of(field, each[field]) for each in objects for field in _KEYS if field in each)
    return tuple(dict.fromkeys(way for way in found if way))
