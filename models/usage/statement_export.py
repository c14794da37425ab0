"""CSV export of an account's statement, with what it takes to check it without the database (docs/ledger_proof.md)."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

from sqlalchemy import Engine, Row, Select, select

from models.core.db import db, midnight
from models.core.errors import Invalid
from models.ledger import CreditEntry
from models.ledger.entry_positions import positions_before
from models.ledger.heads import proofs
from models.ledger.statement_check import COLUMNS, FIRST, cell

BATCH = 1000
EARLIEST, NEVER = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)

MAX_PROOFS = 31
"""Recorded heads that a file carries a proof for: the latest ones. Each costs a Merkle tree."""


@dataclass(frozen=True, slots=True)
class StatementRange:
    """The entries of a statement: those of an account after one (0: from the first) and up to one."""

    account_id: str
    after: int
    last: int


def statement_range(
    account_id: str, first_day: str | None, last_day: str | None, zone: tzinfo = UTC
) -> StatementRange:
    """The entries from `first_day` to `last_day` (of `zone`, ISO 8601; None or empty: no limit), without gaps: also those in
    between whose time is outside. Raises Invalid."""
    first, last = _day("from", first_day), _day("to", last_day)
    if first and last and last < first:
        raise Invalid("The last day is before the first.", fields={"to": "before the first day"})
    moments = [
        midnight(first, zone) if first else EARLIEST,
        midnight(last + timedelta(days=1), zone) if last else NEVER,
    ]
    opening, closing = positions_before(account_id, moments)
    return StatementRange(account_id, opening.id, closing.id)


def statement_csv(range: StatementRange) -> Iterator[str]:
    """CSV text in chunks: the opening, the entries from the oldest on, the closing.

    Reads in batches, each on its own connection that is returned before the batch is yielded. Needs the application
    context only when called, so the response can be streamed after the request context has ended.
    """
    return _chunks(db.engine, range)


def _chunks(engine: Engine, range: StatementRange) -> Iterator[str]:
    last, balance, hash = range.after, 0, FIRST
    if range.after:
        with engine.connect() as connection:
            opening = connection.execute(
                _entries(range.account_id).where(CreditEntry.id == range.after)
            ).one()
        balance, hash = opening.balance_after, opening.hash.hex()
    yield csv_text([COLUMNS, _edge("opening", range.account_id, last, balance, hash)])
    proved = proofs(engine, range.account_id, range.after + 1, range.last, MAX_PROOFS)
    count, sums = 0, Counter[str]()
    while True:
        with engine.connect() as connection:
            rows = connection.execute(
                _entries(range.account_id)
                .where(CreditEntry.id > last, CreditEntry.id <= range.last)
                .order_by(CreditEntry.id)
                .limit(BATCH)
            ).all()
        lines = []
        for row in rows:
            lines.append(_line(row, hash, proved.get(row.id)))
            last, balance, hash = row.id, row.balance_after, row.hash.hex()
            count += 1
            sums[row.kind] += row.amount
        yield csv_text(lines)
        if len(rows) < BATCH:
            break
    totals = {"entries": count, "amount": sums.total(), "kinds": dict(sums)}
    yield csv_text([_edge("closing", range.account_id, last, balance, hash, json.dumps(totals))])


def _entries(account_id: str) -> Select[*tuple[Any, ...]]:
    query: Select[*tuple[Any, ...]] = select(
        CreditEntry.id,
        CreditEntry.account_id,
        CreditEntry.created_at,
        CreditEntry.kind,
        CreditEntry.amount,
        CreditEntry.grant_balance_after,
        CreditEntry.balance_after,
        CreditEntry.operation_id,
        CreditEntry.cause,
        CreditEntry.message_id,
        CreditEntry.hash,
    )
    return query.where(CreditEntry.account_id == account_id)


def _line(entry: Row[Any], previous: str, proof: dict[str, Any] | None) -> tuple[Any, ...]:
    return (
        "entry",
        cell(entry.account_id),
        entry.id,
        entry.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        cell(entry.kind),
        entry.amount,
        entry.grant_balance_after,
        entry.balance_after,
        cell(entry.operation_id),
        cell(entry.cause),
        cell(entry.message_id),
        previous,
        entry.hash.hex(),
        json.dumps(proof) if proof else "",
    )


def _edge(
    record: str, account_id: str, entry_id: int, balance: int, hash: str, proof: str = ""
) -> tuple[Any, ...]:
    return (record, cell(account_id), entry_id, *[""] * 4, balance, *[""] * 4, hash, proof)


def csv_text(lines: Any) -> str:
    """Rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows(lines)
    return buffer.getvalue()


def _day(name: str, text: str | None) -> date | None:
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or len(text) != 10 or day.year > 9000:
        raise Invalid("Give a date such as 2027-01-31.", fields={name: "not a date"})
    return day
