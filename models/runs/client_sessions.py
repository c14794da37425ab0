"""Runs of the sessions of unmodified clients, which say neither START nor FINISH: the gateway starts them
(`models/gateway/session_runs.py`), and they end here for lack of calls."""

from datetime import datetime, timedelta

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, db
from models.ledger import run_budgets

IDLE = timedelta(minutes=30)
"""After this long without a call of its own or of its sub-agents, a run ends. A call within the next day goes on with it."""
KEPT = timedelta(days=30)
BATCH = 1_000


class ClientSessionRun(Base):
    """The run of a session, or of a sub-agent in it. `id` is a hash of user, payer, client, session and sub-agent; `opened_at` is
    when the run started or went on, `ended_at` when it ended for lack of calls."""

    __tablename__ = "client_session"
    __table_args__ = (
        Index("idx_client_session_user", "user_id", "created_at"),
        Index("idx_client_session_run", "run_id"),
        Index("idx_client_session_open", "opened_at", postgresql_where=text("(ended_at IS NULL)")),
        Index("idx_client_session_ended", "ended_at", postgresql_where=text("(ended_at IS NOT NULL)")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    run_id: Mapped[str] = mapped_column(ForeignKey("agent_run.id", ondelete="CASCADE"))
    created_at: Mapped[datetime]
    opened_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


# A run is as active as its most active descendant. Rows that a stop of the account holds are skipped: it locks many in another order.
_END = text("""
    WITH opened AS MATERIALIZED (
        SELECT c.id, r.id AS run_id, r.status, r.ancestor_run_ids || r.id AS path,
            greatest(c.opened_at, (
                SELECT greatest(g.started_at, g.finished_at) FROM gateway_call g
                WHERE g.run_id = r.id ORDER BY g.started_at DESC LIMIT 1
            )) AS last_at,
            EXISTS (SELECT FROM credit_hold h WHERE h.run_id = r.id AND h.state = 'live') AS busy
        FROM client_session c JOIN agent_run r ON r.id = c.run_id
        WHERE c.ended_at IS NULL
    ),
    active AS MATERIALIZED (
        SELECT p.run_id, max(o.last_at) AS last_at, bool_or(o.busy) AS busy
        FROM opened o CROSS JOIN LATERAL unnest(o.path) p (run_id)
        GROUP BY p.run_id
    ),
    due AS MATERIALIZED (
        SELECT r.id, o.id AS session_id, a.last_at
        FROM opened o JOIN active a ON a.run_id = o.run_id JOIN agent_run r ON r.id = o.run_id
        WHERE a.last_at < :until AND NOT a.busy OR o.status <> 'running'
        ORDER BY a.last_at LIMIT :batch FOR NO KEY UPDATE OF r SKIP LOCKED
    ),
    finished AS (
        UPDATE agent_run r SET status = 'completed', completed_at = d.last_at
        FROM due d WHERE r.id = d.id AND r.status = 'running'
        RETURNING r.id, r.envelope_run_id
    ),
    noted AS (
        UPDATE client_session c SET ended_at = :now FROM due d WHERE c.id = d.session_id
    )
    SELECT d.id, f.envelope_run_id IS NOT DISTINCT FROM d.id AND f.id IS NOT NULL AS enveloped
    FROM due d LEFT JOIN finished f ON f.id = d.id
""")
_FORGET = text("DELETE FROM client_session WHERE ended_at < :before")


def end_idle_sessions(now: datetime, *, batch: int = BATCH) -> bool:
    """End the next runs of sessions that had no call for IDLE; False when there are no more. Commit after each. Their envelopes are
    given back. Idempotent."""
    found = db.session.execute(_END, {"until": now - IDLE, "now": now, "batch": batch}).all()
    for row in found:
        if row.enveloped:
            run_budgets.close_run_budget(row.id, now)
    db.session.execute(_FORGET, {"before": now - KEPT})
    return len(found) == batch
