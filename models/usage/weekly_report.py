"""The weekly report of an organisation: sent on Monday at eight on its clock, also when nothing happened."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ForeignKey, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models import ledger
from models.core.db import NOW, Base, db, midnight
from models.ledger import Account
from models.orgs import Org
from models.orgs.alert_delivery import recipients, send_org_mail
from models.orgs.alert_settings import alert_settings
from models.orgs.webhooks import enqueue_event
from models.usage.org_figures import clock_of, credits_between, forecast, totals_by
from models.usage.org_labels import labels_of

HOUR = 8
TOP = 5


class OrgWeeklyReport(Base):
    """A report that was enqueued; `week` is the Monday of the week that it is about."""

    __tablename__ = "org_weekly_report"

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    week: Mapped[date] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


def orgs_to_report(now: datetime) -> Sequence[str]:
    """Ids of the organisations where it is Monday, eight o'clock or later, and whose report is not enqueued yet."""
    query = select(Org).where(Org.weekly_reports, Org.deleted_at.is_(None)).order_by(Org.id)
    due = {org.id: week for org in db.session.scalars(query) if (week := _week_to_report(org, now))}
    sent = select(OrgWeeklyReport.org_id, OrgWeeklyReport.week).where(OrgWeeklyReport.org_id.in_(due))
    done = {(id, week) for id, week in db.session.execute(sent)}
    return [id for id, week in due.items() if (id, week) not in done]


def send_report(org: Org, now: datetime) -> bool:
    """Enqueue the report's e-mails and webhook events in the current transaction, once a week; whether it is new. Flushes."""
    week = _week_to_report(org, now)
    if week is None:
        return False
    values = insert(OrgWeeklyReport).values(org_id=org.id, week=week).on_conflict_do_nothing()
    if db.session.execute(values.returning(OrgWeeklyReport.org_id)).first() is None:
        return False
    facts = report_facts(org, week, now)
    for person in recipients(org.id, alert_settings(org.id).mail_roles):
        send_org_mail("weekly_report", person, org, **facts)
    enqueue_event(org.id, "report.weekly", facts | {"organization": {"id": org.id, "slug": org.slug}})
    return True


def report_facts(org: Org, week: date, now: datetime) -> dict[str, Any]:
    """Figures of the seven days from `week`, as plain values."""
    clock = clock_of(org)
    start, end = (midnight(week + timedelta(days=days), clock) for days in (0, 7))
    before = midnight(week - timedelta(days=7), clock)
    top = {}
    for dimension in ("member", "agent", "repository"):
        totals = totals_by(org, dimension, start, end, limit=TOP)
        names = labels_of(org, dimension, [total.key for total in totals])
        top[dimension] = [{"name": names[total.key], "credits": total.credits} for total in totals]
    balance = ledger.balance(Account(org_id=org.id), now=now).net_balance
    expected = forecast(org, balance, now)
    empty_at = expected.empty_at.astimezone(clock) if expected.empty_at else None
    return {
        "first_day": str(week),
        "last_day": str(week + timedelta(days=6)),
        "calls": sum(total.calls for total in totals_by(org, "model", start, end, limit=None)),
        "credits": credits_between(org, start, end),
        "credits_before": credits_between(org, before, start),
        "members": top["member"],
        "agents": top["agent"],
        "repositories": top["repository"],
        "balance": balance,
        "empty_on": str(empty_at.date()) if empty_at else None,
    }


def _week_to_report(org: Org, now: datetime) -> date | None:
    local = now.astimezone(clock_of(org))
    if local.weekday() != 0 or local.hour < HOUR:
        return None
    return local.date() - timedelta(days=7)
