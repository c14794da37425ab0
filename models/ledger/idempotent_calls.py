"""Claims of idempotency keys: a call and its retries are charged once, and the retries get the stored answer.

The key is claimed in the statement that admits the call, the answer is stored in the one that settles it. A call whose key
has been taken over by a retry is not charged (`idempotent_settle`).
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, LargeBinary, UniqueConstraint, delete, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, db

PRUNED_AT_ONCE = 2_000
UNSETTLED_KEPT_FOR = timedelta(days=30)
"""How long a claim waits for a call that no ledger has settled, in case its usage is still on some machine's disk."""

ClaimState = Literal["claimed", "unknown", "mismatch", "in_flight", "stored", "not_kept"]
"""As `idempotent_claim` returns it."""


class IdempotentCall(Base):
    """The call that has an idempotency key. Of one in flight `expires_at` is renewed with its hold; a settled one keeps its key and
    answer for 24 hours. `org_id` is the organisation of the API key; its rows are gone long before an organisation is erased."""

    __tablename__ = "idempotent_call"
    __table_args__ = (
        UniqueConstraint(
            "user_id", "org_id", "key_hash", name="idempotent_call_once", postgresql_nulls_not_distinct=True
        ),
        Index("idx_idempotent_call_expiry", "expires_at"),
    )

    request_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    org_id: Mapped[str | None]
    key_hash: Mapped[str]
    fingerprint: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]
    status: Mapped[int | None]
    content_type: Mapped[str | None]
    headers: Mapped[dict[str, str] | None] = mapped_column(JSONB)
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Compressed by zlib; null if it was too large."""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What a caller claims: an idempotency key for one request. Both are SHA-256 in hexadecimal."""

    key_hash: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as sent to the client. `body` is compressed by zlib; None if it was too large to store."""

    status: int
    content_type: str
    headers: Mapping[str, str]
    body: bytes | None = field(repr=False)

    def facts(self) -> dict[str, Any]:
        """As `idempotent_settle` reads it."""
        encoded = None if self.body is None else base64.b64encode(self.body).decode()
        return {
            "status": self.status,
            "content_type": self.content_type,
            "headers": dict(self.headers),
            "answer": encoded,
        }


@dataclass(frozen=True, slots=True)
class Claim:
    """The outcome of a claim. Unless it is `claimed`, `request_id` and `created_at` are those of the call that has the key, and
    `answer` its answer if the state is `stored`."""

    state: ClaimState
    request_id: str | None = None
    created_at: datetime | None = None
    answer: StoredAnswer | None = None


def read_claim(row: Sequence[Any]) -> Claim:
    """The claim in a row of `idempotent_claim`."""
    state, request_id, created_at, status, content_type, headers, body = row
    answer = StoredAnswer(status, content_type, headers or {}, body) if state == "stored" else None
    return Claim(state, request_id, created_at, answer)


def prune_idempotent_calls(now: datetime, limit: int = PRUNED_AT_ONCE) -> int:
    """Delete expired claims and their answers, up to `limit`. Returns how many. One statement; idempotent. Flushes."""
    expired = IdempotentCall.expires_at <= now
    forgotten = IdempotentCall.expires_at <= now - UNSETTLED_KEPT_FOR
    old = select(IdempotentCall.request_id).where(
        expired, or_(IdempotentCall.settled_at.is_not(None), forgotten)
    )
    done: Any = db.session.execute(
        delete(IdempotentCall)
        .where(IdempotentCall.request_id.in_(old.order_by(IdempotentCall.expires_at).limit(limit)))
        .execution_options(synchronize_session=False)
    )
    return int(done.rowcount)
