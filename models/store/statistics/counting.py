"""The figures of agents: runs that wait to be counted, entering the store, counting anew, and the week that moves on.

Finishes, settlements and deletions need no verb: triggers put their runs into `store_queue`, and a job counts them within
seconds (`migrations/functions/store`, where the locks and their order are told).
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import ARRAY, Text, bindparam, text

from models.core.db import db

_ENTER = text("SELECT store_enter(:publisher, :agents)").bindparams(bindparam("agents", type_=ARRAY(Text)))
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
_TELL_VERSION = text("SELECT store_tell_version(:publisher, :agent, :version)")
_APPLY = text("SELECT store_apply(:after, :most)")
_SLIDE = text("SELECT store_slide(:now)")


def enter(publisher_id: str, agent_ids: Collection[str]) -> None:
    """Take the figures of these agents, new ones and old, before anything of them is written.

    First statement of a publication: until its transaction ends nothing is counted for them, so a run that ends
    meanwhile is counted after it. Taken in the order of the ids; nobody waits in a circle.
    """
    db.session.execute(_ENTER, {"publisher": publisher_id, "agents": list(agent_ids)})


def entered(publisher_id: str, versions: Mapping[str, str]) -> None:
    """Count what ran before it was published: `versions` are the new version of each agent, written just now.

    After `enter`, in the same transaction. An agent or a version that nobody ran costs an index look-up. Of an agent that
    is counted already only the new version is told.
    """
    db.session.flush()
    asked = {"publisher": publisher_id, "agents": list(versions), "versions": list(versions.values())}
    for agent_id, counted in db.session.execute(_RAN_BEFORE, asked).all():
        if counted:
            place = {"publisher": publisher_id, "agent": agent_id, "version": versions[agent_id]}
            db.session.execute(_TELL_VERSION, place)
        else:
            recount(publisher_id, agent_id)


def recount(publisher_id: str, agent_id: str) -> None:
    """Tell an agent's figures, and those of its versions, anew from its runs and what their calls were billed.

    Takes as long as reading the agent's runs, and holds its figures meanwhile. Of an agent that is not in the store it removes what was counted.
    """
    db.session.execute(_RECOUNT, {"publisher": publisher_id, "agent": agent_id})


def apply(after: int = 0, most: int = 500) -> int | None:
    """Count the next `most` runs that wait in the queue after the place `after`; where to go on, None at its end.

    Commit after each: then they are counted and out of the queue, or neither. Any number at a time may apply. Agents that
    somebody publishes meanwhile are passed over, and their runs wait for the next time: it waits for no lock that
    publishing holds. Gives up after two seconds (an OperationalError) when `slide` takes so long.
    """
    db.session.execute(text("SET LOCAL lock_timeout = '2s'"))
    return db.session.execute(_APPLY, {"after": after, "most": most}).scalar_one()  # type: ignore[no-any-return]


def slide(now: datetime) -> datetime:
    """Let the week of the `weekly_*` figures begin seven days before `now`, and subtract the runs that left it.

    Moves a day at most, so that nobody who counts waits long, and never back; returns where it begins. Idempotent.
    Gives up after two seconds (an OperationalError) when somebody counts for so long.
    """
    db.session.execute(text("SET LOCAL lock_timeout = '2s'"))
    return db.session.execute(_SLIDE, {"now": now}).scalar_one()  # type: ignore[no-any-return]
