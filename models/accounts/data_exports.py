"""Exports of a user's data: requested on the profile, made by a job, stored as a ZIP file for a week."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import CheckConstraint, ForeignKey, Index, select, text, update
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.credentials import lock_browser
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core import jobs
from models.core.db import NEW_ID, NOW, Base, BigInt, db
from models.core.errors import Conflict, NotFound
from models.core.files import Files

KEPT = timedelta(days=7)
MOST_ATTEMPTS = 5
STUCK_AFTER = timedelta(hours=6)
"""Without progress for so long, an export has failed: its job is gone."""
FOLDER = "exports"
OPEN = "(state = ANY (ARRAY['requested'::text, 'running'::text]))"


class DataExport(Base):
    """One export. `step` of `steps` files are written, as `bytes` in `parts` objects of the file storage; `attempts` counts the
    attempts to make it. An export that another one replaced has expired."""

    __tablename__ = "data_export"
    __table_args__ = (
        CheckConstraint(
            "(state = ANY (ARRAY['requested'::text, 'running'::text, 'ready'::text, 'failed'::text, 'expired'::text]))",
            name="state_known",
        ),
        Index("idx_data_export_open", "user_id", unique=True, postgresql_where=text(OPEN)),
        Index("idx_data_export_user", "user_id", "created_at"),
        Index(
            "idx_data_export_due",
            "expires_at",
            postgresql_where=text("(state = 'ready'::text)"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(server_default=text("'requested'::text"))
    step: Mapped[int] = mapped_column(server_default=text("0"))
    steps: Mapped[int] = mapped_column(server_default=text("0"))
    bytes: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    parts: Mapped[int] = mapped_column(server_default=text("0"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]

    @property
    def is_open(self) -> bool:
        """Whether it is being made, or will be."""
        return self.state in ("requested", "running")

    def part(self, number: int) -> str:
        """The path of a part in the file storage."""
        return part_path(self.id, number)


@dataclass(frozen=True)
class ExportTask:
    """An attempt to make an export."""

    id: str
    user_id: str
    attempt: int


def part_path(id: str, number: int) -> str:
    """The path of a part of an export in the file storage."""
    return f"{FOLDER}/{id}/{number:06}"


def request_export(user: User, *, by: Session, now: datetime) -> DataExport:
    """Request an export, and enqueue its job. An earlier one is no longer offered. Flushes.

    Locks the user's row. Raises Conflict while one is being made, and Forbidden (`lock_browser`).
    """
    lock_browser(by)
    db.session.execute(select(User.id).where(User.id == user.id).with_for_update())
    latest = latest_export(user)
    if latest is not None and latest.is_open:
        raise Conflict("An export is being made. You can request another when it is ready.")
    if latest is not None and latest.state == "ready":
        latest.state = "expired"
    row = DataExport(user_id=user.id, created_at=now, updated_at=now)
    db.session.add(row)
    db.session.flush()
    jobs.enqueue(jobs.make_data_export, export_id=row.id)
    return row


def latest_export(user: User) -> DataExport | None:
    """The user's latest export, or None."""
    query = select(DataExport).where(DataExport.user_id == user.id)
    return db.session.scalars(query.order_by(DataExport.created_at.desc()).limit(1)).one_or_none()


def own_export(user: User, id: str, now: datetime) -> DataExport:
    """The user's export with this id, ready and not expired. Raises NotFound for any other."""
    query = select(DataExport).where(
        DataExport.id == id,
        DataExport.user_id == user.id,
        DataExport.state == "ready",
        DataExport.expires_at > now,
    )
    row = None if "\x00" in id else db.session.scalars(query).one_or_none()
    if row is None:
        raise NotFound("This export does not exist, or has expired. Request another on your profile.")
    return row


def content(export: DataExport, files: Files) -> Iterator[bytes]:
    """The bytes of the ZIP file, in parts of a few megabytes. Raises NotFound at once if the first part is gone."""
    paths = [export.part(number) for number in range(export.parts)]
    first = files.read(paths[0])
    if first is None:
        raise NotFound("The file of this export is gone. Request another on your profile.")

    def parts() -> Iterator[bytes]:
        yield first
        for path in paths[1:]:
            part = files.read(path)
            if part is None:
                raise FileNotFoundError(path)  # the length shows the client that something is missing
            yield part

    return parts()


# -- the job -------------------------------------------------------------------------------------------------


def begin(id: str, steps: int, now: datetime) -> ExportTask | None:
    """Begin an attempt to make the export, from its start; None if it is finished, deleted, or was tried too often. Flushes."""
    row = db.session.scalars(select(DataExport).where(DataExport.id == id).with_for_update()).one_or_none()
    if row is None or not row.is_open:
        return None
    if row.attempts >= MOST_ATTEMPTS:
        row.state, row.finished_at = "failed", now
        return None
    row.state, row.step, row.steps, row.bytes = "running", 0, steps, 0
    row.attempts, row.updated_at = row.attempts + 1, now
    db.session.flush()
    return ExportTask(row.id, row.user_id, row.attempts)


def note_progress(task: ExportTask, step: int, size: int, now: datetime) -> bool:
    """Store how far an attempt is; False if it is no longer wanted: the user is deleted, or another attempt has begun."""
    return _update(task, step=step, bytes=size, updated_at=now)


def finish(task: ExportTask, *, parts: int, size: int, now: datetime) -> bool:
    """Offer the finished file for a week; False if it is no longer wanted."""
    values = {"state": "ready", "parts": parts, "bytes": size, "finished_at": now, "updated_at": now}
    return _update(task, **values, step=DataExport.steps, expires_at=now + KEPT)


def give_up(task: ExportTask, now: datetime) -> bool:
    """Let the export fail after its last attempt; False if there will be another."""
    return task.attempt >= MOST_ATTEMPTS and _update(task, state="failed", finished_at=now, updated_at=now)


def _update(task: ExportTask, **values: object) -> bool:
    mine = (
        DataExport.id == task.id,
        DataExport.state == "running",
        DataExport.attempts == task.attempt,
    )
    changed = update(DataExport).where(*mine).values(values).returning(DataExport.id)
    return db.session.execute(changed.execution_options(synchronize_session=False)).first() is not None


def expire_exports(now: datetime) -> None:
    """End exports that were ready for a week, and those whose job is gone. Idempotent."""
    due = update(DataExport).where(DataExport.state == "ready", DataExport.expires_at <= now)
    stuck = update(DataExport).where(text(OPEN), DataExport.updated_at < now - STUCK_AFTER)
    for statement, state in ((due, "expired"), (stuck, "failed")):
        db.session.execute(statement.values(state=state).execution_options(synchronize_session=False))


def unwanted_files(stored: dict[str, datetime], now: datetime) -> list[str]:
    """Which of the stored files (name in the folder, last write) belong to no export that is ready or being made."""
    ids = {name.partition("/")[0] for name in stored}
    wanted = select(DataExport.id).where(
        DataExport.id.in_(ids), DataExport.state.in_(("requested", "running", "ready"))
    )
    found = set(db.session.scalars(wanted))
    return [name for name in stored if name.partition("/")[0] not in found]
