"""CSV and JSON export of calls: one line per call and no summary rows, so that column sums match the pages."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

from sqlalchemy import Row

from models.core.csv_text import csv_cell, csv_lines

COLUMNS = (
    "finished_at",
    "call",
    "run",
    "model",
    "agent",
    "key",
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
    "exact_credits",
    "byok",
    "usage_source",
    "latency_ms",
    "first_token_ms",
    "streamed",
    "client_gone",
    "message",
)


ORG_COLUMNS = (*COLUMNS, "member", "email", "team", "repository")

LINES_PER_CHUNK = 500


def csv_of(calls: Iterable[Row[Any]], columns: Sequence[str] = COLUMNS) -> Iterator[str]:
    """CSV text in chunks: a header and one line per call (`csv_text`). Cost is dollars; credits, as charged, and tokens are
    integers; exact credits have fractions."""
    return csv_lines(columns, map(_line, calls))


def json_of(calls: Iterable[Row[Any]], columns: Sequence[str] = COLUMNS) -> Iterator[str]:
    """A JSON array in chunks of up to 500 calls, with the columns of `csv_of`; cost is a string."""
    return json_lines(
        {name: value for name, value in _line(call).items() if name in columns} for call in calls
    )


def json_lines(lines: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A JSON array in chunks of up to 500 mappings; times and decimals are strings."""
    separator = "["
    for part in _parts(lines):
        yield separator + ",".join(
            "\n" + json.dumps(line, default=csv_cell, ensure_ascii=False) for line in part
        )
        separator = ","
    yield ("[" if separator == "[" else "") + "\n]\n"


def quoted_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """CSV text in chunks of up to 500 lines: every field of `rows` is quoted, the head is not (contract 2.8)."""
    yield ",".join(head) + "\n"
    for part in _parts(rows):
        yield "".join(",".join(_quoted(each) for each in row) + "\n" for row in part)


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
        "exact_credits": _exact(call),
        "byok": call.byok,
        "usage_source": call.usage_source,
        "latency_ms": call.latency_ms,
        "first_token_ms": call.ttft_ms,
        "streamed": call.stream,
        "client_gone": call.client_gone,
        "message": call.id,
        "member": call.user_name,
        "email": call.user_email,
        "team": call.team_name,
        "key": call.key_name,
        "repository": call.repo_url,
    }


def _exact(call: Row[Any]) -> Decimal:
    """What the call cost in credits before rounding: fractions add up on the account until they make a credit."""
    if call.byok:
        return Decimal(0)
    return Decimal(call.credits) if call.micro_credits is None else Decimal(call.micro_credits) / 1_000_000


def _parts(rows: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = iter(rows)
    while part := list(islice(remaining, LINES_PER_CHUNK)):
        yield part


def _quoted(value: Any) -> str:
    return '"' + csv_cell(value).replace('"', '""') + '"'
