"""CSV export of calls: one line per call and no summary rows, so that column sums match the pages."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Row

from models.core.csv_text import csv_lines

COLUMNS = (
    "finished_at",
    "call",
    "run",
    "model",
    "agent",
    "provider",
    "door",
    "client",
    "uncached_input_tokens",
    "cache_write_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
    "credits",
    "byok",
    "usage_source",
    "latency_ms",
    "first_token_ms",
    "streamed",
    "client_gone",
    "message",
)


def csv_of(calls: Iterable[Row[Any]]) -> Iterator[str]:
    """CSV text in chunks: a header and one line per call (`csv_text`). Cost is dollars, credits and tokens are integers."""
    return csv_lines(COLUMNS, map(_line, calls))


def org_csv_of(calls: Iterable[Row[Any]]) -> Iterator[str]:
    """As `csv_of`, with who called and from which repository."""
    lines = ({**_line(call), "user_id": call.user_id, "repository": call.repo_url} for call in calls)
    return csv_lines(("user_id", "repository", *COLUMNS), lines)


def _line(call: Row[Any]) -> dict[str, Any]:
    write = call.cache_write_tokens or 0
    uncached = call.uncached_input_tokens
    if uncached is None:
        uncached = max(0, call.input_tokens - write - call.cache_read_tokens)
    return {
        "finished_at": call.finished_at,
        "call": call.request_id,
        "run": call.run_id,
        "model": call.model,
        "agent": call.agent_id,
        "provider": call.provider,
        "door": call.door,
        "client": call.client_id,
        "uncached_input_tokens": uncached,
        "cache_write_tokens": write,
        "cache_read_tokens": call.cache_read_tokens,
        "output_tokens": call.output_tokens,
        "reasoning_tokens": call.reasoning_tokens or 0,
        "cost_usd": call.cost,
        "credits": 0 if call.byok else call.credits,
        "byok": call.byok,
        "usage_source": call.usage_source,
        "latency_ms": call.latency_ms,
        "first_token_ms": call.ttft_ms,
        "streamed": call.stream,
        "client_gone": call.client_gone,
        "message": call.id,
    }
