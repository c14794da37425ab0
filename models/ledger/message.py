"""The billing record of one model call."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Computed, ForeignKey, Index, Numeric, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, column_property, mapped_column

from models.core.db import ACCOUNT, Base, UtcTimestamp

# Written as PostgreSQL prints it, for the partial index and the queries that use it.
HAS_BODIES = "((request IS NOT NULL) OR (reasoning_text <> ''::text) OR (response <> 'null'::jsonb))"


class Message(Base):
    """One billed model call: request, response, tokens, `cost` in dollars and whole `credits`.

    `client_request_id` is the run's id; `input_tokens` are counted as in contract 5.5. Bodies of old calls may be
    pruned (`flask usage prune`): `request`, `last_message`, `definitions` and `reasoning_text` are null, `response` is JSON null.
    """

    __tablename__ = "message"
    __table_args__ = (
        Index("message_user_id_idx", "user_id"),
        Index("message_finished_at_user_id_idx", "finished_at", "user_id"),
        Index("message_org_id_idx", "org_id"),
        Index("message_org_id_finished_at_idx", "org_id", "finished_at"),
        Index("idx_message_account_finished", text(ACCOUNT), "finished_at"),
        Index("idx_message_bodies", "finished_at", postgresql_where=text(HAS_BODIES)),
        # the list of calls (models/runs/call_sources.py)
        Index(
            "idx_message_agent",
            text(ACCOUNT),
            text("split_part(agent_id, '@'::text, 1)"),
            "finished_at",
            postgresql_where=text("(agent_id IS NOT NULL)"),
        ),
        Index("idx_message_team", "team_id", "finished_at", postgresql_where=text("(team_id IS NOT NULL)")),
        Index(
            "idx_message_repository",
            text(ACCOUNT),
            "repo_url",
            "finished_at",
            postgresql_where=text("(repo_url IS NOT NULL)"),
        ),
        Index("idx_message_byok", "id", postgresql_where=text("byok")),
        # operators' traces (models/admin/client_traces.py)
        Index(
            "idx_message_client_request",
            "client_request_id",
            "finished_at",
            postgresql_where=text("(client_request_id IS NOT NULL)"),
        ),
        Index(
            "idx_message_client", "client_id", "finished_at", postgresql_where=text("(client_id IS NOT NULL)")
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    finished_at: Mapped[datetime] = mapped_column(UtcTimestamp)
    client_id: Mapped[str | None]
    client_request_id: Mapped[str | None]
    model: Mapped[str]
    agent_id: Mapped[str | None]
    request: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    last_message: Mapped[Any] = mapped_column(
        JSONB, Computed("(request -> '-1'::integer)", persisted=True), nullable=True
    )
    definitions: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """The request's tools and formats (`request_definitions`)."""
    reasoning_text: Mapped[str | None]
    response: Mapped[Any] = mapped_column(JSONB, nullable=False)
    input_tokens: Mapped[int] = mapped_column(server_default=text("0"))
    cache_creation_input_tokens: Mapped[int | None]
    cache_read_input_tokens: Mapped[int] = mapped_column(server_default=text("0"))
    reasoning_tokens: Mapped[int | None]
    output_tokens: Mapped[int]
    cost: Mapped[Decimal] = mapped_column(Numeric(100, 20))
    credits: Mapped[int]
    byok: Mapped[bool] = mapped_column(server_default=text("false"))
    latency_ms: Mapped[int | None]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    repo_url: Mapped[str | None]
    paid_by: Mapped[str | None]
    """Why this account was charged (`gateway_payer`): the organisation's by `key`, `named` or `repository`, the person's by
    `fallback:<reason>` although a repository was given; None for the person's own account."""
    key_id: Mapped[str | None]
    """SHA-256 of the key."""
    team_id: Mapped[str | None]
    """The team of the organisation, deleted or not."""
    account_id: Mapped[str | None] = column_property(func.coalesce(org_id, user_id), deferred=True)
    """The account that was charged: the organisation's if set, else the person's."""
