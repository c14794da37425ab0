"""The filters of a statement's page and CSV, parsed from the query string."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, Literal, cast, get_args

from models.core.db import midnight
from models.core.errors import Invalid

Movement = Literal["calls", "charges", "purchases", "grants", "refunds", "expiries", "debt"]
"""The kind of an entry: a call, another charge, a purchase, another grant, credits that a refund, a dispute or an
operator took back (or that a won dispute gave back), an expiry, or debt that new credits repaid."""

MOVEMENTS: tuple[Movement, ...] = get_args(Movement)
UNSPENT: Final = "unspent"
"""The filter for all movements except calls and charges."""

MAX_TEXT = 100
MAX_AMOUNT = 10**12
EARLIEST = date(2000, 1, 1)


@dataclass(frozen=True, slots=True)
class StatementFilter:
    """Which entries to show. `first` and `last` are days of `zone`, `least` is the minimum absolute amount in credits, `text`
    is a part of the cause: of a model, a description or an id."""

    movement: Movement | Literal["unspent"] | None = None
    first: date | None = None
    last: date | None = None
    least: int = 0
    text: str = ""
    zone: tzinfo = UTC

    @property
    def whole(self) -> bool:
        """Whether it includes all entries of its days."""
        return not (self.movement or self.least or self.text)

    @property
    def spends(self) -> bool:
        """Whether its entries include calls and charges, which are many rows."""
        return self.movement in (None, "calls", "charges")

    def days(self) -> tuple[datetime | None, datetime | None]:
        """The start (inclusive) and end (exclusive); None: no limit."""
        return (
            midnight(self.first, self.zone) if self.first else None,
            midnight(self.last + timedelta(days=1), self.zone) if self.last else None,
        )


def parse_filter(args: Mapping[str, str], zone: tzinfo = UTC) -> StatementFilter:
    """Read `kind`, `from`, `to` (ISO 8601, days of `zone`), `least` and `q`. Empty or missing: no limit. Raises Invalid with a
    message for each invalid field."""
    fields: dict[str, str] = {}
    movement = args.get("kind") or None
    if movement not in (None, UNSPENT, *MOVEMENTS):
        fields["kind"] = "Choose a kind of the list"
    first, last = _day(args, "from", fields), _day(args, "to", fields)
    if first and last and last < first:
        fields["to"] = f"Enter {first:%-d %b %Y} or a later day, or change the first day"
    amount = (args.get("least") or "").strip().replace(",", "")
    least = 0
    if amount:
        if amount.isascii() and amount.isdigit() and int(amount[:20]) <= MAX_AMOUNT:
            least = int(amount)
        else:
            fields["least"] = "Enter a whole number of credits"
    text = (args.get("q") or "").strip()
    if len(text) > MAX_TEXT or "\x00" in text:
        fields["q"] = f"Enter at most {MAX_TEXT} characters"
    if fields:
        raise Invalid("; ".join(fields.values()) + ".", fields=fields)
    return StatementFilter(cast(Movement | None, movement), first, last, least, text, zone)


def parse_day(text: str) -> date | None:
    """Parse a day such as 2027-01-31; None if the text is invalid."""
    try:
        day = date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        return None
    return day if day and EARLIEST <= day < date(9000, 1, 1) else None


def _day(args: Mapping[str, str], name: str, fields: dict[str, str]) -> date | None:
    text = (args.get(name) or "").strip()
    day = parse_day(text)
    if text and day is None:
        fields[name] = "Enter a day such as 2027-01-31"
    return day
