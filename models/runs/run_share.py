"""Links that show one run to whoever has them, without signing in, until they expire or are revoked."""

import base64
import hashlib
import hmac
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, ForeignKey, Index, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.credentials import hash_token
from models.accounts.users import User
from models.core.db import NEW_ID, NOW, Base, db, extension, now
from models.core.errors import Conflict, Invalid, NotFound
from models.orgs import Org
from models.orgs.offboarding import member_leaving
from models.runs.run import AgentRun

LIFETIMES: dict[str, timedelta | None] = {
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=30),
    "never": None,
}
MAX_LINKS = 20
"""Links of a run that work at the same time."""


class RunShare(Base):
    """A link to a run. Its token is derived from the id and the server's secret, and only its SHA-256 is stored. `with_messages`:
    prompts, answers, tool calls and the text of errors are shown too."""

    __tablename__ = "run_share"
    __table_args__ = (
        Index("idx_run_share_run", "run_id", "created_at"),
        Index("idx_run_share_created_by", "created_by"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    run_id: Mapped[str] = mapped_column(ForeignKey("agent_run.id", ondelete="CASCADE"))
    token_hash: Mapped[str] = mapped_column(unique=True)
    with_messages: Mapped[bool]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    @property
    def token(self) -> str:
        """The token in its address; with another secret of the server, one that does not work."""
        return share_token("run-share", self.id)


def share_token(kind: str, id: str) -> str:
    """The token of a link with this id, derived from the server's secret."""
    key = extension("settings").secret_key.encode()
    digest = hmac.digest(key, f"{kind}:{id}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def share_run(run: AgentRun, by: User, lifetime: str, *, with_messages: bool) -> RunShare:
    """Create a link to the run. `lifetime` is a key of `LIFETIMES`. Locks the run. Raises Invalid for an unknown lifetime, and
    Conflict when the run has 20 links that work."""
    if lifetime not in LIFETIMES:
        raise Invalid("Choose how long the link works.", fields={"lifetime": "Choose from the list"})
    db.session.execute(select(AgentRun.id).where(AgentRun.id == run.id).with_for_update(key_share=True))
    if len(shares_of(run)) >= MAX_LINKS:
        raise Conflict(f"A run has at most {MAX_LINKS} links. Revoke one first.")
    moment, span = now(), LIFETIMES[lifetime]
    share = RunShare(
        id=str(uuid.uuid4()),
        run_id=run.id,
        with_messages=with_messages,
        created_by=by.id,
        created_at=moment,
        expires_at=moment + span if span else None,
    )
    share.token_hash = hash_token(share.token)
    db.session.add(share)
    db.session.flush()
    return share


def shares_of(run: AgentRun) -> Sequence[RunShare]:
    """The links to the run that work, newest first."""
    query = select(RunShare).where(RunShare.run_id == run.id, *_works(now()))
    return db.session.scalars(query.order_by(RunShare.created_at.desc()).limit(MAX_LINKS)).all()


def revoke_share(run: AgentRun, share_id: str) -> RunShare:
    """End a link of the run, from the commit on. Raises NotFound, also for one that was revoked or expired."""
    query = (
        select(RunShare)
        .where(RunShare.run_id == run.id, RunShare.id == share_id, *_works(now()))
        .with_for_update()
    )
    share = None if "\x00" in share_id else db.session.scalar(query)
    if share is None:
        raise NotFound("There is no such link.")
    share.revoked_at = now()
    db.session.flush()
    return share


def revoke_shares_by(user_id: str, now: datetime, *, org_id: str | None = None) -> int:
    """End the links that a person made, with `org_id` to the runs of this organisation. Returns how many. Locks them; flushes."""
    query = update(RunShare).where(RunShare.created_by == user_id, *_works(now)).values(revoked_at=now)
    if org_id is not None:
        query = query.where(
            select(AgentRun.id).where(AgentRun.id == RunShare.run_id, AgentRun.org_id == org_id).exists()
        )
    query = query.execution_options(synchronize_session=False)
    return len(db.session.scalars(query.returning(RunShare.id)).all())


@member_leaving.connect
def _member_leaving(org_id: str, *, user_id: str, now: datetime) -> dict[str, Any]:
    """End the links of a leaving member; their number is for the receipt."""
    return {"totals": {"shares": revoke_shares_by(user_id, now, org_id=org_id)}, "keys": {}}


def shared_run(token: str) -> tuple[RunShare, AgentRun]:
    """The link with this token and its run. Raises NotFound for an unknown, expired or revoked one, and while the organisation whose run it is, or
    the person, or who made the link, is deleted, or suspended."""
    theirs = (User.id == RunShare.created_by) | ((User.id == AgentRun.user_id) & AgentRun.org_id.is_(None))
    gone = select(User.id).where(theirs, User.banned | User.deleted_at.is_not(None))
    query = (
        select(RunShare, AgentRun)
        .join(AgentRun, AgentRun.id == RunShare.run_id)
        .outerjoin(Org, Org.id == AgentRun.org_id)
        .where(
            RunShare.token_hash == hash_token(token),
            ~gone.exists(),
            Org.deleted_at.is_(None),
            *_works(now()),
        )
    )
    found = db.session.execute(query).one_or_none()
    if found is None:
        raise NotFound("This link does not work. It may have expired or been revoked.")
    return found[0], found[1]


def _works(moment: datetime) -> tuple[ColumnElement[bool], ...]:
    return RunShare.revoked_at.is_(None), (RunShare.expires_at.is_(None)) | (RunShare.expires_at > moment)
