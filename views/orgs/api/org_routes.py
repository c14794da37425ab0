"""Organisations: list, found, read, edit, delete, settings, publishers (contract 2.8)."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.billing.topups import auto_topup
from models.billing.topups.auto_topup import TopupSettings
from models.core.db import db
from models.ledger import Account, balance
from models.orgs import PEOPLE_ROLES, Org, OrgMember, delete_org, edit_org, found_org, memberships, record_org
from models.orgs.counts import counts_of
from models.store import publishers
from views.orgs.api.orgs_api_blueprint import DOOR, MEMBERS, OWNERS_AND_ADMINS, OrgSuccess, bp, created
from views.store.api.publishers import CountedPublisher, publisher_row
from views.web.body import Body, Int32, Missing, read
from views.web.format import iso
from views.web.guards import limiter, require_cookie_user
from views.web.operation import Operation, ResponseModel
from views.web.org_guards import (
    current_membership,
    current_org,
    org_account,
    org_caller,
    org_route,
    signed_in,
)

ONLY_OWNERS = "Only organization owners can delete organizations"
COLUMNS = (
    *("id", "name", "slug", "description", "owner_id", "stripe_customer_id", "stripe_subscription_id"),
    *("current_period_start", "current_period_end", "auto_topup_enabled", "auto_topup_threshold"),
    *("auto_topup_amount", "credit_limit", "billing_alerts", "usage_alerts", "weekly_reports", "time_zone"),
    *("created_at", "updated_at"),
)
PREFERENCES = {
    "name": "name",
    "description": "description",
    "timeZone": "time_zone",
    "creditLimit": "credit_limit",
    "billingAlerts": "billing_alerts",
    "usageAlerts": "usage_alerts",
    "weeklyReports": "weekly_reports",
}
"""Keys of the settings and their columns."""
DEFAULT_THRESHOLD, DEFAULT_AMOUNT = 500, 2000


class OrgListed(ResponseModel):
    id: str
    name: str
    slug: str
    role: str
    memberCount: int
    repositoryCount: int


class OrgsAnswer(ResponseModel):
    organizations: list[OrgListed]


class OrgRow(ResponseModel):
    id: str
    name: str
    slug: str
    description: str | None
    owner_id: str = Field(description="One of its owners")
    stripe_customer_id: str | None
    stripe_subscription_id: str | None
    current_period_start: datetime | None
    current_period_end: datetime | None
    auto_topup_enabled: bool
    auto_topup_threshold: int = Field(description="Credits")
    auto_topup_amount: int = Field(description="Credits")
    credit_limit: int | None = Field(description="Credits a month")
    billing_alerts: bool
    usage_alerts: bool
    weekly_reports: bool
    time_zone: str = Field(description="IANA name")
    created_at: datetime
    updated_at: datetime


class OrgView(ResponseModel):
    id: str
    name: str
    slug: str
    description: Missing[str] = None
    userRole: str
    memberCount: int
    repositoryCount: int
    creditBalance: int = Field(description="Negative when in debt")
    hasStripeSubscription: bool
    stripeSubscriptionId: Missing[str] = None


class OrgViewBySlug(OrgView):
    owner_id: str
    created_at: datetime


class OrgSettingsAnswer(ResponseModel):
    id: str
    name: str
    slug: str
    description: str | None
    userRole: str
    autoTopupEnabled: bool
    autoTopupThreshold: int = Field(description="Credits")
    autoTopupAmount: int = Field(description="Credits")
    creditLimit: int | None = Field(description="Credits a month")
    billingAlerts: bool
    usageAlerts: bool
    weeklyReports: bool
    timeZone: str = Field(description="IANA name")


class OrgPublishers(ResponseModel):
    publishers: list[CountedPublisher]


class NewOrg(Body):
    name: str | None = Field(None, description="3 to 50 characters; the slug follows from it")
    description: str | None = Field(None, description="Up to 1,000 characters")


class OrgEdit(Body):
    name: Missing[str] = None
    description: str | None = None


class OrgSettings(OrgEdit):
    autoTopupEnabled: Missing[bool] = None
    autoTopupThreshold: Missing[Int32] = None
    autoTopupAmount: Missing[Int32] = None
    creditLimit: Int32 | None = Field(None, ge=0)
    billingAlerts: Missing[bool] = None
    usageAlerts: Missing[bool] = None
    weeklyReports: Missing[bool] = None
    timeZone: Missing[str] = None


@bp.get("/api/orgs")
@Operation(
    tag="Organisations",
    caller="cookie",
    answers={200: (f"The organisations you belong to; roles are {', '.join(PEOPLE_ROLES)}", OrgsAnswer)},
    door=DOOR,
)
def orgs() -> ResponseReturnValue:
    """List the organisations you are a member of, by name."""
    found = memberships(require_cookie_user().id)
    counts = counts_of([org.id for org, _ in found])
    return jsonify(
        organizations=[
            {
                "id": org.id,
                "name": org.name,
                "slug": org.slug,
                "role": member.role,
                "memberCount": counts[org.id].members,
                "repositoryCount": counts[org.id].repositories,
            }
            for org, member in found
        ]
    )


@bp.post("/api/orgs")
@limiter.limit("30/hour;100/day", key_func=org_caller, deduct_when=created)
@Operation(
    tag="Organisations",
    caller="cookie",
    body=NewOrg,
    answers={
        201: ("The organisation", OrgRow),
        400: "An invalid name",
        409: "You own too many organisations",
        429: "Too many organisations today",
    },
    door=DOOR,
)
def create() -> ResponseReturnValue:
    """Found an organisation, which you own.

    Its slug follows from the name: lower case, hyphens for spaces, and a number if it is taken.
    """
    user = require_cookie_user()
    body = read(NewOrg)
    org = found_org(user, body.name or "", body.description)
    db.session.commit()
    return jsonify(_row(org)), 201


@bp.get("/api/orgs/<org_id>")
@Operation(
    tag="Organisations", caller="cookie", answers={200: ("The organisation", OrgView), **MEMBERS}, door=DOOR
)
@org_route()
def organisation() -> ResponseReturnValue:
    """Show an organisation."""
    return jsonify(_view(current_org(), current_membership()))


@bp.get("/api/orgs/slug/<slug>")
@Operation(
    tag="Organisations",
    caller="cookie",
    answers={200: ("The organisation", OrgViewBySlug), **MEMBERS},
    door=DOOR,
)
@org_route(key="slug")
def organisation_by_slug() -> ResponseReturnValue:
    """Show an organisation by its slug."""
    org = current_org()
    view = _view(org, current_membership())
    return jsonify(**view, owner_id=org.owner_id, created_at=iso(org.created_at))


@bp.patch("/api/orgs/<org_id>")
@limiter.limit("120/minute", key_func=org_caller)
@Operation(
    tag="Organisations",
    caller="cookie",
    body=OrgEdit,
    answers={200: ("The organisation", OrgRow), 400: "An invalid name", **OWNERS_AND_ADMINS},
    door=DOOR,
)
@org_route("edit_settings")
def edit() -> ResponseReturnValue:
    """Edit name and description.

    Absent keys stay unchanged. The slug never changes.
    """
    body = read(OrgEdit)
    edit_org(current_org(), body.model_dump(exclude_unset=True))
    db.session.commit()
    return jsonify(_row(current_org()))


DELETION: dict[str, Any] = {
    "tag": "Organisations",
    "caller": "cookie",
    "answers": {
        200: ("Deleted; an owner can restore it at /orgs for 14 days", OrgSuccess),
        403: "You are no owner",
        404: "Organisation not found, or not yours",
        409: "It owns publishers",
    },
    "door": DOOR,
}


@bp.delete("/api/orgs/<org_id>")
@limiter.limit("60/minute", key_func=org_caller)
@Operation(**DELETION)
@org_route("delete_org", ONLY_OWNERS)
def delete() -> ResponseReturnValue:
    """Delete an organisation.

    Its members lose access at once and its keys stop working. For 14 days an owner can restore it; then it is erased.
    """
    return _delete()


@bp.delete("/api/orgs/<org_id>/settings")
@limiter.limit("60/minute", key_func=org_caller)
@Operation(**DELETION)
@org_route("delete_org", ONLY_OWNERS)
def delete_settings() -> ResponseReturnValue:
    """Delete an organisation.

    The same as DELETE /api/orgs/{orgId}.
    """
    return _delete()


def _delete() -> ResponseReturnValue:
    delete_org(current_org())
    db.session.commit()
    return jsonify(success=True)


@bp.get("/api/orgs/<org_id>/settings")
@Operation(
    tag="Organisations",
    caller="cookie",
    answers={200: ("The settings", OrgSettingsAnswer), **OWNERS_AND_ADMINS},
    door=DOOR,
)
@org_route("edit_settings")
def settings_of() -> ResponseReturnValue:
    """Show the settings."""
    org = current_org()
    return jsonify(
        id=org.id,
        slug=org.slug,
        userRole=current_membership().role,
        autoTopupEnabled=org.auto_topup_enabled,
        autoTopupThreshold=org.auto_topup_threshold or DEFAULT_THRESHOLD,
        autoTopupAmount=org.auto_topup_amount or DEFAULT_AMOUNT,
        **{key: getattr(org, column) for key, column in PREFERENCES.items()},
    )


@bp.patch("/api/orgs/<org_id>/settings")
@limiter.limit("120/minute", key_func=org_caller)
@Operation(
    tag="Organisations",
    caller="cookie",
    body=OrgSettings,
    answers={200: ("Saved", OrgSuccess), 400: "An invalid value", **OWNERS_AND_ADMINS},
    door=DOOR,
)
@org_route("edit_settings")
def edit_settings() -> ResponseReturnValue:
    """Edit the settings.

    Absent keys stay unchanged.
    """
    org, sent = current_org(), read(OrgSettings).model_dump(exclude_unset=True)
    edit_org(org, {PREFERENCES[key]: value for key, value in sent.items() if key in PREFERENCES})
    if {"autoTopupEnabled", "autoTopupThreshold", "autoTopupAmount"} & sent.keys():
        _save_topup(org, sent)
    db.session.commit()
    return jsonify(success=True)


def _save_topup(org: Org, sent: dict[str, Any]) -> None:
    before = auto_topup.settings_of(org_account())
    after = TopupSettings(
        sent.get("autoTopupEnabled", before.enabled),
        sent.get("autoTopupThreshold", before.threshold),
        sent.get("autoTopupAmount", before.amount),
        before.monthly_cap_cents,
    )
    if after != before:
        auto_topup.save(org_account(), signed_in().id, after, source="api")
        record_org(org.id, "topup.changed", org.slug, before=asdict(before), after=asdict(after))


@bp.get("/api/orgs/<org_id>/publishers")
@Operation(
    tag="Organisations",
    caller="cookie",
    answers={200: ("The organisation's publishers, oldest first", OrgPublishers), **MEMBERS},
    door=DOOR,
)
@org_route()
def org_publishers() -> ResponseReturnValue:
    """List the publishers of an organisation.

    agentCount counts agents, not their versions.
    """
    rows = publishers.of_org(current_org().id)
    return jsonify(publishers=[publisher_row(row.publisher, row.agents) for row in rows])


def _row(org: Org) -> dict[str, Any]:
    values = {column: getattr(org, column) for column in COLUMNS}
    return {key: iso(value) if isinstance(value, datetime) else value for key, value in values.items()}


def _view(org: Org, member: OrgMember) -> dict[str, Any]:
    counts = counts_of([org.id])[org.id]
    view = {
        "id": org.id,
        "name": org.name,
        "slug": org.slug,
        "userRole": member.role,
        "memberCount": counts.members,
        "repositoryCount": counts.repositories,
        "creditBalance": balance(Account(org_id=org.id)).net_balance,
        "hasStripeSubscription": org.stripe_subscription_id is not None,
    }
    optional = {"description": org.description, "stripeSubscriptionId": org.stripe_subscription_id}
    return view | {key: value for key, value in optional.items() if value is not None}
