"""Downloads of versions, counted once per visitor and UTC day. Visitors are stored as a keyed hash of that day, for two days."""

import hashlib
import hmac
from datetime import date, datetime, timedelta

from sqlalchemy import delete, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, db
from models.store.tables import AgentVersion

_COUNT = text(
    """
    WITH first AS (
        INSERT INTO agent_download (publisher_id, agent_id, version, day, visitor)
        VALUES (:publisher, :agent, :version, :day, :visitor) ON CONFLICT DO NOTHING RETURNING day
    )
    UPDATE agent_version SET downloads = downloads + 1
    WHERE publisher_id = :publisher AND agent_id = :agent AND version = :version AND EXISTS (SELECT FROM first)
    """
)


class AgentDownload(Base):
    """A visitor who downloaded a version on a day."""

    __tablename__ = "agent_download"

    publisher_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    visitor: Mapped[bytes] = mapped_column(primary_key=True)


def count(version: AgentVersion, visitor: str, secret: str, today: date) -> None:
    """Count a download by `visitor`, an account or address, unless it was counted today (UTC). Locks the version's row."""
    hashed = hmac.digest(secret.encode(), f"download {today} {visitor}".encode(), hashlib.sha256)[:16]
    key = {"publisher": version.publisher_id, "agent": version.agent_id, "version": version.version}
    db.session.execute(_COUNT, key | {"day": today, "visitor": hashed})


def forget(now: datetime) -> None:
    """Delete the visitors of the days before yesterday. Idempotent."""
    db.session.execute(delete(AgentDownload).where(AgentDownload.day < now.date() - timedelta(days=1)))
