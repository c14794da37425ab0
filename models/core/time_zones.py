"""Time zones by their IANA names."""

from functools import cache, lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

MAX_NAME = 64
"""Characters of a name; the longest one has 32."""


@cache
def time_zones() -> tuple[str, ...]:
    """The time zones to choose from, by name: UTC and those of places."""
    places = [zone for zone in available_timezones() if "/" in zone and not zone.startswith("Etc/")]
    return ("UTC", *sorted(places))


@lru_cache(maxsize=1024)
def zone_named(name: str) -> ZoneInfo | None:
    """The time zone of a name that anybody may have sent, or None."""
    if len(name) > MAX_NAME or not name.isascii() or "\0" in name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
