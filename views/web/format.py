"""Formats numbers, money, time and tokens; registered as Jinja filters."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from math import isfinite

from flask import Flask

from models.core.db import now

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def init_app(app: Flask) -> None:
    """Register the filters under their own names."""
    for function in (
        credits,
        exact_credits,
        usd,
        cents,
        price,
        tokens,
        duration_ms,
        date,
        clock,
        moment,
        iso,
        ago,
        percent,
        number,
    ):
        app.jinja_env.filters[function.__name__] = function


def credits(value: int | float | Decimal | None) -> str:
    """Whole credits with thousands separators: `4,770`, `−40`."""
    if value is None:
        return NONE
    whole = value if isinstance(value, int) else int(Decimal(value).quantize(Decimal(1), ROUND_HALF_UP))
    return f"{MINUS if whole < 0 else ''}{abs(whole):,}"


def exact_credits(value: Decimal | None) -> str:
    """Credits with the fractions that the ledger carries over: `4,770.125`, `0.421`, `0.000012`, `0`."""
    if not value:
        return NONE if value is None else "0"
    return f"{value:,.3f}" if value >= Decimal("0.0005") else f"{value:.6f}"


def usd(value: Decimal | None) -> str:
    """Dollars: two decimals from $1, four below, six below $0.001."""
    if value is None:
        return NONE
    amount = abs(value)
    sign = MINUS if value < 0 else ""
    if amount == 0:
        return "$0"
    if amount >= 1:
        return f"{sign}${amount:,.2f}"
    digits = 4 if amount >= Decimal("0.001") else 6
    text = f"{amount:.{digits}f}"
    return f"{sign}${text}" if Decimal(text) else f"{sign}<$0.000001"


def cents(value: int, currency: str = "usd") -> str:
    """Money of a purchase: `$25.00`, `−$4.00`; other currencies than US dollars by their code."""
    sign, amount = MINUS if value < 0 else "", f"{abs(value) / 100:,.2f}"
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
    return f"${cents}{more.rstrip('0')}"


def tokens(value: int | None) -> str:
    """Token counts: `812`, `38.4k`, `38.42M`."""
    if value is None:
        return NONE
    if value < 10_000:
        return f"{value:,}"
    if value < 1_000_000:
        return f"{value / 1000:.1f}k"
    return f"{value / 1_000_000:.2f}M"


def duration_ms(value: int | float | None) -> str:
    """A duration in milliseconds: `250 ms`, `4.5 s`, `2 min`, `3.0 h`."""
    if value is None:
        return NONE
    if value < 1000:
        return f"{round(value)} ms"
    if value < 60_000:
        return f"{value / 1000:.1f} s"
    if value < 3_600_000:
        minutes, seconds = divmod(round(value / 1000), 60)
        return f"{minutes} min" if seconds == 0 or minutes >= 10 else f"{minutes} min {seconds} s"
    return f"{value / 3_600_000:.1f} h"


def date(value: datetime | None) -> str:
    """`20 Nov 2026`."""
    if value is None:
        return NONE
    day = value.astimezone(UTC)
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def clock(value: datetime | None) -> str:
    """`14:02:07 UTC`."""
    if value is None:
        return NONE
    time = value.astimezone(UTC)
    return f"{time.hour:02}:{time.minute:02}:{time.second:02} UTC"


def moment(value: datetime | None) -> str:
    """`20 Nov 2026, 14:02:07 UTC`."""
    return NONE if value is None else f"{date(value)}, {clock(value)}"


def iso(value: datetime | None) -> str | None:
    """ISO 8601, UTC, with milliseconds and `Z`: the format of all timestamps in JSON (contract section 0.1)."""
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def number(value: float | None) -> str:
    """A number with at most three decimals: `7.5`, `1,200`, `−0.125`."""
    if value is None or not isfinite(value):
        return NONE
    text = f"{abs(value):,.3f}".rstrip("0").rstrip(".")
    return f"{MINUS if value < 0 and text != '0' else ''}{text}"


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
    return NONE if value is None else f"{float(value) * 100:.1f}%"
