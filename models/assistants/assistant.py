"""Tables of assistants and their versions (crafely contract, section 4)."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt


class Assistant(Base):
    """An assistant of a person's or an organisation's account. `version` is its current one, `name` that version's name.
    `published_as` is `publisher/agent@version` in the store. `budget` is the most that its turns may spend in total, in credits,
    `spent` what those that ended did spend and `reserved` what the active ones have taken from it.

    A deleted one can be restored until it is purged: then its versions and its name are gone, and the row stays so that its threads still
    say that it was deleted."""

    __tablename__ = "assistant"
    __table_args__ = (
        CheckConstraint("(version > 0)", name="version_positive"),
        CheckConstraint("((budget IS NULL) OR (budget >= 0))", name="budget_not_negative"),
        CheckConstraint("((spent >= 0) AND (reserved >= 0))", name="spent_not_negative"),
        Index("idx_assistant_list", "account_id", "created_at", "id"),
        Index(
            "idx_assistant_purge",
            "deleted_at",
            postgresql_where=text("((deleted_at IS NOT NULL) AND (purged_at IS NULL))"),
        ),
        Index("idx_assistant_user", "user_id"),
    )

    id: Mapped[str] = mapped_column(
        primary_key=True, server_default=text("('agnt_'::text || gen_random_uuid())")
    )
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    name: Mapped[str]
    version: Mapped[int] = mapped_column(server_default=text("1"))
    published_as: Mapped[str | None]
    budget: Mapped[int | None] = mapped_column(BigInt)
    spent: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    reserved: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW, default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    deleted_at: Mapped[datetime | None]
    purged_at: Mapped[datetime | None]


class AssistantVersion(Base):
    """What an assistant was at one version; never changed. `tools` are names of registered tools and function definitions,
    `mcp_servers` servers whose tools it may use, `variables` the typed variables of its instructions by name, `model_params`
    temperature, max_tokens, reasoning_effort and others. Secrets are named, never held."""

    __tablename__ = "assistant_version"

    assistant_id: Mapped[str] = mapped_column(
        ForeignKey("assistant.id", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    description: Mapped[str | None]
    instructions: Mapped[str]
    tools: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    mcp_servers: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    context: Mapped[str | None]
    model: Mapped[str | None]
    model_params: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    variables: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=text("'{}'::jsonb"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
