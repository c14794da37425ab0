"""What lists of runs are sorted and filtered by and their calls say: settled credits with all they spawned, and tags."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, UtcTimestamp, db, now

BATCH = 5_000
"""Messages per transaction."""
LAG = timedelta(minutes=1)
"""A call may commit this long after the time it carries, so the last minute is read again."""
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class RunCreditMark(Base):
    """One row: the time up to which settled calls are counted in `agent_run.settled_credits`."""

    __tablename__ = "run_credit_mark"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    counted_until: Mapped[datetime | None] = mapped_column(UtcTimestamp)


_REACHED = (
    text("""
    SELECT count(*) AS messages, max(finished_at) AS reached
    FROM (SELECT finished_at FROM message WHERE finished_at >= :start ORDER BY finished_at LIMIT :batch) m
""")
    .bindparams(bindparam("start", type_=UtcTimestamp))
    .columns(reached=UtcTimestamp)
)

# Rows that a stop of the account holds are skipped, because it locks many in another order; they are read again.
_ADD_UP = text("""
    WITH called AS MATERIALIZED (
        SELECT DISTINCT c.run_id FROM message m JOIN gateway_call c ON c.message_id = m.id
        WHERE m.finished_at >= :start AND m.finished_at <= :reached AND c.run_id IS NOT NULL
    ),
    due AS MATERIALIZED (
        SELECT r.id FROM called JOIN agent_run r ON r.id = called.run_id
        UNION SELECT unnest(r.ancestor_run_ids) FROM called JOIN agent_run r ON r.id = called.run_id
    ),
    locked AS MATERIALIZED (
        SELECT r.id, coalesce(r.org_id, r.user_id) AS account_id FROM agent_run r
        WHERE r.id IN (SELECT id FROM due) FOR NO KEY UPDATE SKIP LOCKED
    ),
    tree AS (
        SELECT l.id AS root, l.account_id, d.id FROM locked l, LATERAL (
            SELECT l.id UNION
            SELECT r.id FROM agent_run r
            WHERE r.ancestor_run_ids && ARRAY[l.id] AND coalesce(r.org_id, r.user_id) = l.account_id
        ) d
    ),
    sums AS (
        SELECT t.root, coalesce(sum(c.credits) FILTER (WHERE m.byok IS NOT TRUE), 0) AS credits
        FROM tree t JOIN gateway_call c ON c.run_id = t.id AND c.account_id = t.account_id
        LEFT JOIN message m ON m.id = c.message_id
        GROUP BY t.root
    )
    UPDATE agent_run r SET settled_credits = s.credits FROM sums s
    WHERE r.id = s.root AND r.settled_credits <> s.credits
""").bindparams(bindparam("start", type_=UtcTimestamp), bindparam("reached", type_=UtcTimestamp))


# A run has at most 20 tags; it keeps those it has, and takes those of its calls in their order.
_ADD_TAGS = text("""
    WITH given AS MATERIALIZED (
        SELECT c.run_id, t.tag, min(c.started_at) AS at, min(t.place) AS place
        FROM message m JOIN gateway_call c ON c.message_id = m.id
            CROSS JOIN LATERAL jsonb_array_elements_text(c.parameters -> 'tags') WITH ORDINALITY t (tag, place)
        WHERE m.finished_at >= :start AND m.finished_at <= :reached AND c.run_id IS NOT NULL AND c.parameters ? 'tags'
        GROUP BY c.run_id, t.tag
    ),
    locked AS MATERIALIZED (
        SELECT r.id, coalesce(r.tags, '{}') AS tags FROM agent_run r
        WHERE r.id IN (SELECT run_id FROM given) FOR NO KEY UPDATE SKIP LOCKED
    ),
    added AS (
        SELECT l.id, (l.tags || array_agg(g.tag ORDER BY g.at, g.place, g.tag))[1:20] AS tags
        FROM locked l JOIN given g ON g.run_id = l.id AND g.tag <> ALL (l.tags)
        GROUP BY l.id, l.tags
    )
    UPDATE agent_run r SET tags = a.tags FROM added a
    WHERE r.id = a.id AND r.tags IS DISTINCT FROM a.tags
""").bindparams(bindparam("start", type_=UtcTimestamp), bindparam("reached", type_=UtcTimestamp))


def count_credits(*, batch: int = BATCH) -> bool:
    """Bring `agent_run.settled_credits` and `tags` up to date with the next settled calls; False when there are no more.

    Commit after each. Sums anew every run of these calls and the runs above, so a repetition changes nothing. Locks the rows
    of these runs, and of the mark.
    """
    started = now()
    mark = _mark()
    start = mark.counted_until or BEGINNING
    found = db.session.execute(_REACHED, {"start": start, "batch": batch}).one()
    reached: datetime = found.reached or start
    if found.messages:
        db.session.execute(_ADD_UP, {"start": start, "reached": reached})
        db.session.execute(_ADD_TAGS, {"start": start, "reached": reached})
    more = bool(found.messages == batch)
    if more:
        mark.counted_until = reached + timedelta(microseconds=reached == start)
    else:
        mark.counted_until = max(start, started - LAG)
    db.session.flush()
    return more


def _mark() -> RunCreditMark:
    db.session.execute(insert(RunCreditMark).values(id=1).on_conflict_do_nothing())
    return db.session.get_one(RunCreditMark, 1, with_for_update=True, populate_existing=True)
