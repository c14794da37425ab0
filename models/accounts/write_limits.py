"""Write limits per account and minute or day. The writing transaction counts, so limits hold under concurrency."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, BigInt, db, now
from models.core.errors import DomainError

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


class WriteQuota(Base):
    """An account's count for one limit in the window that ends at `until`. A window starts with the first write."""

    __tablename__ = "write_quota"

    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    used: Mapped[int] = mapped_column(BigInt)
    until: Mapped[datetime]


# an insert of many rows would be compiled for each request
_COUNT = text("""
INSERT INTO write_quota AS q (user_id, name, used, until)
SELECT :user_id, a.name, a.used, a.until
FROM unnest(CAST(:names AS text[]), CAST(:amounts AS bigint[]), CAST(:ends AS timestamptz[])) AS a (name, used, until)
ORDER BY a.name
ON CONFLICT (user_id, name) DO UPDATE SET
    used = CASE WHEN q.until <= :moment THEN excluded.used ELSE q.used + excluded.used END,
    until = CASE WHEN q.until <= :moment THEN excluded.until ELSE q.until END
RETURNING name, used, until
""")


@dataclass(frozen=True, slots=True)
class WriteLimit:
    """A limit per account and window. Messages contain `noun`, what is counted, and `setting`, to raise it."""

    name: str
    noun: str
    limit: int
    window: timedelta
    setting: str


class WriteLimitExceeded(DomainError):
    """A write limit of the account, or of the object it writes to, is reached."""

    status = 429
    code = "quota_exceeded"

    def __init__(self, message: str, *, status: int = 429, retry_after: int | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


def consume(user_id: str, *amounts: tuple[WriteLimit, int], moment: datetime | None = None) -> None:
    """Count these amounts against the account's limits, in one statement.

    Raises WriteLimitExceeded: 429 when a new window would allow the write, 413 when an empty window would not. The
    caller must then roll back, which undoes the count. Locks the account's rows of these limits, in order of their
    names, until the transaction ends. Call it before locking statistics (`migrations/functions/store`).
    """
    moment = moment or now()
    requested = {limit.name: (limit, amount) for limit, amount in amounts if amount}
    for limit, amount in requested.values():
        if amount > limit.limit:
            raise WriteLimitExceeded(
                f"This request has {amount:,} {limit.noun}; an account is limited to {limit.limit:,}"
                f" {_window(limit)}. Split the request, or ask the operator of this server to raise {limit.setting}.",
                status=413,
            )
    if not requested:
        return
    names = sorted(requested)
    asked = {
        "user_id": user_id,
        "names": names,
        "amounts": [requested[name][1] for name in names],
        "ends": [moment + requested[name][0].window for name in names],
        "moment": moment,
    }
    rows = db.session.execute(_COUNT, asked)
    for name, used, until in rows.all():
        limit, amount = requested[name]
        if used > limit.limit:
            wait = max(1, -int((moment - until).total_seconds() // 1))
            raise WriteLimitExceeded(
                f"This account is limited to {limit.limit:,} {limit.noun} {_window(limit)} and has used"
                f" {used - amount:,}. Try again in {_duration(wait)}, or ask the operator of this server to raise"
                f" {limit.setting}.",
                retry_after=wait,
            )


def limit_reached(
    used: int, noun: str, limit: int, remedy: str, setting: str, status: int = 409
) -> WriteLimitExceeded:
    """Return the error for a total that would exceed `limit`, with how much is `used` and the `remedy`."""
    return WriteLimitExceeded(
        f"{noun}: {used:,} of {limit:,}. {remedy}, or ask the operator of this server to raise {setting}.",
        status=status,
    )


def _window(limit: WriteLimit) -> str:
    return "a minute" if limit.window == MINUTE else "a day"


def _duration(seconds: int) -> str:
    units: Sequence[tuple[int, str]] = ((3600, "hour"), (60, "minute"), (1, "second"))
    size, name = next(unit for unit in units if seconds >= unit[0])
    number = -(-seconds // size)
    return f"{number} {name}{'s' if number != 1 else ''}"
