"""Who asked for a device code, for the page that approves it, and whether the code was refused there."""

import re
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, db

RETENTION = timedelta(days=1)
CLIENT_LENGTH = 60
HEX = re.compile(r"[0-9a-f]{64}")


class DeviceRequest(Base):
    """A device code that was issued; `hash` is the code's. Deleted a day later."""

    __tablename__ = "device_request"

    hash: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW, index=True)
    address: Mapped[str | None]
    client: Mapped[str | None]
    """The program and its version, as it says itself."""
    refused_at: Mapped[datetime | None]


def client_of(user_agent: str) -> str | None:
    """The program that a User-Agent names first, such as `stoa.mjs 0.1.0`; None for a browser or an unprintable name."""
    product = user_agent.split(" ", 1)[0][:CLIENT_LENGTH]
    if not product or product.startswith("Mozilla/") or not (product.isascii() and product.isprintable()):
        return None
    return product.replace("/", " ", 1)


def remember(hash: str, now: datetime, *, address: str | None, client: str | None) -> None:
    """Store who asked for this code. Idempotent."""
    row = insert(DeviceRequest).values(hash=hash, created_at=now, address=address, client=client)
    db.session.execute(row.on_conflict_do_nothing())


def find(hash: str) -> DeviceRequest | None:
    """The request of a code, or None, also for a code issued by an older version of Stoa."""
    return db.session.get(DeviceRequest, hash) if HEX.fullmatch(hash) else None


def lock(hash: str, now: datetime) -> DeviceRequest:
    """Lock the request of a code until the end of the transaction; create it if missing."""
    remember(hash, now, address=None, client=None)
    query = select(DeviceRequest).where(DeviceRequest.hash == hash).with_for_update()
    return db.session.scalars(query.execution_options(populate_existing=True)).one()


def delete_old(now: datetime) -> None:
    """Delete requests made over a day ago. Idempotent."""
    db.session.execute(delete(DeviceRequest).where(DeviceRequest.created_at < now - RETENTION))
