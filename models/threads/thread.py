"""Tables of threads, their messages and their share links (crafely contract, section 5)."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt

ROLES = ("user", "assistant", "system", "tool")
OWNER_TERM = " "
"""What begins the term of the owner: no word of a text begins with a space."""
MESSAGE_STATES = ("in_progress", "completed", "incomplete")
PROJECT_KIND = "project"
"""The kind of threads that belong to a project (`models/conversations`): they are no one's own list, and have routes of their own."""


class Thread(Base):
    """A conversation of one person, `user_id`; `account_id` pays for its turns: the person's own account or an organisation's.

    Its messages are a tree: `head_id` is the newest message of the branch that is shown, `last_seq` the number of the newest message. `storage_id` is an
    id of the client's own choice, unique in the account, or the id in an outside store. `kind` is the door that made it: `thread`, `conversation`, `assistants` or `project`. `budget` is the most that its turns may spend in total, in credits,
    `spent` what those that ended did spend and `reserved` what the active ones have taken from it. Its row lock is the lock of its tree.
    """

    __tablename__ = "thread"
    __table_args__ = (
        CheckConstraint("((budget IS NULL) OR (budget >= 0))", name="budget_not_negative"),
        CheckConstraint("((spent >= 0) AND (reserved >= 0))", name="spent_not_negative"),
        Index("idx_thread_user", "user_id", "account_id", "active_at", "id"),
        Index("idx_thread_assistant", "assistant_id", "active_at"),
        Index("idx_thread_account", "account_id"),
        Index("idx_thread_deleted", "deleted_at", postgresql_where=text("(deleted_at IS NOT NULL)")),
        Index(
            "idx_thread_storage",
            "account_id",
            "storage_id",
            unique=True,
            postgresql_where=text("(storage_id IS NOT NULL)"),
        ),
    )

    id: Mapped[str] = mapped_column(
        primary_key=True, server_default=text("('thrd_'::text || gen_random_uuid())")
    )
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(server_default=text("'thread'::text"))
    name: Mapped[str]
    instructions: Mapped[str | None]
    model: Mapped[str | None]
    assistant_id: Mapped[str | None] = mapped_column(ForeignKey("assistant.id", ondelete="SET NULL"))
    storage_id: Mapped[str | None]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=text("'{}'::jsonb"))
    head_id: Mapped[str | None]
    last_seq: Mapped[int] = mapped_column(server_default=text("0"))
    budget: Mapped[int | None] = mapped_column(BigInt)
    spent: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    reserved: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    active_at: Mapped[datetime] = mapped_column(server_default=NOW)
    deleted_at: Mapped[datetime | None]


class ThreadMessage(Base):
    """A message. `seq` numbers the messages of the thread from 1 without gaps, in the order in which they were added; `parent_id` is the
    message that it answers or follows. `branch_id` is the first message of its branch: its parent's, unless it is a sibling that was
    added later, which begins a branch of its own. `user_id` is the thread's.

    `content` is a list of parts: `{"type": "text", "text"}`, `{"type": "image_url", …}`, `{"type": "file", "document_id", "name"}`,
    `{"type": "reasoning", "text"}`. `tool_calls` are those of chat completions, `tool_call_id` is the call that a `tool` message answers. `turn_id` is the turn that wrote it,
    `message_id` the billed call (`message.id`) and `credits` its charge. `citations` are checked: each names a chunk, and the words quoted from it.
    `item` is the item of OpenAI's Conversations API that it is, with all fields. `removed_at`: it was removed, its content is gone, and
    branches are read without it.
    """

    __tablename__ = "thread_message"
    __table_args__ = (
        CheckConstraint("(seq > 0)", name="seq_positive"),
        CheckConstraint(
            "(role = ANY (ARRAY['user'::text, 'assistant'::text, 'system'::text, 'tool'::text]))",
            name="role_known",
        ),
        CheckConstraint(
            "(state = ANY (ARRAY['in_progress'::text, 'completed'::text, 'incomplete'::text]))",
            name="state_known",
        ),
        ForeignKeyConstraint(
            ["thread_id", "parent_id"],
            ["thread_message.thread_id", "thread_message.id"],
            name="thread_message_parent_fk",
            ondelete="CASCADE",
        ),
        Index("idx_thread_message_seq", "thread_id", "seq", unique=True),
        UniqueConstraint("thread_id", "id", name="thread_message_own"),
        Index("idx_thread_message_parent", "thread_id", "parent_id"),
        Index("idx_thread_message_branch", "branch_id", "seq"),
        Index("idx_thread_message_turn", "turn_id"),
        Index("idx_thread_message_call", "message_id"),
        Index(
            "idx_thread_message_terms", "terms", postgresql_using="gin", postgresql_with={"fastupdate": "off"}
        ),
    )

    id: Mapped[str] = mapped_column(
        primary_key=True, server_default=text("('msg_'::text || gen_random_uuid())")
    )
    thread_id: Mapped[str] = mapped_column(ForeignKey("thread.id", ondelete="CASCADE"))
    user_id: Mapped[str]
    seq: Mapped[int]
    parent_id: Mapped[str | None]
    branch_id: Mapped[str]
    role: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'completed'::text"))
    content: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    tool_calls: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    tool_call_id: Mapped[str | None]
    name: Mapped[str | None]
    model: Mapped[str | None]
    finish_reason: Mapped[str | None]
    citations: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    turn_id: Mapped[str | None] = mapped_column(ForeignKey("turn.id", ondelete="SET NULL"))
    message_id: Mapped[str | None]
    credits: Mapped[int | None] = mapped_column(BigInt)
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=text("'{}'::jsonb"))
    item: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    removed_at: Mapped[datetime | None]
    text: Mapped[str] = mapped_column(server_default=text("''::text"))
    """The text parts of the content, for the search."""
    terms: Mapped[Any] = mapped_column(
        TSVECTOR,
        Computed(
            "(to_tsvector('simple'::regconfig, \"left\"(text, 200000)) || array_to_tsvector(ARRAY[(' '::text || user_id)]))",
            persisted=True,
        ),
        deferred=True,
    )
    """The words, and `OWNER_TERM` with the owner's id, so that the search in one person's messages costs nothing for those of others."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW, default=func.clock_timestamp())
    completed_at: Mapped[datetime | None]
