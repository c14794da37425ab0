"""Find what an organisation should know: low balance, high usage, the credit limit (contract 3.8), unusual spend, invitations
that expire."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import func, select, union

from models import ledger
from models.core.db import db, lock_name
from models.core.db import now as utc_now
from models.ledger import Account
from models.ledger.message import Message
from models.orgs import Org, OrgAlert, OrgInvite, raise_alert, resolve_alerts
from models.orgs.alert_settings import OrgAlertSettings, alert_settings
from models.orgs.alerts import Severity
from models.orgs.invites import is_open
from models.usage.org_figures import clock_of, month_used, totals_by
from models.usage.org_labels import labels_of
from models.usage.org_usage import OrgUsage

STATES = ("low_balance", "high_usage", "credit_limit_reached")
"""Alerts that are open as long as what they say is true."""
RECENT = timedelta(minutes=10)
DAY = timedelta(days=1)
USUAL_DAYS, FEWEST_DAYS = 28, 3
"""The usual day is the mean of the days with calls among the last 28 before today, if there are at least three."""
WATCHED = 20
"""Members and agents with the highest use that are looked at."""


class _State(NamedTuple):
    severity: Severity
    title: str
    message: str


def orgs_to_watch(now: datetime) -> Sequence[str]:
    """Ids of the organisations with calls in the last ten minutes, or with an open alert that may be over."""
    active = select(Message.org_id).where(Message.finished_at > now - RECENT, Message.org_id.is_not(None))
    warned = select(OrgAlert.org_id).where(OrgAlert.kind.in_(STATES), OrgAlert.resolved_at.is_(None))
    found = union(active, warned).subquery()
    query = (
        select(Org.id).where(Org.id.in_(select(found.c.org_id)), Org.deleted_at.is_(None)).order_by(Org.id)
    )
    return db.session.scalars(query).all()


def watch_org(org: Org, *, now: datetime | None = None) -> None:
    """Open and close the organisation's alerts about balance, usage and credit limit. Flushes; runs for one organisation wait
    for each other."""
    now = now or utc_now()
    lock_name("alerts/" + org.id)
    settings = alert_settings(org.id)
    balance = ledger.balance(Account(org_id=org.id), now=now)
    used = month_used(org, now)
    fresh = not (balance.rows or used)  # nobody is warned of a wallet that was never filled
    _keep(org, "low_balance", _low_balance(org, settings, balance.net_balance), now, quiet=fresh)
    _keep(org, "high_usage", _high_usage(org, settings, used), now)
    _keep(org, "credit_limit_reached", _credit_limit(org, settings, used), now)


def watch_spend(org: Org, now: datetime) -> None:
    """Warn of members and agents whose last 24 hours cost far more than their usual day; at most once a day each. Flushes."""
    if not org.usage_alerts:
        return
    settings = alert_settings(org.id)
    today = now.astimezone(clock_of(org)).date()
    for dimension in ("member", "agent"):
        recent = totals_by(org, dimension, now - DAY, now, grain="hour", limit=WATCHED)
        high = {one.key: one.credits for one in recent if one.key and one.credits >= settings.unusual_minimum}
        usual = _usual_days(org, dimension, list(high), now)
        names = labels_of(org, dimension, high)
        for key, credits in high.items():
            if key in usual and credits >= settings.unusual_factor * usual[key]:
                times = credits / usual[key] if usual[key] else None
                raise_alert(
                    org.id,
                    "unusual_spend",
                    f"{dimension}:{key}:{today}",
                    "warning",
                    "Unusual Spend",
                    f"{names[key]} used {credits:,} credits in the last 24 hours"
                    + (f", {times:.1f} times the usual day of {usual[key]:,.0f}." if times else "."),
                    {"user_id" if dimension == "member" else "agent_id": key, "credits": credits},
                    until=now + DAY,
                )


def watch_invites(org: Org, now: datetime) -> None:
    """Warn of invitations that expire within a day: one alert a day. Flushes."""
    query = (
        select(OrgInvite.email)
        .where(
            OrgInvite.org_id == org.id,
            *is_open(),
            OrgInvite.expires_at > now,
            OrgInvite.expires_at <= now + DAY,
        )
        .order_by(OrgInvite.email)
        .limit(101)
    )
    emails = db.session.scalars(query).all()
    if not emails:
        return
    named = ", ".join(emails[:3]) + (" and more" if len(emails) > 3 else "")
    one = len(emails) == 1
    raise_alert(
        org.id,
        "invite_expiring",
        str(now.astimezone(clock_of(org)).date()),
        "info",
        "Invitation Expires" if one else "Invitations Expire",
        f"{'An invitation expires' if one else f'{len(emails)} invitations expire'} within a day: {named}.",
        {"emails": list(emails[:100])},
        until=now + DAY,
    )


def _keep(org: Org, kind: str, state: _State | None, now: datetime, *, quiet: bool = False) -> None:
    """Let exactly one alert of the kind be open if there is a `state`, else none. A change of severity is a new occurrence."""
    query = select(OrgAlert).where(
        OrgAlert.org_id == org.id, OrgAlert.kind == kind, OrgAlert.resolved_at.is_(None)
    )
    found = db.session.scalars(query).all()
    if state and found and found[0].severity == state.severity:
        found[0].message = state.message
        return
    if found:
        resolve_alerts(org.id, kind, now=now)
    if state:
        key = f"{state.severity}:{now.isoformat()}"
        raise_alert(org.id, kind, key, state.severity, state.title, state.message, quiet=quiet)


def _low_balance(org: Org, settings: OrgAlertSettings, net: int) -> _State | None:
    if not org.billing_alerts or net >= settings.low_balance:
        return None
    severity: Severity = "critical" if net < settings.critical_balance else "warning"
    return _State(severity, "Low Credit Balance", f"Organization has {net} credits remaining")


def _high_usage(org: Org, settings: OrgAlertSettings, used: int) -> _State | None:
    if not org.usage_alerts or used <= settings.high_usage:
        return None
    return _State("info", "High Usage This Cycle", f"Organization has used {used} credits this billing cycle")


def _credit_limit(org: Org, settings: OrgAlertSettings, used: int) -> _State | None:
    limit = org.credit_limit
    if not limit or used * 100 < limit * settings.limit_percent:
        return None
    percent = int(used * 100 / limit + 0.5)
    message = f"Organization has used {used} of {limit} credits this month ({percent}%)"
    return _State("critical" if used >= limit else "warning", "Credit Limit Approaching", message)


def _usual_days(org: Org, dimension: str, keys: list[str], now: datetime) -> dict[str, float]:
    """The usual day of each key in credits, if it has one."""
    days = func.count().label("days")
    query = (
        select(OrgUsage.key, func.sum(OrgUsage.credits) / days)
        .where(
            OrgUsage.org_id == org.id,
            OrgUsage.user_id == "",
            OrgUsage.dimension == dimension,
            OrgUsage.grain == "day",
            OrgUsage.bucket >= now - timedelta(days=USUAL_DAYS + 1),
            # whole days that ended before the last 24 hours
            OrgUsage.bucket <= now - 2 * DAY,
            OrgUsage.key.in_(keys),
        )
        .group_by(OrgUsage.key)
        .having(days >= FEWEST_DAYS)
    )
    return {key: float(mean) for key, mean in db.session.execute(query)}
