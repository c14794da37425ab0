"""Operators' JSON routes of organisations: list, export, features (contract 2.12)."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import ConfigDict, Field

from models.admin.org_overview import Health, OrgSummary, all_orgs, org_named, orgs_newest_first
from models.core.db import db, now
from models.core.errors import DomainError, Invalid
from models.orgs.features import set_feature, stored_feature
from models.orgs.org import OrgFeature
from models.usage.export import quoted_csv
from views.admin.api.admin_api_blueprint import DOOR, NOT_ADMIN, bp
from views.admin.pages.admin_blueprint import operating_user
from views.web.body import Body, Missing, read
from views.web.format import iso
from views.web.guards import admin_required, audit
from views.web.operation import Operation, ResponseModel, path, query

COLUMNS = (
    *("Organization ID", "Name", "Slug", "Description", "Owner Name", "Owner Email", "Created At"),
    *("Updated At", "Stripe Customer ID", "Auto Topup Enabled", "Auto Topup Threshold"),
    *("Auto Topup Amount", "Credit Limit", "Billing Alerts", "Usage Alerts"),
)
FEATURE_PATH = [path("orgId", "The organisation's id"), path("feature", "The feature's name")]


class AdminOrg(ResponseModel):
    id: str
    name: str
    slug: str
    owner_name: str
    member_count: int = Field(description="Without service accounts")
    repository_count: int = Field(description="Active ones")
    credit_balance: int
    usage_this_cycle: int = Field(description="Credits used in this calendar month (UTC)")
    health_status: Health = Field(description="By the balance: critical below 100 credits, warning below 500")
    created_at: datetime
    last_activity: datetime = Field(description="The latest call, or else the latest change")


class AdminOrgs(ResponseModel):
    organizations: list[AdminOrg]
    next: Missing[str] = Field(None, description="The `after` of the next page, if there is one")


class FeatureRow(ResponseModel):
    org_id: str
    feature: str
    config: dict[str, Any] | None
    is_active: bool
    created_at: datetime
    updated_at: datetime


class NoFeature(ResponseModel):
    config: None


class FeatureConfig(Body):
    """The new configuration: any object."""

    model_config = ConfigDict(extra="allow")


@bp.get("/api/admin/orgs")
@Operation(
    tag="Operators",
    caller="cookie",
    parameters=[query("after", "The `next` of the page before")],
    answers={200: ("Organisations, newest first", AdminOrgs), 400: "Unknown `after`", **NOT_ADMIN},
    door=DOOR,
)
@admin_required
def admin_orgs() -> ResponseReturnValue:
    """List the organisations of the server with balance and usage.

    Pages of 500.
    """
    found, following = orgs_newest_first(now(), after=request.args.get("after"))
    more = {"next": following} if following else {}
    return jsonify(organizations=[_summary(each) for each in found], **more)


@bp.get("/api/admin/orgs/export")
@Operation(
    tag="Operators",
    caller="cookie",
    answers={200: ("A CSV file", str), **NOT_ADMIN},
    door=DOOR,
)
@admin_required
def export_orgs() -> ResponseReturnValue:
    """Return all organisations as a CSV file, with their owners and billing settings."""
    lines = [*quoted_csv(COLUMNS, _rows())]
    audit("organizations.exported", "", user=operating_user())
    db.session.commit()
    response = Response(lines, mimetype="text/csv")
    name = f"organizations-export-{now().date()}.csv"
    response.headers["Content-Type"] = "text/csv"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/api/admin/orgs/<org_id>/features/<feature>")
@Operation(
    tag="Operators",
    caller="cookie",
    parameters=FEATURE_PATH,
    answers={200: ("The feature", FeatureRow), 404: ("It was never set", NoFeature), **NOT_ADMIN},
    door=DOOR,
)
@admin_required
def org_feature(org_id: str, feature: str) -> ResponseReturnValue:
    """Return a feature of an organisation and its configuration."""
    org = org_named(org_id)
    found = stored_feature(org, feature) if org else None
    if found is None:
        return jsonify(config=None), 404
    return jsonify(_feature(found))


@bp.post("/api/admin/orgs/<org_id>/features/<feature>")
@Operation(
    tag="Operators",
    caller="cookie",
    parameters=FEATURE_PATH,
    body=FeatureConfig,
    answers={
        200: ("The feature", FeatureRow),
        400: "The body is no JSON object, or the name is not valid",
        404: "Organisation not found",
        **NOT_ADMIN,
    },
    door=DOOR,
)
@admin_required
def configure_feature(org_id: str, feature: str) -> ResponseReturnValue:
    """Set the configuration of an organisation's feature.

    The body replaces it. A feature that was never set is switched on; another stays on or off.
    """
    org = org_named(org_id)
    if org is None:
        raise DomainError("Organization not found", status=404)
    config = dict(read(FeatureConfig).model_extra or {})
    known = stored_feature(org, feature)
    try:
        set_feature(org, feature, known.is_active if known else True, config)
    except Invalid as invalid:
        raise DomainError(invalid.message) from None
    saved = stored_feature(org, feature)
    assert saved is not None
    body = _feature(saved)
    db.session.commit()
    return jsonify(body)


def _summary(each: OrgSummary) -> dict[str, Any]:
    return {
        "id": each.org.id,
        "name": each.org.name,
        "slug": each.org.slug,
        "owner_name": each.owner.display_name,
        "member_count": each.counts.members,
        "repository_count": each.counts.repositories,
        "credit_balance": each.balance,
        "usage_this_cycle": each.used,
        "health_status": each.health,
        "created_at": iso(each.org.created_at),
        "last_activity": iso(each.last_activity),
    }


def _rows() -> Iterator[tuple[Any, ...]]:
    for org, owner in all_orgs():
        yield (
            *(org.id, org.name, org.slug, org.description or "", owner.name or "", owner.email),
            *(iso(org.created_at), iso(org.updated_at), org.stripe_customer_id or ""),
            *(_yes(org.auto_topup_enabled), org.auto_topup_threshold, org.auto_topup_amount),
            *("" if org.credit_limit is None else org.credit_limit, _yes(org.billing_alerts)),
            _yes(org.usage_alerts),
        )


def _yes(value: bool) -> str:
    return "Yes" if value else "No"


def _feature(row: OrgFeature) -> dict[str, Any]:
    return {
        "org_id": row.org_id,
        "feature": row.feature,
        "config": row.config,
        "is_active": row.is_active,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }
