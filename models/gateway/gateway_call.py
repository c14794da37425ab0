"""The table of calls through the gateway, failed ones included."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Numeric, Text, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, BigInt, db

# Written as PostgreSQL prints them, for the partial indexes and the queries that use them.
UNPRICED = "((state = 'failed'::text) AND (error = 'model_price_missing'::text))"
PROVIDER_TROUBLE = "((provider IS NOT NULL) AND ((state = 'failed'::text) OR (error IS NOT NULL)))"
USAGE_SOURCES = ("provider", "counted", "estimated")


class GatewayCall(Base):
    """One call: caller, door, provider, outcome and the amounts it was billed by.

    `cost` is in dollars; `micro_credits` is the exact charge, `credits` what the ledger debited, `carry_credits` how many
    of those came from fractions of earlier calls. `price` holds the prices used, dollars per million tokens as strings;
    `parts` the tokens within the totals that are priced separately, and units charged per item, by bucket.
    `raw_usage` is the provider's usage object, unchanged; `flags` mark bills that an operator should review.

    `http_status` is what the client got. A failed call without a provider was refused before it was admitted; `more_refused`
    counts those of the same key and minute that followed it and have no row (`models/gateway/refused_calls.py`).
    `parameters` are the request's (`request_parameters`). `routing` is how the call came to its provider, unless the model was asked for by
    name and served at once: `why` (`model`, `alias`, `weight` or `sticky`) and, `after` errors, the providers tried before.
    """

    __tablename__ = "gateway_call"
    __table_args__ = (
        CheckConstraint("(state = ANY (ARRAY['settled'::text, 'failed'::text]))", name="state_known"),
        CheckConstraint(
            "(usage_source = ANY (ARRAY['provider'::text, 'counted'::text, 'estimated'::text]))",
            name="usage_source_known",
        ),
        Index("idx_gateway_call_run", "run_id", "started_at"),
        Index("idx_gateway_call_message", "message_id"),
        # users named in an organisation's ledger are kept (trigger `credit_keep_people`)
        Index(
            "idx_gateway_call_member",
            "user_id",
            "account_id",
            "finished_at",
            postgresql_where=text("(user_id <> account_id)"),
        ),
        # the list of calls (models/runs/call_sources.py)
        Index("idx_gateway_call_finished", "account_id", "finished_at"),
        Index("idx_gateway_call_key", "account_id", "key_id", "finished_at"),
        Index(
            "idx_gateway_call_model", "account_id", text("COALESCE(model, requested_model)"), "finished_at"
        ),
        Index("idx_gateway_call_provider", "account_id", "provider", "finished_at"),
        Index(
            "idx_gateway_call_cost",
            "account_id",
            "micro_credits",
            postgresql_where=text("(micro_credits >= 5000000)"),
        ),
        Index(
            "idx_gateway_call_faulty",
            "account_id",
            "finished_at",
            postgresql_where=text(
                "((state = 'failed'::text) OR (error IS NOT NULL) OR (http_status <> 200))"
            ),
        ),
        # the dearest calls (models/runs/dearest_calls.py)
        Index(
            "idx_gateway_call_dearest",
            "account_id",
            text("date_trunc('month'::text, (finished_at AT TIME ZONE 'UTC'::text))"),
            text("cost DESC"),
            text("finished_at DESC"),
            postgresql_where=text("(cost > (0)::numeric)"),
        ),
        Index("idx_gateway_call_flagged", "finished_at", postgresql_where=text("(flags IS NOT NULL)")),
        # of providers (models/gateway/provider_health.py)
        Index(
            "idx_gateway_call_provider_trouble",
            "provider",
            "finished_at",
            "request_id",
            postgresql_where=text(PROVIDER_TROUBLE),
        ),
        Index("idx_gateway_call_unpriced", "started_at", postgresql_where=text(UNPRICED)),
    )

    request_id: Mapped[str] = mapped_column(primary_key=True)
    message_id: Mapped[str | None] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"))
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    user_id: Mapped[str]
    run_id: Mapped[str | None]
    key_id: Mapped[str | None]
    door: Mapped[str]
    provider: Mapped[str | None]
    requested_model: Mapped[str]
    model: Mapped[str | None]
    state: Mapped[str]
    http_status: Mapped[int | None]
    error: Mapped[str | None]
    usage_source: Mapped[str | None]
    stream: Mapped[bool] = mapped_column(server_default=text("false"))
    client_gone: Mapped[bool] = mapped_column(server_default=text("false"))
    ttft_ms: Mapped[int | None]
    latency_ms: Mapped[int]
    price: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    parts: Mapped[dict[str, int] | None] = mapped_column(JSONB(none_as_null=True))
    raw_usage: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    flags: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    uncached_input_tokens: Mapped[int] = mapped_column(server_default=text("0"))
    cache_write_tokens: Mapped[int] = mapped_column(server_default=text("0"))
    cache_read_tokens: Mapped[int] = mapped_column(server_default=text("0"))
    output_tokens: Mapped[int] = mapped_column(server_default=text("0"))
    reasoning_tokens: Mapped[int] = mapped_column(server_default=text("0"))
    cost: Mapped[Decimal] = mapped_column(Numeric, server_default=text("'0'::numeric"))
    micro_credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    carry_credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    parameters: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    routing: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    more_refused: Mapped[int] = mapped_column(server_default=text("0"))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]

    @property
    def routing_text(self) -> str | None:
        """How the call came to its provider, in words; None if the model was asked for by name and served at once."""
        if not self.routing:
            return None
        why = {
            "alias": "Alias",
            "weight": "Alias, chosen by weight",
            "sticky": "Alias, chosen by the session",
        }.get(str(self.routing.get("why")), "")
        tried = [
            f"{each['provider']} {each['model']} ({each['error']})" for each in self.routing.get("after", ())
        ]
        parts = [why] if why else []
        if tried:
            parts.append(f"{'after' if why else 'After'} {', '.join(tried)}")
        return ", ".join(parts)


class CallBody(Base):
    """What is kept of a call that has no `message`, or of its error: of a failed or refused call the request as
    `message.request` and `definitions`, what had arrived of the answer, and the error in full; of a settled one the error alone.
    `flask usage prune` deletes old rows."""

    __tablename__ = "call_body"
    __table_args__ = (Index("idx_call_body_finished", "finished_at"),)

    request_id: Mapped[str] = mapped_column(
        ForeignKey("gateway_call.request_id", ondelete="CASCADE"), primary_key=True
    )
    finished_at: Mapped[datetime]
    request: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    definitions: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    response: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    error_message: Mapped[str | None]


@dataclass(frozen=True, slots=True)
class RefusedName:
    """A requested model that has no price."""

    model: str
    times: int
    last: datetime


def refused_names(since: datetime) -> list[RefusedName]:
    """Models refused since `since` because they have no price, most requested first; at most 100."""
    rows = db.session.execute(
        select(GatewayCall.requested_model, func.count(), func.max(GatewayCall.started_at))
        .where(text(UNPRICED), GatewayCall.started_at >= since)
        .group_by(GatewayCall.requested_model)
        .order_by(func.count().desc(), GatewayCall.requested_model)
        .limit(100)
    )
    return [RefusedName(model, times, last) for model, times, last in rows]


def flagged_calls(since: datetime, limit: int = 200) -> list[GatewayCall]:
    """Calls finished since `since` whose bill an operator should review, latest first."""
    query = (
        select(GatewayCall)
        .where(GatewayCall.flags.is_not(None), GatewayCall.finished_at >= since)
        .order_by(GatewayCall.finished_at.desc())
        .limit(limit)
    )
    return list(db.session.scalars(query))
