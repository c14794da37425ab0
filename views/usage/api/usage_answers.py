"""Answers of the usage API: rows, sums and series. Money is exact: dollars and fractions of credits are decimal strings."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from models.core.csv_text import csv_cell
from models.usage.usage_records import UsageRecord
from models.usage.usage_sums import UsageSum
from views.web.format import iso
from views.web.operation import ResponseModel

COST = "What the provider charges for it, in dollars; with your own provider key, the provider charges you"
CREDITS = "What was charged; 1 credit = 1 US cent. None for calls with your own provider key"
CACHED = "Of `tokens_in`: read from the provider's cache"


class UsageRowMetadata(ResponseModel):
    request_id: str = Field(description="`x-request-id` of the call, as in /api/v1/calls")
    requested_model: str
    api: str = Field(description="The API that was called, such as openai or anthropic")
    run_id: str | None
    client_id: str | None
    repository: str | None
    streamed: bool
    usage_source: str | None = Field(description="Who counted the tokens: provider, counted or estimated")


class UsageRowAnswer(ResponseModel):
    id: str = Field(description="Id of the call's message")
    created_at: datetime = Field(description="When the call finished")
    provider: str | None
    model: str
    type: str
    status: Literal["completed", "interrupted"] = Field(description="Interrupted: the answer broke off")
    api_key_id: str | None = Field(description="`id` of the key, or its SHA-256 for the older kind")
    user_id: str
    org_id: str | None
    agent_id: str | None
    tokens_in: int = Field(description="All input tokens, each counted once")
    tokens_out: int = Field(description="Output tokens, with those of reasoning")
    tokens_total: int
    tokens_cached: int = Field(description=CACHED)
    tokens_cache_write: int = Field(description="Of `tokens_in`: written to the provider's cache")
    tokens_reasoning: int = Field(description="Of `tokens_out`")
    cost: str = Field(description=COST)
    margin: str = Field(
        description="What was charged more than the cost, in dollars, before rounding to credits"
    )
    currency: Literal["usd"]
    credits: int = Field(description=CREDITS)
    exact_credits: str = Field(
        description="With the fractions that add up on the account until they make a credit"
    )
    byok: bool = Field(description="Whether the call used your own provider key")
    latency_ms: int
    ttft_ms: int | None = Field(description="Time to the first token of a streamed answer")
    metadata: UsageRowMetadata


class UsageRowList(ResponseModel):
    data: list[UsageRowAnswer] = Field(description="Newest first; may be short or empty before the last page")
    next_cursor: str | None = Field(description="`cursor` of the next page; null: this is the last one")


class UsageSumAnswer(ResponseModel):
    requests: int = Field(description="Settled calls")
    tokens_in: int
    tokens_out: int
    tokens_total: int = Field(description="Input, each token once, and output")
    tokens_cached: int = Field(description=CACHED)
    cost: str = Field(description=COST)
    credits: int = Field(description=CREDITS)


class UsageOfModel(UsageSumAnswer):
    provider: str | None
    model: str


class UsageOfKey(UsageSumAnswer):
    api_key_id: str | None
    name: str


class UsageRangeAnswer(ResponseModel):
    start: datetime
    end: datetime = Field(description="Not included")
    tz: str
    currency: Literal["usd"]
    complete: bool = Field(
        description="False after an upgrade, while older calls are still being counted by provider and type: filters and parts by "
        "these may miss them"
    )


class UsageSummaryAnswer(UsageRangeAnswer):
    by_model: list[UsageOfModel] = Field(description="Most credits first")
    totals: UsageSumAnswer


class UsagePart(ResponseModel):
    key: str | None = Field(description="Empty: calls without one. Null: all others together")
    name: str
    tokens: int
    cost: str
    credits: int
    requests: int


class UsageOfDate(ResponseModel):
    date: str = Field(description="A date on the clock of `tz`; of an hour an ISO time")
    tokens: int
    tokens_in: int
    tokens_out: int
    cost: str
    credits: int
    requests: int
    parts: list[UsagePart] = Field(description="With `split`: its parts that have usage; they add up")


class UsageSeriesAnswer(UsageRangeAnswer):
    group_by: str
    split: str | None
    total_tokens: int
    total_cost: str
    total_credits: int
    total_requests: int
    usage: list[UsageOfDate] = Field(description="Every date of the range, those without usage as zeros")


class OrganisationUsageAnswer(UsageRangeAnswer):
    org_id: str
    user_id: str | None = Field(
        description="The member whose calls these are, if your role sees only your own"
    )
    total_tokens: int
    total_cost: str
    total_credits: int
    total_requests: int
    usage_by_api_key: list[UsageOfKey] = Field(description="Most credits first")
    usage_by_model: list[UsageOfModel] = Field(description="Most credits first")
    daily_usage: list[UsageOfDate] = Field(description="Every day of the range, those without usage as zeros")


def row_facts(record: UsageRecord) -> dict[str, Any]:
    """A row as JSON (`UsageRowAnswer`)."""
    row = record.row
    return {
        "id": row.id,
        "created_at": iso(row.finished_at),
        "provider": row.provider,
        "model": row.model,
        "type": row.type,
        "status": "interrupted" if row.error else "completed",
        "api_key_id": row.api_key_id,
        "user_id": row.user_id,
        "org_id": row.org_id,
        "agent_id": row.agent_id,
        "tokens_in": record.tokens_in,
        "tokens_out": row.output_tokens,
        "tokens_total": record.tokens_in + row.output_tokens,
        "tokens_cached": row.cache_read_tokens,
        "tokens_cache_write": row.cache_write_tokens,
        "tokens_reasoning": row.reasoning_tokens,
        "cost": csv_cell(row.cost),
        "margin": csv_cell(record.margin),
        "currency": "usd",
        "credits": record.credits,
        "exact_credits": csv_cell(record.exact_credits),
        "byok": row.byok,
        "latency_ms": row.latency_ms,
        "ttft_ms": row.ttft_ms,
        "metadata": {
            "request_id": row.request_id,
            "requested_model": row.requested_model,
            "api": row.door,
            "run_id": row.run_id,
            "client_id": row.client_id,
            "repository": row.repo_url,
            "streamed": row.stream,
            "usage_source": row.usage_source,
        },
    }


def sum_facts(total: UsageSum) -> dict[str, Any]:
    """Sums as JSON (`UsageSumAnswer`)."""
    return {
        "requests": total.requests,
        "tokens_in": total.tokens_in,
        "tokens_out": total.tokens_out,
        "tokens_total": total.tokens_total,
        "tokens_cached": total.tokens_cached,
        "cost": csv_cell(total.cost),
        "credits": total.credits,
    }


def date_facts(total: UsageSum) -> dict[str, Any]:
    """The sums of a date or of one of its parts, as a series names them."""
    return {
        "tokens": total.tokens_total,
        "cost": csv_cell(total.cost),
        "credits": total.credits,
        "requests": total.requests,
    }


def total_facts(total: UsageSum) -> Mapping[str, Any]:
    """The totals of a series or an organisation."""
    return {f"total_{name}": value for name, value in date_facts(total).items()}
