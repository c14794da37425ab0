"""What members of an organisation spent this month, and when they last called."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import String, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY, array

from models.core.db import db
from models.gateway import GatewayCall
from models.orgs import Org
from models.usage.org_figures import month_of, totals_by

LOOKBACK = timedelta(days=90)


class MemberActivity(NamedTuple):
    """Credits of this month on the organisation's clock, and the last call within 90 days, or None."""

    credits: int
    last_call: datetime | None


NO_ACTIVITY = MemberActivity(0, None)


def member_activity(org: Org, user_ids: Sequence[str], now: datetime) -> dict[str, MemberActivity]:
    """What each of the users spent from the organisation this month, and when they last called, failed calls included. Two
    statements: the counted usage of the month by member, and the last call of each by an index."""
    if not user_ids:
        return {}
    spent = {total.key: total.credits for total in totals_by(org, "member", *month_of(org, now), limit=None)}
    member = func.unnest(array(list(user_ids), type_=ARRAY(String))).table_valued("id", name="member")
    member = member.render_derived()
    last = (
        select(GatewayCall.finished_at)
        .where(
            GatewayCall.user_id == member.c.id,
            GatewayCall.account_id == org.id,
            GatewayCall.user_id != GatewayCall.account_id,
            GatewayCall.finished_at >= now - LOOKBACK,
        )
        .order_by(GatewayCall.finished_at.desc())
        .limit(1)
        .lateral("last")
    )
    rows = db.session.execute(
        select(member.c.id, last.c.finished_at).select_from(member.outerjoin(last, true()))
    )
    return {id: MemberActivity(spent.get(id, 0), last_call) for id, last_call in rows}
