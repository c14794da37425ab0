"""CSV export of calls: one line per call and no summary rows, so that column sums match the pages."""

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row

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

_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

_LINES_PER_CHUNK = 500


def csv_of(calls: Iterable[Row[Any]]) -> Iterator[str]:
    """CSV text in chunks of up to 500 lines: a header and one line per call.

    Times are ISO 8601 in UTC, cost is dollars, credits and tokens are integers. Text that a spreadsheet would
    interpret as a formula is prefixed with an apostrophe.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for count, call in enumerate(calls, 1):
        line = _line(call)
        writer.writerow(_cell(line[name]) for name in COLUMNS)
        if count % _LINES_PER_CHUNK == 0:
            yield _drain(buffer)
    yield _drain(buffer)


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


def _drain(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return (text.rstrip("0").rstrip(".") or "0") if "." in text else text
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA_PREFIXES) and not isinstance(value, int) else text
