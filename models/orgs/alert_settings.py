"""Settings of an organisation's alerts: thresholds, which are sent by e-mail, and to whom."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT, insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt, db
from models.core.errors import Invalid
from models.orgs.alerts import ALERT_KINDS
from models.orgs.audit import record_org
from models.orgs.org import Org

MAX_CREDITS = 10**9
MAIL_ROLES = ("owner", "admin", "billing")
MUTED = ("auto_topup_failed",)
"""Kinds that are not sent by default: owners get an e-mail of billing, with the link that mends it."""


class OrgAlertSettings(Base):
    """Thresholds in credits, the kinds that are not sent by e-mail, and the roles that get the e-mails. Without a row the
    defaults apply."""

    __tablename__ = "org_alert_settings"
    __table_args__ = (
        CheckConstraint(
            "((low_balance >= 0) AND (critical_balance >= 0) AND (high_usage >= 0) AND (unusual_minimum >= 0))",
            name="not_negative",
        ),
        CheckConstraint("((limit_percent >= 1) AND (limit_percent <= 100))", name="limit_percent_range"),
        CheckConstraint("((unusual_factor >= 2) AND (unusual_factor <= 100))", name="unusual_factor_range"),
    )

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    low_balance: Mapped[int] = mapped_column(BigInt, server_default=text("500"))
    critical_balance: Mapped[int] = mapped_column(BigInt, server_default=text("100"))
    high_usage: Mapped[int] = mapped_column(BigInt, server_default=text("5000"))
    limit_percent: Mapped[int] = mapped_column(server_default=text("90"))
    """Share of the monthly credit limit."""
    unusual_factor: Mapped[int] = mapped_column(server_default=text("4"))
    """Times the usual day of a member or agent."""
    unusual_minimum: Mapped[int] = mapped_column(BigInt, server_default=text("500"))
    """A day below this many credits is never unusual."""
    muted: Mapped[list[str]] = mapped_column(ARRAY(TEXT), server_default=text("'{}'::text[]"))
    mail_roles: Mapped[list[str]] = mapped_column(
        ARRAY(TEXT), server_default=text("'{owner,admin,billing}'::text[]")
    )
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


THRESHOLDS: dict[str, tuple[str, int, int, int]] = {
    "low_balance": ("Low balance", 500, 0, MAX_CREDITS),
    "critical_balance": ("Critical balance", 100, 0, MAX_CREDITS),
    "high_usage": ("High usage in a month", 5000, 0, MAX_CREDITS),
    "limit_percent": ("Share of the credit limit", 90, 1, 100),
    "unusual_factor": ("Times the usual day", 4, 2, 100),
    "unusual_minimum": ("Least credits of an unusual day", 500, 0, MAX_CREDITS),
}
"""Label, default, least and most of each threshold."""


def alert_settings(org_id: str) -> OrgAlertSettings:
    """The organisation's settings, or the defaults."""
    stored = db.session.get(OrgAlertSettings, org_id)
    if stored is not None:
        return stored
    defaults: dict[str, Any] = {name: default for name, (_, default, _, _) in THRESHOLDS.items()}
    return OrgAlertSettings(org_id=org_id, muted=list(MUTED), mail_roles=list(MAIL_ROLES), **defaults)


def parse_thresholds(given: dict[str, str]) -> dict[str, int]:
    """Parse the thresholds of a form. Raises Invalid with a message for each invalid field."""
    values: dict[str, int] = {}
    errors: dict[str, str] = {}
    for name, (_, _, least, most) in THRESHOLDS.items():
        digits = given.get(name, "").strip().replace(",", "")
        if digits.isascii() and digits.isdigit() and len(digits) <= 10 and least <= int(digits) <= most:
            values[name] = int(digits)
        else:
            errors[name] = f"Enter a number from {least:,} to {most:,}"
    if not errors and values["critical_balance"] > values["low_balance"]:
        errors["critical_balance"] = f"Enter at most the low balance, {values['low_balance']:,}"
    if errors:
        raise Invalid("The settings are not valid.", fields=errors)
    return values


SWITCHES = ("billing_alerts", "usage_alerts", "weekly_reports")
"""Of an organisation: whether alerts about its balance and its usage are raised, and the weekly report is sent."""


def change_alert_settings(
    org: Org, thresholds: dict[str, int], *, mailed: set[str], roles: set[str], switches: dict[str, bool]
) -> None:
    """Store the organisation's settings and an audit entry. Flushes. `mailed` are the kinds that are sent by e-mail, `roles`
    who gets the e-mails, `switches` those of the organisation, by `SWITCHES`. Raises Invalid for an unknown kind or role."""
    if not mailed <= ALERT_KINDS.keys() or not roles <= set(MAIL_ROLES):
        raise Invalid("There is no such kind of alert, or no such role.")
    before = _as_facts(org, alert_settings(org.id))
    values: dict[str, Any] = {
        **thresholds,
        "muted": [kind for kind in ALERT_KINDS if kind not in mailed],
        "mail_roles": [role for role in MAIL_ROLES if role in roles],
    }
    db.session.execute(
        insert(OrgAlertSettings)
        .values(org_id=org.id, **values)
        .on_conflict_do_update(index_elements=["org_id"], set_={**values, "updated_at": NOW})
    )
    for name, on in switches.items():
        setattr(org, name, on)
    db.session.flush()
    db.session.expire_all()
    after = _as_facts(org, alert_settings(org.id))
    if after != before:
        record_org(org.id, "alert_settings.changed", org.slug, before=before, after=after)


def _as_facts(org: Org, settings: OrgAlertSettings) -> dict[str, Any]:
    thresholds = {name: getattr(settings, name) for name in THRESHOLDS}
    return {
        **thresholds,
        "muted": list(settings.muted),
        "mail_roles": list(settings.mail_roles),
        **{name: getattr(org, name) for name in SWITCHES},
    }
