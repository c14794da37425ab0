"""Formats numbers, money, time and tokens for the viewer (views/web/viewer_locale.py); registered as Jinja filters."""

from datetime import UTC, datetime
from datetime import date as calendar_date
from decimal import ROUND_HALF_UP, Decimal
from math import isfinite

from flask import Flask

from models.core.db import now
from views.web.viewer_locale import local_number, viewer_zone

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def init_app(app: Flask) -> None:
    """Register the filters under their own names, and `page_zone()`, the name of the viewer's time zone."""
    for function in (
        credits,
        exact_credits,
        usd,
        cents,
        price,
        number,
        tokens,
        duration_ms,
        day,
        short_day,
        long_day,
        month,
        date,
        clock,
        minute,
        moment,
        zone_label,
        iso,
        ago,
        percent,
    ):
        app.jinja_env.filters[function.__name__] = function
    app.jinja_env.globals["page_zone"] = lambda: str(viewer_zone())


def credits(value: int | float | Decimal | None) -> str:
    """Whole credits with thousands separators: `4,770`, `−40`."""
    if value is None:
        return NONE
    whole = value if isinstance(value, int) else int(Decimal(value).quantize(Decimal(1), ROUND_HALF_UP))
    return f"{MINUS if whole < 0 else ''}{local_number(f'{abs(whole):,}')}"


def number(value: int | float | Decimal | None, decimals: int | None = None) -> str:
    """A number with thousands separators: `4,770`, `−0.5`; with this many decimals, else all that an integer or Decimal has, or at
    most three of a float: `7.5`."""
    if value is None or not isfinite(value):
        return NONE
    text = f"{value:,}" if decimals is None else f"{value:,.{decimals}f}"
    if decimals is None and isinstance(value, float):
        text = f"{value:,.3f}".rstrip("0").rstrip(".")
    digits = text.lstrip("-")
    return f"{MINUS if text != digits and digits != '0' else ''}{local_number(digits)}"


def exact_credits(value: Decimal | None) -> str:
    """Credits with the fractions that the ledger carries over: `4,770.125`, `0.421`, `0.000012`, `0`."""
    if not value:
        return NONE if value is None else "0"
    return local_number(f"{value:,.3f}" if value >= Decimal("0.0005") else f"{value:.6f}")


def usd(value: Decimal | None) -> str:
    """Dollars: two decimals from $1, four below, six below $0.001."""
    if value is None:
        return NONE
    amount = abs(value)
    sign = MINUS if value < 0 else ""
    if amount == 0:
        return "$0"
    if amount >= 1:
        return f"{sign}${local_number(f'{amount:,.2f}')}"
    digits = 4 if amount >= Decimal("0.001") else 6
    text = f"{amount:.{digits}f}"
    return f"{sign}${local_number(text)}" if Decimal(text) else f"{sign}<${local_number('0.000001')}"


def cents(value: int, currency: str = "usd") -> str:
    """Money of a purchase: `$25.00`, `−$4.00`; other currencies than US dollars by their code."""
    sign, amount = MINUS if value < 0 else "", local_number(f"{Decimal(abs(value)) / 100:,.2f}")
    return f"{sign}${amount}" if currency == "usd" else f"{sign}{amount} {currency.upper()}"


def price(value: Decimal | float | None) -> str:
    """Dollars in the store: cents, or two significant digits below ten cents: `$3.69`, `$0.74`, `$0.0096`."""
    if value is None:
        return NONE
    amount = Decimal(value)
    if not amount:
        return "$0"
    text = f"{amount:,.{max(2, 1 - amount.adjusted())}f}"
    cents, more = text[: text.index(".") + 3], text[text.index(".") + 3 :]
    return f"${local_number(cents + more.rstrip('0'))}"


def trimmed(value: Decimal, decimals: int) -> str:
    """A number with up to this many decimals: `316.5`, `0.0791`, `4,770`."""
    text = f"{value:,.{decimals}f}"
    return local_number(text.rstrip("0").rstrip(".") if decimals else text)


def as_entered(value: int | Decimal) -> str:
    """A number as a field takes it, whatever the viewer's language: `4,770`."""
    return f"{value:,}"


def tokens(value: int | None) -> str:
    """Token counts: `812`, `38.4k`, `38.42M`."""
    if value is None:
        return NONE
    if value < 10_000:
        return local_number(f"{value:,}")
    if value < 1_000_000:
        return f"{local_number(f'{value / 1000:.1f}')}k"
    return f"{local_number(f'{value / 1_000_000:,.2f}')}M"


def duration_ms(value: int | float | None) -> str:
    """A duration in milliseconds: `250 ms`, `4.5 s`, `2 min`, `3.0 h`."""
    if value is None:
        return NONE
    if value < 1000:
        return f"{round(value)} ms"
    if value < 60_000:
        return f"{local_number(f'{value / 1000:.1f}')} s"
    if value < 3_600_000:
        minutes, seconds = divmod(round(value / 1000), 60)
        return f"{minutes} min" if seconds == 0 or minutes >= 10 else f"{minutes} min {seconds} s"
    return f"{local_number(f'{value / 3_600_000:,.1f}')} h"


def day(value: calendar_date) -> str:
    """A calendar day as it is, in no time zone: `20 Nov 2026`."""
    return f"{value.day} {MONTHS[value.month - 1]} {value.year}"


def short_day(value: calendar_date) -> str:
    """A calendar day without its year: `20 Nov`."""
    return f"{value.day} {MONTHS[value.month - 1]}"


def long_day(value: calendar_date) -> str:
    """A calendar day with its weekday: `Fri 20 Nov`."""
    return f"{DAYS[value.weekday()]} {short_day(value)}"


def month(value: calendar_date) -> str:
    """`November 2026`."""
    return f"{value:%B %Y}"


def date(value: datetime | None) -> str:
    """The day of a time in the viewer's zone: `20 Nov 2026`."""
    return NONE if value is None else day(value.astimezone(viewer_zone()))


def clock(value: datetime | None) -> str:
    """A time in the viewer's zone, to the second: `14:02:07 UTC`, `15:02:07 CET`."""
    return NONE if value is None else _clock(value, "%H:%M:%S")


def minute(value: datetime | None) -> str:
    """A time in the viewer's zone, to the minute: `20 Nov, 14:02 UTC`."""
    return (
        NONE if value is None else f"{short_day(value.astimezone(viewer_zone()))}, {_clock(value, '%H:%M')}"
    )


def moment(value: datetime | None) -> str:
    """`20 Nov 2026, 14:02:07 UTC`, in the viewer's zone."""
    return NONE if value is None else f"{date(value)}, {clock(value)}"


def _clock(value: datetime, pattern: str) -> str:
    local = value.astimezone(viewer_zone())
    return f"{local:{pattern}} {zone_label(local)}"


def zone_label(value: datetime) -> str:
    """The abbreviation of a time's zone: `UTC`, `CEST`; `UTC+05:45` where there is none."""
    label = value.tzname() or "UTC"
    if label[0] not in "+-":
        return label
    return f"UTC{label[:3]}:{label[3:]}" if len(label) == 5 else f"UTC{label}"


def iso(value: datetime | None) -> str | None:
    """ISO 8601, UTC, with milliseconds and `Z`: the format of all timestamps in JSON (contract section 0.1)."""
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(value: datetime | None) -> str:
    """`just now`, `5 min ago`, `3 hours ago`, `2 days ago`; a date after a month; `in …` for the future."""
    if value is None:
        return NONE
    seconds = (now() - value).total_seconds()
    past = seconds >= 0
    span = abs(seconds)
    if span < 45:
        return "just now" if past else "in a moment"
    if span >= 31 * 86_400:
        return date(value)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "min")):
        if span >= size or unit == "min":
            count = max(1, int(span // size))
            plural = "s" if count != 1 and unit != "min" else ""
            return f"{count} {unit}{plural} ago" if past else f"in {count} {unit}{plural}"
    raise AssertionError("unreachable")


def percent(value: float | Decimal | None) -> str:
    """A fraction as a percentage: `98.6%`."""
    return NONE if value is None else f"{local_number(f'{float(value) * 100:,.1f}')}%"
