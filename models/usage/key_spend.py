"""What API keys spent this month."""

from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import func, select

from models.accounts import Session
from models.core.db import db
from models.ledger.rollup import UsageRollup
from models.orgs import Org
from models.usage.org_figures import month_of, totals_by


def spent_by_key(org: Org, now: datetime, *, user_id: str = "") -> dict[str, int]:
    """Credits that each key, or each key of a member, spent from the organisation's account this month, on its clock; keys without
    calls are left out."""
    totals = totals_by(org, "key", *month_of(org, now), limit=None, user_id=user_id)
    return {total.key: total.credits for total in totals}


def spent_by_own_keys(user_id: str, keys: Iterable[Session], now: datetime) -> dict[str, int]:
    """Credits that each of a person's keys spent this month from the account that pays for it: their own, by months in UTC, or an
    organisation's, on its clock. Keys without calls are left out. One statement for the person and two for each organisation."""
    month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    query = (
        select(UsageRollup.key_id, func.sum(UsageRollup.credits))
        .where(UsageRollup.account_id == user_id, UsageRollup.grain == "day", UsageRollup.bucket >= month)
        .group_by(UsageRollup.key_id)
    )
    own = {key: int(credits) for key, credits in db.session.execute(query)}
    spent: dict[str, int] = {}
    by_org: dict[str, dict[str, int]] = {}
    for key in keys:
        if key.org_id and key.org_id not in by_org:
            org = db.session.get_one(Org, key.org_id)
            by_org[key.org_id] = spent_by_key(org, now, user_id=user_id)
        found = by_org[key.org_id] if key.org_id else own
        if key.session_token in found:
            spent[key.session_token] = found[key.session_token]
    return spent
