"""The figures of agents: entering the store, counting anew, and the week that moves on.

Finishes and settlements need no verb: triggers count them in their own transaction (`migrations/sql/store_0010.sql`,
where the locks and their order are told).
"""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ARRAY, Text, bindparam, text

from models.db import Database

_ENTER = text("SELECT store_enter(:publisher, :agents)").bindparams(bindparam("agents", type_=ARRAY(Text)))
_RECOUNT = text("SELECT store_recount(:publisher, :agent)")
_SLIDE = text("SELECT store_slide(:now)")


def enter(database: Database, publisher_id: str, agent_ids: Collection[str]) -> None:
    """Take the figures of these agents, new ones and old, before anything of them is written.

    First statement of a publication: until its transaction ends nothing is counted for them, so a run that ends
    meanwhile is counted after it. Taken in the order of the ids; nobody waits in a circle.
    """
    database.execute(_ENTER, {"publisher": publisher_id, "agents": list(agent_ids)})


def recount(database: Database, publisher_id: str, agent_id: str) -> None:
    """Tell an agent's figures, and those of its versions, anew from its runs and what their calls were billed.

    For an agent or a version that is new (it may have run before) and to mend what differs. Takes as long as reading
    the agent's runs; holds its figures meanwhile. Of an agent that is not in the store it removes what was counted.
    """
    database.execute(_RECOUNT, {"publisher": publisher_id, "agent": agent_id})


def slide(database: Database, now: datetime) -> datetime:
    """Let the week of the `weekly_*` figures begin seven days before `now`, and subtract the runs that left it.

    Moves a day at most, so that nobody who counts waits long, and never back; returns where it begins. Idempotent.
    Gives up after two seconds (an OperationalError) when somebody counts for so long.
    """
    database.execute(text("SET LOCAL lock_timeout = '2s'"))
    return database.execute(_SLIDE, {"now": now}).scalar_one()  # type: ignore[no-any-return]
