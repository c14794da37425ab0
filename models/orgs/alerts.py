"""Alerts of organisations: what happened or holds now, each occurrence once; who sees and who has dismissed it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    UniqueConstraint,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core import jobs
from models.core.db import NEW_ID, NOW, Base, db
from models.core.db import now as utc_now
from models.core.errors import NotFound
from models.orgs.org import OrgMember
from models.orgs.roles import can

Severity = Literal["info", "warning", "critical"]

MAX_LISTED = 100


class AlertKind(NamedTuple):
    """Label in settings, and whether every member sees its alerts. Others are for those who see everybody's usage, and for
    the member whom `facts["user_id"]` names."""

    label: str
    for_everyone: bool = False


ALERT_KINDS: dict[str, AlertKind] = {
    "low_balance": AlertKind("Low balance", for_everyone=True),
    "high_usage": AlertKind("High usage in a month", for_everyone=True),
    "credit_limit_reached": AlertKind("Monthly credit limit", for_everyone=True),
    "auto_topup_failed": AlertKind("Automatic top-up failed"),
    "card_expiring": AlertKind("Card expires"),
    "budget_warned": AlertKind("Budget warning"),
    "budget_stopped": AlertKind("Budget used up"),
    "unusual_spend": AlertKind("Unusual spend"),
    "invite_expiring": AlertKind("Invitation expires"),
    "webhook_disabled": AlertKind("Webhook switched off"),
}


class OrgAlert(Base):
    """One occurrence of an alert, named by `key` within its kind. It is open until it is resolved or `until` passes.

    `facts` are plain values for programs and links, such as `user_id`; `sent_at` is when its e-mails and webhooks were
    enqueued."""

    __tablename__ = "org_alert"
    __table_args__ = (
        UniqueConstraint("org_id", "kind", "key", name="org_alert_occurrence_key"),
        CheckConstraint(
            "(severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text]))", name="severity_known"
        ),
        Index("idx_org_alert_latest", "org_id", "created_at", "id"),
        Index("idx_org_alert_open", "org_id", "kind", postgresql_where=text("(resolved_at IS NULL)")),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    kind: Mapped[str]
    key: Mapped[str]
    severity: Mapped[str]
    title: Mapped[str]
    message: Mapped[str]
    facts: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    until: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]


class OrgAlertDismissal(Base):
    """A member has dismissed an occurrence: they no longer see it among the open ones, others still do."""

    __tablename__ = "org_alert_dismissal"
    __table_args__ = (Index("idx_org_alert_dismissal_user", "user_id"),)

    alert_id: Mapped[str] = mapped_column(ForeignKey("org_alert.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    dismissed_at: Mapped[datetime] = mapped_column(server_default=NOW)


def raise_alert(
    org_id: str,
    kind: str,
    key: str,
    severity: Severity,
    title: str,
    message: str,
    facts: dict[str, Any] | None = None,
    *,
    until: datetime | None = None,
    quiet: bool = False,
) -> bool:
    """Record an alert and enqueue its e-mails and webhooks, in the current transaction; whether it is new. Flushes.

    Once by (org, kind, key): `key` names the occurrence, such as "<budget id>:<start of its window>". Title and message are
    plain text for members; `facts` are JSON values without secrets, with `user_id` if it is about one member. It stays open
    until `resolve_alerts`, or until the time `until`. A `quiet` one is shown but not sent.
    """
    if kind not in ALERT_KINDS:
        raise ValueError(f"{kind} is no kind of alert")
    id = db.session.scalars(
        insert(OrgAlert)
        .values(
            org_id=org_id,
            kind=kind,
            key=key,
            severity=severity,
            title=title,
            message=message,
            facts=facts or {},
            until=until,
            sent_at=utc_now() if quiet else None,
        )
        .on_conflict_do_nothing()
        .returning(OrgAlert.id)
    ).one_or_none()
    if id is None:
        return False
    if not quiet:
        jobs.enqueue(jobs.send_alert, alert_id=id)
    return True


def resolve_alerts(org_id: str, kind: str, *, key: str | None = None, now: datetime | None = None) -> None:
    """Close the open alerts of a kind, or only the occurrence `key`: what they warned of is over. Flushes."""
    query = update(OrgAlert).where(
        OrgAlert.org_id == org_id, OrgAlert.kind == kind, OrgAlert.resolved_at.is_(None)
    )
    if key is not None:
        query = query.where(OrgAlert.key == key)
    db.session.execute(query.values(resolved_at=now or utc_now()))


def open_alerts(org_id: str, *, now: datetime | None = None) -> Sequence[OrgAlert]:
    """All open alerts of the organisation, newest first; at most 100. Not for members: see `alerts_for`."""
    query = select(OrgAlert).where(OrgAlert.org_id == org_id, _is_open(now or utc_now()))
    return db.session.scalars(_latest_first(query)).all()


def alerts_for(member: OrgMember, *, now: datetime | None = None) -> Sequence[OrgAlert]:
    """The open alerts that the member may see and has not dismissed, newest first; at most 100."""
    query = select(OrgAlert).where(
        *_visible_to(member), _is_open(now or utc_now()), ~_dismissed_by(member.user_id)
    )
    return db.session.scalars(_latest_first(query)).all()


def earlier_alerts(member: OrgMember, *, now: datetime | None = None) -> Sequence[OrgAlert]:
    """Alerts that the member may see and has dismissed, or that are over, newest first; at most 100."""
    over = or_(~_is_open(now or utc_now()), _dismissed_by(member.user_id))
    return db.session.scalars(_latest_first(select(OrgAlert).where(*_visible_to(member), over))).all()


def dismiss(member: OrgMember, alert_id: str) -> None:
    """Dismiss an alert for the member. Idempotent; flushes. Raises NotFound for an alert that they do not see."""
    query = select(OrgAlert.id).where(*_visible_to(member), OrgAlert.id == alert_id)
    if "\x00" in alert_id or db.session.scalars(query).one_or_none() is None:
        raise NotFound("Alert not found")
    _store_dismissals(member, [alert_id])


def dismiss_kind(member: OrgMember, kind: str) -> None:
    """Dismiss the open alerts of a kind for the member. Idempotent; flushes."""
    query = select(OrgAlert.id).where(*_visible_to(member), OrgAlert.kind == kind, _is_open(utc_now()))
    _store_dismissals(member, db.session.scalars(query).all())


def _store_dismissals(member: OrgMember, alert_ids: Sequence[str]) -> None:
    if alert_ids:
        values = [{"alert_id": id, "user_id": member.user_id} for id in alert_ids]
        db.session.execute(insert(OrgAlertDismissal).values(values).on_conflict_do_nothing())


def _latest_first(query: Any) -> Any:
    return query.order_by(OrgAlert.created_at.desc(), OrgAlert.id.desc()).limit(MAX_LISTED)


def _is_open(now: datetime) -> ColumnElement[bool]:
    return OrgAlert.resolved_at.is_(None) & or_(OrgAlert.until.is_(None), OrgAlert.until > now)


def _visible_to(member: OrgMember) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [OrgAlert.org_id == member.org_id]
    if not can(member, "see_all_usage"):
        everyone = [name for name, kind in ALERT_KINDS.items() if kind.for_everyone]
        own = OrgAlert.facts["user_id"].astext == member.user_id
        conditions.append(or_(OrgAlert.kind.in_(everyone), own))
    return conditions


def _dismissed_by(user_id: str) -> ColumnElement[bool]:
    return (
        select(OrgAlertDismissal.alert_id)
        .where(OrgAlertDismissal.alert_id == OrgAlert.id, OrgAlertDismissal.user_id == user_id)
        .exists()
    )
