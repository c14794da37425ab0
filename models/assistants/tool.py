"""Tables of the tools that an account registers for its assistants, and of the secrets that are sent to them."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_METHODS = ", ".join(f"'{each}'::text" for each in METHODS)


class Tool(Base):
    """A tool that this server calls for the assistants of an account: a request to `url`, with the model's arguments as its JSON body, or as
    its query for GET and DELETE. `parameters` is their JSON Schema. `headers` names a secret by the header that carries it. A failed request
    is repeated up to `retries` times."""

    __tablename__ = "tool"
    __table_args__ = (
        CheckConstraint(f"(method = ANY (ARRAY[{_METHODS}]))", name="method_known"),
        CheckConstraint("((timeout_seconds >= 1) AND (timeout_seconds <= 120))", name="timeout_known"),
        CheckConstraint("((retries >= 0) AND (retries <= 3))", name="retries_known"),
        Index("idx_tool_name", "account_id", "name", unique=True),
        Index("idx_tool_created_by", "created_by"),
    )

    id: Mapped[str] = mapped_column(
        primary_key=True, server_default=text("('tool_'::text || gen_random_uuid())")
    )
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    name: Mapped[str]
    description: Mapped[str]
    parameters: Mapped[dict[str, Any]] = mapped_column(JSONB)
    url: Mapped[str]
    method: Mapped[str] = mapped_column(server_default=text("'POST'::text"))
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    timeout_seconds: Mapped[int] = mapped_column(server_default=text("30"))
    retries: Mapped[int] = mapped_column(server_default=text("0"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ToolSecret(Base):
    """The value of a header, encrypted, which tools and MCP servers name. It is sent to `host` only, so that nobody who writes a tool or
    an assistant can have it sent elsewhere. `hint` is its last four characters."""

    __tablename__ = "tool_secret"
    __table_args__ = (Index("idx_tool_secret_created_by", "created_by"),)

    account_id: Mapped[str] = mapped_column(
        ForeignKey("credit_account.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    sealed: Mapped[str]
    hint: Mapped[str]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
