"""Links that show a branch of a thread to whoever has them, without signing in, until they expire or are revoked."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, ForeignKey, ForeignKeyConstraint, Index, select, text, tuple_, update
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.credentials import hash_token
from models.accounts.users import User
from models.core.csv_text import csv_cell
from models.core.db import NEW_ID, NOW, Base, db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.index import IndexScope, copy_documents
from models.ledger import Account
from models.orgs import Org
from models.orgs.offboarding import member_leaving
from models.runs.run_share import LIFETIMES, share_token
from models.threads.message_content import text_of
from models.threads.message_store import MESSAGES
from models.threads.thread import Thread, ThreadMessage
from models.threads.thread_limits import count_written
from models.threads.thread_settings import create_thread
from models.threads.tree import lock, message_of, path, walk

MAX_LINKS = 20
"""Links of a thread that work at the same time."""
MAX_COPIED = 10_000
"""Messages of a copy."""
CITED = ("number", "name", "unit", "first", "last", "quote")
"""What a link shows of a citation."""


class ThreadShare(Base):
    """A link that shows a thread's messages up to `head_id`, on that branch; what is added later stays private. Its token is derived from
    the id and the server's secret, and only its SHA-256 is stored. `with_documents`: copies of what it shows have the documents that its
    messages attach. It ends when it is revoked, expires, or the thread is deleted."""

    __tablename__ = "thread_share"
    __table_args__ = (
        ForeignKeyConstraint(
            ["thread_id", "head_id"],
            ["thread_message.thread_id", "thread_message.id"],
            name="thread_share_head_fk",
            ondelete="CASCADE",
        ),
        Index("idx_thread_share_thread", "thread_id", "head_id", "created_at"),
        Index("idx_thread_share_user", "user_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    thread_id: Mapped[str] = mapped_column(ForeignKey("thread.id", ondelete="CASCADE"))
    token_hash: Mapped[str] = mapped_column(unique=True)
    head_id: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    views: Mapped[int] = mapped_column(server_default=text("0"))
    with_documents: Mapped[bool] = mapped_column(server_default=text("false"))

    @property
    def token(self) -> str:
        """The token in its address; with another secret of the server, one that does not work."""
        return share_token("thread-share", self.id)

    def works(self, moment: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > moment)


def share_thread(
    thread: Thread, lifetime: str, message_id: str | None = None, *, with_documents: bool = False
) -> ThreadShare:
    """Create a link to the branch that ends with the message; by default to what is shown now. `lifetime` is a key of `LIFETIMES`. Locks the
    thread. Raises Invalid for an unknown lifetime and an empty thread, NotFound for a message of another thread, and Conflict when the
    thread has 20 links that work."""
    if lifetime not in LIFETIMES:
        problem = f"Choose how long the link works: {', '.join(LIFETIMES)}."
        raise Invalid(problem, fields={"lifetime": problem})
    thread = lock(thread)
    head_id = message_of(thread, message_id).id if message_id is not None else thread.head_id
    if head_id is None:
        raise Invalid("An empty thread cannot be shared.")
    moment, span = now(), LIFETIMES[lifetime]
    if len(shares_of(thread)) >= MAX_LINKS:
        raise Conflict(f"A thread has at most {MAX_LINKS} links. Revoke one first.")
    share = ThreadShare(
        id=str(uuid.uuid4()),
        thread_id=thread.id,
        head_id=head_id,
        user_id=thread.user_id,
        created_at=moment,
        expires_at=moment + span if span else None,
        views=0,
        with_documents=with_documents,
    )
    share.token_hash = hash_token(share.token)
    db.session.add(share)
    db.session.flush()
    return share


def shares_of(thread: Thread) -> Sequence[ThreadShare]:
    """The links to the thread that work, newest first."""
    query = select(ThreadShare).where(ThreadShare.thread_id == thread.id, *_works(now()))
    return db.session.scalars(query.order_by(ThreadShare.created_at.desc()).limit(MAX_LINKS)).all()


def own_shares(
    user_id: str, account_id: str, before: tuple[datetime, str] | None, limit: int
) -> list[tuple[ThreadShare, Thread]]:
    """A page of the person's links to threads of the account, those that work no longer included, newest first, each with its thread."""
    query = (
        select(ThreadShare, Thread)
        .join(Thread, Thread.id == ThreadShare.thread_id)
        .where(ThreadShare.user_id == user_id, Thread.account_id == account_id, Thread.deleted_at.is_(None))
    )
    if before:
        query = query.where(tuple_(ThreadShare.created_at, ThreadShare.id) < tuple_(*before))
    query = query.order_by(ThreadShare.created_at.desc(), ThreadShare.id.desc()).limit(limit)
    return [(row[0], row[1]) for row in db.session.execute(query)]


def revoke_thread_share(thread: Thread, share_id: str) -> ThreadShare:
    """End a link of the thread, from the commit on. Raises NotFound, also for one that was revoked or expired."""
    query = select(ThreadShare).where(
        ThreadShare.thread_id == thread.id, ThreadShare.id == share_id, *_works(now())
    )
    share = None if "\x00" in share_id else db.session.scalar(query.with_for_update())
    if share is None:
        raise NotFound("There is no such link.")
    share.revoked_at = now()
    db.session.flush()
    return share


def shared_thread(token: str, *, count: bool = False) -> tuple[ThreadShare, Thread]:
    """The link with this token and its thread; `count` it as a view. Raises NotFound for an unknown, expired or revoked one, when the thread is
    deleted, and while its owner, or the organisation that pays for it, is deleted, or the owner is suspended."""
    query = (
        select(ThreadShare, Thread)
        .join(Thread, Thread.id == ThreadShare.thread_id)
        .join(User, User.id == Thread.user_id)
        .outerjoin(Org, Org.id == Thread.account_id)
        .where(
            ThreadShare.token_hash == hash_token(token),
            Thread.deleted_at.is_(None),
            User.banned.is_(False),
            User.deleted_at.is_(None),
            Org.deleted_at.is_(None),
            *_works(now()),
        )
    )
    found = db.session.execute(query).one_or_none()
    if found is None:
        raise NotFound("This link does not work. It may have expired or been revoked.")
    share, thread = found
    if count:
        seen = update(ThreadShare).where(ThreadShare.id == share.id).values(views=ThreadShare.views + 1)
        db.session.execute(seen, execution_options={"synchronize_session": False})
    return share, thread


def shared_page(
    share: ThreadShare, thread: Thread, *, before: str | None = None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of what the link shows, newest first, as `shared_message` gives it, and the `before` of the next page. Raises NotFound for a
    `before` that the link does not show."""
    if before is not None:
        seq = message_of(thread, before).seq
        shown_from = MESSAGES.read_page(thread, share.head_id, after=seq - 1, limit=1)
        if [message.id for message in shown_from] != [before]:
            raise NotFound("There is no such message in this thread.")
    found = path(thread, share.head_id, before=before, limit=limit + 1)
    page = found[:limit]
    shown = [shared_message(message) for message in page]
    return [each for each in shown if each], page[-1].id if len(found) > limit else None


def shared_message(message: ThreadMessage) -> dict[str, Any] | None:
    """What a link shows of a message: texts and pictures, the names of files and tools, quotes of citations. Not what it cost, nor the system's
    texts, reasoning, or what tools were asked and found, which may be the text of documents. None if nothing is left."""
    parts = [_shared_part(part) for part in message.content if part["type"] != "reasoning"]
    tools = [str(call.get("function", {}).get("name", "")) for call in message.tool_calls or ()]
    if message.role not in ("user", "assistant") or not (parts or tools):
        return None
    return {
        "id": message.id,
        "role": message.role,
        "state": message.state,
        "content": parts,
        "tools": tools,
        "model": message.model,
        "citations": [
            {key: cited.get(key) for key in CITED} for cited in message.citations or () if cited.get("valid")
        ],
        "created_at": csv_cell(message.created_at),
    }


def copy_shared(token: str, user_id: str, account: Account) -> Thread:
    """A thread of the person with what the link shows, to go on with: its branch only, without what tools did, and with the documents if the
    link gives them. Locks the account; flushes. Raises NotFound as `shared_thread`, Conflict for more than 10,000 messages, DocumentsFull
    and WriteLimitExceeded."""
    share, thread = shared_thread(token)
    shown = [
        message for message in islice(walk(thread, share.head_id), MAX_COPIED + 1) if shared_message(message)
    ]
    if len(shown) > MAX_COPIED:
        raise Conflict(f"A thread of more than {MAX_COPIED:,} messages cannot be copied.", code="too_long")
    copy = create_thread(user_id, account, name=thread.name, model=thread.model)
    documents = _copied_documents(thread, copy, shown) if share.with_documents else {}
    copies: list[ThreadMessage] = []
    for message in shown:
        if parts := _copied_parts(message, documents):
            copies.append(_copy(copy, message, parts, copies[-1] if copies else None))
    count_written(user_id, messages=len(copies), size=sum(len(each.text) for each in copies))
    MESSAGES.append(*copies)
    if copies:
        copy.last_seq, copy.head_id = copies[-1].seq, copies[-1].id
    db.session.flush()
    return copy


def revoke_thread_shares(user_id: str, moment: datetime, *, account_id: str) -> int:
    """End the person's links to threads of the account. Returns how many. Locks them; flushes."""
    threads = select(Thread.id).where(Thread.user_id == user_id, Thread.account_id == account_id)
    query = update(ThreadShare).where(ThreadShare.thread_id.in_(threads), *_works(moment))
    query = query.values(revoked_at=moment).execution_options(synchronize_session=False)
    return len(db.session.scalars(query.returning(ThreadShare.id)).all())


@member_leaving.connect
def _member_leaving(org_id: str, *, user_id: str, now: datetime) -> dict[str, Any]:
    """End the links of a leaving member."""
    revoke_thread_shares(user_id, now, account_id=org_id)
    return {"totals": {}, "keys": {}}


def _copied_documents(thread: Thread, copy: Thread, shown: Sequence[ThreadMessage]) -> dict[str, str]:
    """Copies of the documents that the messages attach: the new id of each old one."""
    attached = {
        part["document_id"] for message in shown for part in message.content if part["type"] == "file"
    }
    scope = IndexScope(thread.account_id, "thread", thread.id)
    return copy_documents(scope, IndexScope(copy.account_id, "thread", copy.id), copy.user_id, only=attached)


def _copied_parts(message: ThreadMessage, documents: Mapping[str, str]) -> list[dict[str, Any]]:
    parts = []
    for part in message.content:
        if part["type"] in ("text", "image_url"):
            parts.append(part)
        elif part["type"] == "file" and part["document_id"] in documents:
            parts.append({**part, "document_id": documents[part["document_id"]]})
    return parts


def _copy(
    copy: Thread, message: ThreadMessage, parts: list[dict[str, Any]], last: ThreadMessage | None
) -> ThreadMessage:
    """The copy of a message, below the last one."""
    id = f"msg_{uuid.uuid4()}"
    return ThreadMessage(
        id=id,
        thread_id=copy.id,
        user_id=copy.user_id,
        seq=last.seq + 1 if last else 1,
        parent_id=last and last.id,
        branch_id=last.branch_id if last else id,
        role=message.role,
        state="incomplete" if message.state == "in_progress" else message.state,
        content=parts,
        text=text_of(parts),
        model=message.model,
        created_at=message.created_at,
        completed_at=message.completed_at,
    )


def _shared_part(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "file", "name": part["name"]} if part["type"] == "file" else part


def _works(moment: datetime) -> tuple[ColumnElement[bool], ...]:
    return ThreadShare.revoked_at.is_(None), (ThreadShare.expires_at.is_(None)) | (
        ThreadShare.expires_at > moment
    )
