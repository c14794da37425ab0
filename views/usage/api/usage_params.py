"""What requests of the usage API ask for: whose usage, when, and which calls. Every error is 422 and says how to mend it."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, cast

from flask import request
from flask.typing import ResponseReturnValue

from models.accounts import Session
from models.core.db import midnight, now
from models.core.errors import Invalid
from models.core.time_zones import zone_named
from models.usage.usage_scope import SCOPES, Scope, UsageScope, calls_key, scope_of
from models.usage.usage_window import UsageWindow
from views.web.error_bodies import ServerError
from views.web.error_handlers import answer
from views.web.guards import require_key
from views.web.keyset import Cursor, cursor
from views.web.operation import Answers, ErrorFormat, query

DAYS = 30
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
MAX_TEXT = 500
PAGE, MAX_PAGE = 50, 100
TYPES = ("chat", "embeddings", "rerank", "image", "audio", "moderation", "search")

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}(?P<time>[T ]\d{2}:\d{2}.*)?", re.ASCII | re.DOTALL)
_FILTERS = {
    "provider": "provider",
    "model": "model",
    "type": "type",
    "api_key_id": "key",
    "agent_id": "agent",
    "user_id": "member",
}

ERRORS: Answers = {
    401: "No key, or an unknown one",
    403: "The key lacks `usage:read`, or the organisation requires single sign-on (`org_sso`)",
    404: "No such organisation, or you are not a member",
    422: "A parameter is wrong (`validation_error`)",
}
RANGE = (
    query(
        "from", f"ISO date or time, included; default: {DAYS} days before `to`. Without an offset, in `tz`"
    ),
    query("to", "ISO date or time, not included; default: the end of today"),
    query("tz", "Time zone of days and of times without an offset, such as Europe/Berlin; default: UTC"),
)
NARROWED = (
    query("provider", "Only calls that this provider answered"),
    query("model", "Only calls of this model"),
    query("type", f"Only calls of this type: {', '.join(TYPES)}"),
    query("api_key_id", "Only calls with this key: its `id`"),
    query("agent_id", "Only calls of this agent, with its version"),
    query("user_id", "Only calls of this member"),
)
SCOPED = (
    query(
        "scope",
        "`key` (default): calls of the key that is used. `me`: all calls that its owner's account pays; with a key of an "
        "organisation, those of its member there. `org`: all of an organisation, or your own if your role sees only those",
    ),
    query("org_id", "With `scope=org`: id or slug of the organisation; default: that of the key"),
)


def _error_response(error: Exception) -> ResponseReturnValue | None:
    if isinstance(error, Invalid):
        details = "; ".join(f"{name}: {text}" for name, text in error.fields.items())
        return answer(422, error.message, "validation_error", details=details or None)
    return None


USAGE_DOOR = ErrorFormat(_error_response, ServerError, ServerError, ServerError, ServerError)
"""The error format of the usage API."""


def asking_key() -> Session:
    """The key of the request. Raises DomainError (401)."""
    return require_key().session


def asked_scope(key: Session) -> UsageScope:
    """Whose usage, by `scope` and `org_id`."""
    scope = cast(Scope, one_of("scope", SCOPES, "key"))
    org = _text("org_id")
    if org and scope != "org":
        raise _invalid("org_id", "'org_id' needs scope=org.")
    return scope_of(key, scope, org)


def asked_filters() -> dict[str, str]:
    """The values that calls must have, by dimension."""
    found = {dimension: _text(name) for name, dimension in _FILTERS.items()}
    filters = {dimension: value for dimension, value in found.items() if value}
    if "type" in filters:
        one_of("type", TYPES, "")
    if "key" in filters:
        filters["key"] = calls_key(filters["key"])
    return filters


def asked_window() -> UsageWindow:
    """From when until when, and on which clock."""
    name = _text("tz") or "UTC"
    zone = zone_named(name)
    if zone is None:
        raise _invalid("tz", "'tz' must be a time zone's name, such as UTC or Europe/Berlin.")
    end = _moment("to", zone)
    if end is None:
        end = midnight(now().astimezone(zone).date() + timedelta(days=1), zone).astimezone(UTC)
    start = _moment("from", zone)
    if start is None:
        start = midnight(end.astimezone(zone).date() - timedelta(days=DAYS), zone).astimezone(UTC)
    if start > end:
        raise _invalid("from", f"'from' must not be after 'to' ({end.astimezone(zone).isoformat()}).")
    return UsageWindow(start, end, zone)


def one_of(name: str, values: tuple[str, ...], default: str) -> str:
    """A parameter with a closed list of values."""
    value = _text(name) or default
    if value not in values:
        raise _invalid(name, f"'{name}' must be one of: {', '.join(values)}.")
    return value


def asked_page() -> tuple[Cursor | None, int]:
    """Where the page starts, and its most rows."""
    limit = _text("limit") or str(PAGE)
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= MAX_PAGE):
        raise _invalid("limit", f"'limit' must be a number from 1 to {MAX_PAGE}.")
    after = cursor("cursor")
    if after and not _within(after[0]):
        raise _invalid("cursor", "'cursor' must be the `next_cursor` of a page.")
    return after, int(limit)


def window_facts(window: UsageWindow) -> Mapping[str, Any]:
    """The range of an answer, on its clock."""
    start, end = (moment.astimezone(window.zone).isoformat() for moment in (window.start, window.end))
    return {"start": start, "end": end, "tz": str(window.zone), "currency": "usd"}


def _moment(name: str, zone: tzinfo) -> datetime | None:
    text = _text(name)
    if not text:
        return None
    found = _TIME.fullmatch(text)
    try:
        moment = datetime.fromisoformat(text) if found else None
    except ValueError:
        moment = None
    if moment is None:
        raise _invalid(
            name,
            f"'{name}' must be an ISO date or time, such as 2026-03-01 or 2026-03-01T08:00:00Z (write + as %2B).",
        )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    if not _within(moment):
        raise _invalid(name, f"'{name}' must be within {EARLIEST:%Y-%m-%d} and {LATEST:%Y-%m-%d}.")
    return moment.astimezone(UTC)


def _within(moment: datetime) -> bool:
    # at the ends of the calendar, an offset cannot be taken off
    return EARLIEST.year <= moment.year <= LATEST.year and EARLIEST <= moment <= LATEST


def _text(name: str) -> str | None:
    value = request.args.get(name)
    if value is not None and ("\0" in value or len(value) > MAX_TEXT):
        raise _invalid(name, f"'{name}' must be text of at most {MAX_TEXT} characters, without NUL.")
    return value


def _invalid(name: str, text: str) -> Invalid:
    return Invalid(text, fields={name: text})
