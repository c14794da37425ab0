"""What the keys of an organisation spent."""

from datetime import datetime

from models.orgs import Org
from models.usage.org_figures import month_of, totals_by


def spent_by_key(org: Org, now: datetime) -> dict[str, int]:
    """Credits that each key spent from the organisation's account this month, on its clock; keys without calls are left out."""
    return {total.key: total.credits for total in totals_by(org, "key", *month_of(org, now), limit=None)}
