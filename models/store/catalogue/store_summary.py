"""What the landing page says of the store: its totals and a few agents."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from sqlalchemy import func, select

from models.core.db import db
from models.store.catalogue import listing
from models.store.catalogue.listing import AgentCard, ListingQuery
from models.store.tables import Agent

SHOWN = 4


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """Totals of the agents with a version to run, without deprecated ones; `weekly_runs` are completed, billed runs of the last
    seven days. `cards` are the operator's choice, else the most used of these days, else the newest: `kind` says which."""

    agents: int
    publishers: int
    weekly_runs: int
    kind: Literal["chosen", "used", "newest"]
    cards: Sequence[AgentCard]


def summarize(choice: Sequence[str], today: date) -> StoreSummary:
    """The summary. `choice` is as for `listing.editors_choice`. Three statements at most."""
    totals = select(
        func.count(), func.count(Agent.publisher_id.distinct()), func.coalesce(func.sum(Agent.weekly_runs), 0)
    ).where(Agent.latest_version.is_not(None), Agent.deprecated_at.is_(None))
    agents, publishers, weekly_runs = db.session.execute(totals).one()
    chosen = listing.editors_choice(choice, today)[:SHOWN]
    if chosen:
        return StoreSummary(agents, publishers, int(weekly_runs), "chosen", chosen)
    found = listing.batch(ListingQuery(sort="cost" if weekly_runs else "newest"), today, size=SHOWN)
    return StoreSummary(
        agents, publishers, int(weekly_runs), "used" if weekly_runs else "newest", found.cards
    )
