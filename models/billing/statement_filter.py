"""The filters of a statement, as its page and its CSV take them from a query string."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, cast, get_args

from models.core.errors import Invalid

Movement = Literal["calls", "charges", "purchases", "grants", "refunds", "expiries", "debt"]
"""What an entry is: a call, another charge, a purchase, another grant, credits that a refund, a dispute or an operator
took back (or that a dispute gave back), an expiry, or debt that new credits repaid."""

MOVEMENTS: tuple[Movement, ...] = get_args(Movement)
UNSPENT: Final = "unspent"
"""The filter for all movements but calls and charges."""

MAX_TEXT = 100
MAX_AMOUNT = 10**12
EARLIEST = date(2000, 1, 1)


@dataclass(frozen=True, slots=True)
class StatementFilter:
    """Which entries to show. `first` and `last` are UTC days, `least` is the smallest amount in credits, in or out, `text` is
    part of a cause: a model, a description or an id."""

    movement: Movement | Literal["unspent"] | None = None
    first: date | None = None
    last: date | None = None
    least: int = 0
    text: str = ""

    @property
    def whole(self) -> bool:
        """Whether it leaves out no entry between its days."""
        return not (self.movement or self.least or self.text)

    @property
    def spends(self) -> bool:
        """Whether calls and charges are among its entries: many rows."""
        return self.movement in (None, "calls", "charges")

    def days(self) -> tuple[datetime | None, datetime | None]:
        """The first moment, and the first moment after the last; None: no limit."""
        return (
            midnight(self.first) if self.first else None,
            midnight(self.last) + timedelta(days=1) if self.last else None,
        )


def parse_filter(args: Mapping[str, str]) -> StatementFilter:
    """Read `kind`, `from`, `to` (ISO 8601, UTC days), `least` and `q`. Empty or missing: no limit. Raises Invalid with a
    message for each wrong field."""
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
    words = (args.get("q") or "").strip()
    if len(words) > MAX_TEXT or "\x00" in words:
        fields["q"] = f"Enter at most {MAX_TEXT} characters"
    if fields:
        raise Invalid("; ".join(fields.values()) + ".", fields=fields)
    return StatementFilter(cast(Movement | None, movement), first, last, least, words)


def parse_day(text: str) -> date | None:
    """A day such as 2027-01-31, or None for anything else."""
    try:
        day = date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        return None
    return day if day and EARLIEST <= day < date(9000, 1, 1) else None


def midnight(day: date) -> datetime:
    """The start of a UTC day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _day(args: Mapping[str, str], name: str, fields: dict[str, str]) -> date | None:
    text = (args.get(name) or "").strip()
    day = parse_day(text)
    if text and day is None:
        fields[name] = "Enter a day such as 2027-01-31"
    return day
