"""CSV text of any rows, in chunks for a streamed response."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

_LINES_PER_CHUNK = 500


def csv_lines(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """CSV text in chunks of up to 500 lines: a header and one line per mapping.

    Times are ISO 8601 in UTC. Text that a spreadsheet would interpret as a formula is prefixed with an apostrophe.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for count, line in enumerate(lines, 1):
        writer.writerow(csv_cell(line[name]) for name in columns)
        if count % _LINES_PER_CHUNK == 0:
            yield _drain(buffer)
    yield _drain(buffer)


def csv_cell(value: Any) -> str:
    """A value as text of a cell, without quotes."""
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


def _drain(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
