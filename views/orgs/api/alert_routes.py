"""Alerts of an organisation (contract 2.8 and 3.8)."""

from datetime import datetime
from typing import Literal

from flask import jsonify
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.orgs.alerts import alerts_for, dismiss, dismiss_kind
from models.usage.alert_watch import watch_org
from views.orgs.api.orgs_api_blueprint import MEMBERS, bp
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import limiter
from views.web.operation import Operation, ResponseModel, path
from views.web.org_guards import current_membership, current_org, org_caller, org_route

STATE_IDS = {
    "low_balance": "low-balance",
    "high_usage": "high-usage",
    "credit_limit_reached": "credit-limit",
}
"""How the ids of the contract's alerts begin; the organisation's id follows. Other alerts have ids of their own."""


class AlertListed(ResponseModel):
    id: str
    type: str
    severity: Literal["info", "warning", "critical"]
    title: str
    message: str
    timestamp: datetime


class OrgAlertsAnswer(ResponseModel):
    alerts: list[AlertListed]


class AlertDismissed(ResponseModel):
    success: bool


@bp.get("/api/orgs/<org_id>/alerts")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    answers={200: ("Open alerts that you have not dismissed, newest first", OrgAlertsAnswer), **MEMBERS},
    door=door(),
)
@org_route()
def org_alerts() -> ResponseReturnValue:
    """List the open alerts that you may see. Those about balance, usage and credit limit are found by this request."""
    org = current_org()
    watch_org(org)
    db.session.commit()
    return jsonify(
        alerts=[
            {
                "id": f"{STATE_IDS[alert.kind]}-{org.id}" if alert.kind in STATE_IDS else alert.id,
                "type": alert.kind,
                "severity": alert.severity,
                "title": alert.title,
                "message": alert.message,
                "timestamp": iso(alert.created_at),
            }
            for alert in alerts_for(current_membership())
        ]
    )


@bp.post("/api/orgs/<org_id>/alerts/<alert_id>/dismiss")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    parameters=[path("alertId", "As listed")],
    answers={
        200: ("Dismissed, also if it was before", AlertDismissed),
        404: "No such organisation or alert",
        429: "Too many requests",
    },
    door=door(),
)
@limiter.limit("60 per minute", key_func=org_caller)
@org_route()
def dismiss_org_alert(alert_id: str) -> ResponseReturnValue:
    """Dismiss an alert for yourself, until it happens again."""
    kinds = {f"{start}-{current_org().id}": kind for kind, start in STATE_IDS.items()}
    if alert_id in kinds:
        dismiss_kind(current_membership(), kinds[alert_id])
    else:
        dismiss(current_membership(), alert_id)
    db.session.commit()
    return jsonify(success=True)
