"""How much one account may write in a minute or a day: counted by the transaction that writes, exact however many do."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ForeignKey, case
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, BigInt, db, now
from models.core.errors import DomainError

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


class WriteQuota(Base):
    """What an account has written of one kind in the window that ends at `until`. Windows begin with a write."""

    __tablename__ = "write_quota"

    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    used: Mapped[int] = mapped_column(BigInt)
    until: Mapped[datetime]


@dataclass(frozen=True, slots=True)
class WriteLimit:
    """So much of one kind in one window. `things` is what people call it, `setting` what an operator raises."""

    name: str
    things: str
    limit: int
    window: timedelta
    setting: str


class WriteLimitExceeded(DomainError):
    """More than the account, or the thing it writes to, may have."""

    status = 429
    code = "quota_exceeded"

    def __init__(self, message: str, *, status: int = 429, retry_after: int | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


def take(user_id: str, *amounts: tuple[WriteLimit, int], moment: datetime | None = None) -> None:
    """Count these amounts for the account, or raise QuotaExceeded: 429 when a new window will do, 413 when not even
    an empty one would. One statement; whoever raises must not commit, and then nothing was counted.

    Holds the account's rows of these quotas, in the order of their names, until the transaction ends. They are taken
    before any lock of figures (`migrations/functions/store`).
    """
    moment = moment or now()
    asked = {quota.name: (quota, amount) for quota, amount in amounts if amount}
    for quota, amount in asked.values():
        if amount > quota.limit:
            raise WriteLimitExceeded(
                f"This is {amount:,} {quota.things} at once; an account may have {quota.limit:,} {_window(quota)}."
                f" Send it in parts, or ask the operator of this server to raise {quota.setting}.",
                status=413,
            )
    if not asked:
        return
    counted = insert(WriteQuota).values(
        [
            {"user_id": user_id, "name": name, "used": amount, "until": moment + quota.window}
            for name, (quota, amount) in sorted(asked.items())
        ]
    )
    over = WriteQuota.until <= moment
    counted = counted.on_conflict_do_update(
        index_elements=[WriteQuota.user_id, WriteQuota.name],
        set_={
            "used": case((over, counted.excluded.used), else_=WriteQuota.used + counted.excluded.used),
            "until": case((over, counted.excluded.until), else_=WriteQuota.until),
        },
    )
    rows = db.session.execute(counted.returning(WriteQuota.name, WriteQuota.used, WriteQuota.until))
    for name, used, until in rows.all():
        quota, amount = asked[name]
        if used > quota.limit:
            wait = max(1, -int((moment - until).total_seconds() // 1))
            raise WriteLimitExceeded(
                f"This account may have {quota.limit:,} {quota.things} {_window(quota)} and has had"
                f" {used - amount:,}. Try again in {_words(wait)}, or ask the operator of this server to raise"
                f" {quota.setting}.",
                retry_after=wait,
            )


def full(has: int, things: str, limit: int, mend: str, setting: str, status: int = 409) -> WriteLimitExceeded:
    """The refusal of what would be more than `limit` altogether: it says what there `has` been, and how to mend it."""
    return WriteLimitExceeded(
        f"{things}: {has:,} of {limit:,}. {mend}, or ask the operator of this server to raise {setting}.",
        status=status,
    )


def _window(quota: WriteLimit) -> str:
    return "a minute" if quota.window == MINUTE else "a day"


def _words(seconds: int) -> str:
    parts: Sequence[tuple[int, str]] = ((3600, "hour"), (60, "minute"), (1, "second"))
    size, name = next(part for part in parts if seconds >= part[0])
    number = -(-seconds // size)
    return f"{number} {name}{'s' if number != 1 else ''}"
