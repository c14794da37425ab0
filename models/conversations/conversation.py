"""Tables of conversations with agents about a workspace, what their turns changed, and what they ask (fastest contract 3.12)."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt
from models.projects.project import one_of
from models.projects.snapshots.blob_garbage import name_manifests

ENGINES = ("builtin", "acp", "store")
"""What answers: the server's own loop, a command that speaks the Agent Client Protocol, an agent of the store."""
PURPOSES = ("chat", "item_run")
"""What a conversation is for; only those of people are listed."""
SUMMARY_STATES = ("pending", "generating", "completed", "failed")
ITEM_STATES = ("completed", "cancelled", "failed", "interrupted", "expired")
"""How the turn of an item ended."""
QUESTIONS = ("ask", "permission", "loop_guard")
"""Who asks: the model, the agent's program before it does something, or the server because the agent makes no progress."""
QUESTION_STATES = ("open", "answered", "rejected", "expired")


def _uuid() -> str:
    return str(uuid.uuid4())


class ProjectConversation(Base):
    """A thread whose turns change the files of a workspace. Its messages, branches, budget and turns are the thread's.

    `engine` answers at the isolation `level`; `agent` is the agent of the store (`store`) or the configured command (`acp`), `model` the
    model of the calls, None for the one that the turn or the agent names. `work_manifest_hash` are the files of its open turn that no
    snapshot has yet: they are kept from the collection of garbage. Whoever may see the project sees its conversations.
    """

    __tablename__ = "conversation"
    __table_args__ = (
        CheckConstraint("((title IS NULL) OR (length(title) <= 255))", name="title_length"),
        CheckConstraint(one_of("engine", ENGINES), name="engine_known"),
        CheckConstraint(one_of("level", ("virtual", "process", "machine")), name="level_known"),
        CheckConstraint(one_of("purpose", PURPOSES), name="purpose_known"),
        CheckConstraint("((engine = 'builtin'::text) OR (agent IS NOT NULL))", name="agent_named"),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="conversation_workspace_fk",
            ondelete="CASCADE",
        ),
        Index("idx_conversation_thread", "thread_id", unique=True),
        Index("idx_conversation_list", "project_id", "updated_at", "id"),
        Index("idx_conversation_workspace", "workspace_id", "updated_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=_uuid)
    thread_id: Mapped[str] = mapped_column(ForeignKey("thread.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    workspace_id: Mapped[str]
    title: Mapped[str | None]
    engine: Mapped[str] = mapped_column(server_default=text("'builtin'::text"))
    level: Mapped[str] = mapped_column(server_default=text("'virtual'::text"))
    agent: Mapped[str | None]
    model: Mapped[str | None]
    purpose: Mapped[str] = mapped_column(server_default=text("'chat'::text"))
    work_manifest_hash: Mapped[str | None]
    agent_session: Mapped[str | None]
    """The session of the command, with which its next turn goes on."""
    agent_session_at: Mapped[str | None]
    """The last message that the session knows: a turn on another branch begins a new one."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class TimelineItem(Base):
    """What one turn changed: the snapshot that it made of a workspace, and the operation that moved the head there.

    `message_id` is that of the answer as the API gives it. `files` are at most 500 of `files_count` changed paths, each `path` and
    `change`. `state` is how the turn ended. If another client moved the workspace meanwhile, the work is in the side workspace
    `workspace_id`, `lost_race` is true, and `sync_preview_id` the prepared sync, if there is one.
    """

    __tablename__ = "timeline_item"
    __table_args__ = (
        CheckConstraint(one_of("summary_status", SUMMARY_STATES), name="summary_status_known"),
        CheckConstraint(one_of("state", ITEM_STATES), name="state_known"),
        CheckConstraint("(files_count > 0)", name="files_counted"),
        CheckConstraint("(credits >= 0)", name="credits_not_negative"),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="timeline_item_workspace_fk",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["project_id", "snapshot_id"],
            ["snapshot.project_id", "snapshot.id"],
            name="timeline_item_snapshot_fk",
            ondelete="CASCADE",
        ),
        Index("idx_timeline_item_list", "conversation_id", "created_at", "id"),
        Index("idx_timeline_item_turn", "turn_id", unique=True),
        Index("idx_timeline_item_workspace", "workspace_id"),
        Index("idx_timeline_item_snapshot", "project_id", "snapshot_id"),
        Index("idx_timeline_item_operation", "operation_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=_uuid)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversation.id", ondelete="CASCADE"))
    project_id: Mapped[str]
    workspace_id: Mapped[str]
    turn_id: Mapped[str | None] = mapped_column(ForeignKey("turn.id", ondelete="SET NULL"))
    message_id: Mapped[str]
    snapshot_id: Mapped[str]
    operation_id: Mapped[str | None] = mapped_column(
        ForeignKey("workspace_operation.id", ondelete="SET NULL")
    )
    manifest_hash: Mapped[str]
    previous_manifest_hash: Mapped[str | None]
    files: Mapped[list[Any]] = mapped_column(JSONB)
    files_count: Mapped[int]
    state: Mapped[str]
    summary: Mapped[str | None]
    summary_status: Mapped[str]
    lost_race: Mapped[bool] = mapped_column(server_default=text("false"))
    sync_preview_id: Mapped[str | None]
    credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ConversationQuestion(Base):
    """What a turn asks a person before it goes on. `questions` are objects with `question`, and optionally `header`, `options` (each
    `label` and `description`) and `multiple`; `answers` has a list of texts for each."""

    __tablename__ = "conversation_question"
    __table_args__ = (
        CheckConstraint(one_of("kind", QUESTIONS), name="kind_known"),
        CheckConstraint(one_of("state", QUESTION_STATES), name="state_known"),
        CheckConstraint("((answers IS NOT NULL) = (state = 'answered'::text))", name="answered_or_not"),
        Index("idx_conversation_question_list", "conversation_id", "created_at"),
        Index("idx_conversation_question_turn", "turn_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=_uuid)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversation.id", ondelete="CASCADE"))
    turn_id: Mapped[str] = mapped_column(ForeignKey("turn.id", ondelete="CASCADE"))
    kind: Mapped[str]
    tool_call_id: Mapped[str | None]
    questions: Mapped[list[Any]] = mapped_column(JSONB)
    answers: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    state: Mapped[str] = mapped_column(server_default=text("'open'::text"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    answered_at: Mapped[datetime | None]


name_manifests(ProjectConversation, ProjectConversation.work_manifest_hash)
