"""Counting runs for the statistics of agents: the queue, publications, recounts, and the 7-day window.

Triggers queue runs that finish, are settled or are deleted in `store_queue`; a job counts them within seconds. Locks and their
order: `migrations/functions/store/README.md`.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import ARRAY, Text, bindparam, text

from models.core.db import db

_LOCK = text("SELECT store_enter(:publisher, :agents)").bindparams(bindparam("agents", type_=ARRAY(Text)))
_RECOUNT = text("SELECT store_recount(:publisher, :agent)")
_RAN_BEFORE = text(
    """
    SELECT u.id, true AS counted FROM unnest(:agents, :versions) AS u (id, version)
    WHERE EXISTS (
        SELECT FROM agent_day d WHERE d.publisher_id = :publisher AND d.agent_id = u.id AND d.version = u.version
    )
    UNION ALL
    SELECT u.id, false FROM unnest(:agents) AS u (id)
    WHERE NOT EXISTS (
        SELECT FROM agent_run_bill b WHERE b.publisher_id = :publisher AND b.agent_id = u.id
    ) AND (
        EXISTS (
            SELECT FROM agent_run r
            WHERE r.publisher_id = :publisher AND r.agent_name = u.id AND r.status = 'completed'
        ) OR EXISTS (
            SELECT FROM agent_run r
            WHERE r.publisher_id = :publisher AND r.agent_name = u.id AND r.status IN ('failed', 'cancelled')
        )
    )
    ORDER BY id
    """
).bindparams(bindparam("agents", type_=ARRAY(Text)), bindparam("versions", type_=ARRAY(Text)))
_COUNT_VERSION = text("SELECT store_tell_version(:publisher, :agent, :version)")
_APPLY = text("SELECT store_apply(:after, :most)")
_ADVANCE = text("SELECT store_slide(:now)")


def lock_agents(publisher_id: str, agent_ids: Collection[str]) -> None:
    """Lock the statistics of these agents, existing or not, until the transaction ends.

    First statement of a publication: a run that ends meanwhile is counted after it. Locks in id order, to avoid deadlocks.
    """
    db.session.execute(_LOCK, {"publisher": publisher_id, "agents": list(agent_ids)})


def count_earlier_runs(publisher_id: str, versions: Mapping[str, str]) -> None:
    """Count runs from before the publication. `versions` maps each agent to its new version, already inserted.

    Call after `lock_agents`, in the same transaction. Without earlier runs it costs an index lookup. For an agent that is
    already counted, only the new version is counted.
    """
    db.session.flush()
    parameters = {"publisher": publisher_id, "agents": list(versions), "versions": list(versions.values())}
    for agent_id, counted in db.session.execute(_RAN_BEFORE, parameters).all():
        if counted:
            key = {"publisher": publisher_id, "agent": agent_id, "version": versions[agent_id]}
            db.session.execute(_COUNT_VERSION, key)
        else:
            recount(publisher_id, agent_id)


def recount(publisher_id: str, agent_id: str) -> None:
    """Recompute the statistics of an agent and its versions from its runs and their bills.

    Reads all runs of the agent, with its statistics locked. For an agent that is not in the store, deletes its bills.
    """
    db.session.execute(_RECOUNT, {"publisher": publisher_id, "agent": agent_id})


def apply_queue(after: int = 0, limit: int = 500) -> int | None:
    """Count the next `limit` queued runs after the id `after`; returns the next `after`, None at the end of the queue.

    Commit after each call: counting and dequeuing are atomic. Safe to call concurrently. Skips agents that are being published;
    their runs stay queued. Raises OperationalError after waiting two seconds for `advance_window`.
    """
    db.session.execute(text("SET LOCAL lock_timeout = '2s'"))
    return db.session.execute(_APPLY, {"after": after, "most": limit}).scalar_one()  # type: ignore[no-any-return]


def advance_window(now: datetime) -> datetime:
    """Advance the 7-day window of the `weekly_*` statistics to end at `now`, and subtract the runs that left it.

    Advances by one day at most, to hold its lock briefly, and never backwards; returns the new start. Idempotent. Raises
    OperationalError after waiting two seconds for calls that count.
    """
    db.session.execute(text("SET LOCAL lock_timeout = '2s'"))
    return db.session.execute(_ADVANCE, {"now": now}).scalar_one()  # type: ignore[no-any-return]
