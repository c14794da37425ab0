"""Where an account's ledger stood at given times: the last entry before each, its balance and its hash.

A period of a statement is a range of entries in the order of the ledger, without gaps, so that statements of consecutive
periods continue each other. Entries that waited for the account's lock may be seconds older than the one before them:
such an entry counts where it was booked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, bindparam, text
from sqlalchemy.dialects.postgresql import TIMESTAMP

from models.core.db import db
from models.ledger.statement_check import FIRST

LATE = 500
"""Entries before a time that are searched for an earlier one of a later time."""

# Binary search: times grow with ids. There is no index on the time, which every settlement would pay for.
# Rows are compared by account and id, and an account's are picked from what was found: with `account_id = ...`, PostgreSQL may walk
# along the primary key instead, through the entries of all accounts.
_POSITIONS = text(
    """
    WITH RECURSIVE search AS (
        SELECT m.moment, 0::bigint AS low, coalesce((SELECT max(id) FROM credit_entry WHERE account_id = :account), 0) AS high
        FROM unnest(:moments) AS m (moment)
        UNION ALL
        SELECT s.moment,
            CASE WHEN probe.created_at < s.moment THEN probe.id ELSE s.low END,
            CASE WHEN probe.created_at < s.moment THEN s.high ELSE (s.low + s.high) / 2 END
        FROM search s CROSS JOIN LATERAL (
            SELECT e.id, e.created_at FROM credit_entry e
            WHERE (e.account_id, e.id) > (:account, (s.low + s.high) / 2) ORDER BY e.account_id, e.id LIMIT 1
        ) probe
        WHERE s.low < s.high
    ),
    found AS (SELECT moment, max(low) AS id FROM search GROUP BY moment)
    SELECT f.moment, e.id, e.balance_after, e.hash
    FROM found f
    LEFT JOIN LATERAL (
        SELECT min(late.id) AS id FROM (
            SELECT e.account_id, e.id, e.created_at FROM credit_entry e
            WHERE (e.account_id, e.id) <= (:account, f.id) ORDER BY e.account_id DESC, e.id DESC LIMIT :late
        ) late
        WHERE late.account_id = :account AND late.created_at >= f.moment
    ) first ON true
    LEFT JOIN LATERAL (
        SELECT e.account_id, e.id, e.balance_after, e.hash FROM credit_entry e
        WHERE (e.account_id, e.id) <= (:account, coalesce(first.id - 1, f.id)) ORDER BY e.account_id DESC, e.id DESC LIMIT 1
    ) e ON e.account_id = :account
    ORDER BY f.moment
    """
).bindparams(bindparam("moments", type_=ARRAY(TIMESTAMP(timezone=True))))


@dataclass(frozen=True, slots=True)
class EntryPosition:
    """A place in an account's ledger: after the entry `id`, with the balance in credits and the hash that it left."""

    id: int
    balance: int
    hash: str


START = EntryPosition(0, 0, FIRST)
"""Before the first entry."""


def positions_before(account_id: str, moments: Sequence[datetime]) -> list[EntryPosition]:
    """The account's position right before the first entry of each of `moments` (UTC), in their order. One statement,
    whose cost grows with the logarithm of the number of entries."""
    if not moments:
        return []
    rows = db.session.execute(
        _POSITIONS, {"account": account_id, "moments": list(set(moments)), "late": LATE}
    )
    found = {
        row.moment: START if row.id is None else EntryPosition(row.id, row.balance_after, row.hash.hex())
        for row in rows
    }
    return [found[moment] for moment in moments]
