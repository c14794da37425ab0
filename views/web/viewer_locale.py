"""How the viewer of a page reads it: the time zone of its times, and the language of its numbers.

The time zone is the one that the user chose, else the one that the browser says by a cookie (static/js/stoa.js), else UTC. Numbers
are English unless the user chose another language. E-mails, invoices and everything outside requests: UTC and English.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, tzinfo
from functools import cache
from typing import Any

import flask_login
from babel import Locale
from flask import g, has_request_context, request

from models.accounts.users import NUMBER_LANGUAGES
from models.core.time_zones import zone_named

ZONE_COOKIE = "stoa-zone"
_CACHE = "stoa.viewer_locale"


@dataclass(frozen=True, slots=True)
class ViewerLocale:
    """A time zone, and a language of numbers; None for English."""

    zone: tzinfo = UTC
    numbers: str | None = None


_PLAIN = ViewerLocale()
_is_plain: ContextVar[bool] = ContextVar("stoa_plain_formats", default=False)


@contextmanager
def plain_formats() -> Iterator[None]:
    """Format times in UTC and numbers in English, for e-mails and invoices."""
    token = _is_plain.set(True)
    try:
        yield
    finally:
        _is_plain.reset(token)


def viewer_locale() -> ViewerLocale:
    """That of the current request's user or browser; UTC and English outside requests."""
    if _is_plain.get() or not has_request_context():
        return _PLAIN
    found: ViewerLocale | None = request.environ.get(_CACHE)
    if found is None:
        found = request.environ[_CACHE] = _requested()
    return found


def viewer_zone() -> tzinfo:
    """The time zone of the current request's user or browser."""
    return viewer_locale().zone


def browser_zone() -> str | None:
    """The name of the time zone that the browser says, or None."""
    name = request.cookies.get(ZONE_COOKIE, "")
    return name if name and zone_named(name) else None


def local_number(text: str) -> str:
    """A number without sign, written like `1,234.50`, in the language of the viewer. No digit changes."""
    language = viewer_locale().numbers
    return text if language is None else _written(text, language)


def number_languages() -> list[tuple[str, str]]:
    """The languages to choose from and their names with an example, English first, then by name."""
    choices = [
        (code, f"{Locale.parse(code).get_display_name('en')}, {_written('12,345,678.90', code)}")
        for code in NUMBER_LANGUAGES
    ]
    return sorted(choices, key=lambda choice: (choice[0] != "en", choice[1]))


def _written(text: str, language: str) -> str:
    # babel's own format_decimal loses the apostrophes of Swiss numbers, and digits beyond the precision of decimals
    group, point, last, others = _separators(language)
    whole, dot, fraction = text.replace(",", "").partition(".")
    rest, groups = whole[:-last], [whole[-last:]]
    while rest:
        rest, groups = rest[:-others], [rest[-others:], *groups]
    return group.join(groups) + (point + fraction if dot else "")


@cache
def _separators(language: str) -> tuple[str, str, int, int]:
    """The separators of groups and of the fraction, and the sizes of the last group and of the others."""
    locale = Locale.parse(language)
    symbols = locale.number_symbols["latn"]
    last, others = locale.decimal_formats[None].grouping
    return symbols["group"], symbols["decimal"], last, others


def _requested() -> ViewerLocale:
    # an error page does not ask the database, which may have failed
    user: Any = None if g.get("bug") else flask_login.current_user
    known = user is not None and user.is_authenticated
    name = (user.time_zone if known else None) or request.cookies.get(ZONE_COOKIE, "")
    numbers = user.number_language if known else "en"
    zone = zone_named(name) if name else None
    return ViewerLocale(zone or UTC, None if numbers == "en" else numbers)
