"""Send alerts and weekly reports of organisations: e-mails to the roles that the settings name, and webhook events."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select

from models.accounts.users import User
from models.core import mail
from models.core.db import db, extension
from models.core.db import now as utc_now
from models.orgs import webhooks
from models.orgs.alert_settings import alert_settings
from models.orgs.alerts import ALERT_KINDS, OrgAlert
from models.orgs.org import Org, OrgMember


def send_alert(alert_id: str) -> None:
    """Enqueue the e-mails and webhook deliveries of an alert, in the current transaction: the job behind `raise_alert`. Once
    by alert; locks it."""
    query = select(OrgAlert).where(OrgAlert.id == alert_id).with_for_update()
    alert = db.session.scalars(query).one_or_none()
    if alert is None or alert.sent_at is not None:
        return
    org = db.session.get_one(Org, alert.org_id)
    settings = alert_settings(org.id)
    if alert.kind not in settings.muted:
        for person in recipients(org.id, settings.mail_roles):
            send_alert_mail(org, alert, person)
    webhooks.enqueue_event(org.id, f"alert.{alert.kind}", alert_data(org, alert))
    alert.sent_at = utc_now()


def recipients(org_id: str, roles: Sequence[str]) -> Sequence[User]:
    """The members with one of these roles, by e-mail address."""
    query = (
        select(User)
        .join(OrgMember, OrgMember.user_id == User.id)
        .where(OrgMember.org_id == org_id, OrgMember.role.in_(roles))
        .order_by(User.email)
    )
    return db.session.scalars(query).all()


def send_alert_mail(org: Org, alert: OrgAlert, person: User) -> None:
    """Enqueue the e-mail of an alert to one person."""
    send_org_mail(
        "alert",
        person,
        org,
        title=alert.title,
        message=alert.message,
        kind=ALERT_KINDS[alert.kind].label,
        at=local_time_text(alert.created_at or utc_now(), org),
    )


def send_org_mail(template: str, person: User, org: Org, **values: Any) -> None:
    """Render `emails/orgs/<template>` and enqueue it in the current transaction. The first line of the text is the subject."""
    message = mail.composed(
        person.email, f"orgs/{template}", values | {"organisation": org.name, "slug": org.slug}
    )
    mail.send(extension("settings"), message)


def alert_data(org: Org, alert: OrgAlert) -> dict[str, Any]:
    """The `data` of an alert's webhook event."""
    return {
        "id": alert.id,
        "organization": {"id": org.id, "name": org.name, "slug": org.slug},
        "kind": alert.kind,
        "severity": alert.severity,
        "title": alert.title,
        "message": alert.message,
        "created_at": alert.created_at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "facts": alert.facts,
    }


def local_time_text(moment: datetime, org: Org) -> str:
    """A time on the organisation's clock, as in `Sun 29 Nov 2026, 10:00 CET`."""
    local = moment.astimezone(ZoneInfo(org.time_zone))
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M %Z}"
