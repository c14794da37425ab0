"""What a member leaves behind in an organisation: traffic of the last 30 days by key, and calls in flight."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select

from models.core.db import db
from models.gateway.gateway_call import GatewayCall
from models.ledger import CreditHold
from models.orgs.offboarding import member_leaving

TRAFFIC = timedelta(days=30)


class KeyTraffic(NamedTuple):
    """Calls, credits, and the start of the last call."""

    calls: int = 0
    credits: int = 0
    last: datetime | None = None


class Departure(NamedTuple):
    """The member's calls that the organisation paid in the last 30 days, by key (None: a key of their own), and in flight."""

    keys: dict[str | None, KeyTraffic]
    live_calls: int
    held: int

    @property
    def calls(self) -> int:
        """Calls in 30 days."""
        return sum(each.calls for each in self.keys.values())

    @property
    def credits(self) -> int:
        """Credits in 30 days."""
        return sum(each.credits for each in self.keys.values())


def departure(org_id: str, user_id: str, now: datetime) -> Departure:
    """What the member leaves behind. Two statements."""
    calls = (
        select(
            GatewayCall.key_id,
            func.count(),
            func.coalesce(func.sum(GatewayCall.credits), 0),
            func.max(GatewayCall.started_at),
        )
        .where(
            GatewayCall.user_id == user_id,
            GatewayCall.user_id != GatewayCall.account_id,
            GatewayCall.account_id == org_id,
            GatewayCall.finished_at >= now - TRAFFIC,
        )
        .group_by(GatewayCall.key_id)
    )
    live = select(func.count(), func.coalesce(func.sum(CreditHold.amount), 0)).where(
        CreditHold.account_id == org_id,
        CreditHold.user_id == user_id,
        CreditHold.state == "live",
        CreditHold.expires_at > now,
    )
    keys = {
        key: KeyTraffic(count, int(credits), last) for key, count, credits, last in db.session.execute(calls)
    }
    live_calls, held = db.session.execute(live).one()
    return Departure(keys, live_calls, int(held))


@member_leaving.connect
def facts_of_departure(org_id: str, *, user_id: str, now: datetime) -> dict[str, Any]:
    """The same for the receipt."""
    found = departure(org_id, user_id, now)
    keys = {key: {"calls": each.calls, "credits": each.credits} for key, each in found.keys.items()}
    totals = {
        "calls": found.calls,
        "credits": found.credits,
        "live_calls": found.live_calls,
        "held": found.held,
    }
    return {"totals": totals, "keys": keys}
