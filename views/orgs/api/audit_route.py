"""The audit log of an organisation as JSON."""

from datetime import datetime
from typing import Any

from flask import jsonify, request
from flask.typing import ResponseReturnValue

from models.core.audit_log import AuditLog
from models.core.audit_trail import entries
from models.core.errors import Invalid
from models.usage.org_figures import clock_of
from views.orgs.api.orgs_api_blueprint import bp
from views.web.audit_query import audit_filter, before_id
from views.web.error_bodies import door
from views.web.format import iso
from views.web.operation import Operation, ResponseModel, query
from views.web.org_guards import current_org, org_route

MAX_LIMIT = 200


class AuditEntry(ResponseModel):
    id: str
    at: datetime
    actor: str
    actorId: str | None
    action: str
    subject: str
    before: Any
    after: Any
    ip: str | None
    requestId: str | None


class AuditAnswer(ResponseModel):
    entries: list[AuditEntry]
    nextCursor: str | None


@bp.get("/api/orgs/<org_id>/audit")
@Operation(
    tag="Organisation usage",
    caller="cookie",
    parameters=[
        query("actor", "An e-mail address, name or user id"),
        query("action", "An action such as member.added, or its noun: member"),
        query("subject", "What the entry is about"),
        query("from", "First day, in the organisation's time zone"),
        query("to", "Last day"),
        query("cursor", "The nextCursor of the page before"),
        query("limit", f"Entries, at most {MAX_LIMIT}; 50 by default"),
    ],
    answers={
        200: ("Entries, newest first; nextCursor is null on the last page", AuditAnswer),
        403: "For owners and admins",
        404: "There is no such organisation, or you do not belong to it",
        422: "A day, cursor or limit cannot be read",
    },
    door=door(),
)
@org_route("see_audit")
def audit_entries() -> ResponseReturnValue:
    """List the entries of the organisation's audit log, newest first."""
    org = current_org()
    filter = audit_filter(org.id, clock_of(org))
    rows, following = entries(filter, before=before_id("cursor"), limit=_limit())
    return jsonify(entries=[_entry(row) for row in rows], nextCursor=str(following) if following else None)


def _limit() -> int:
    text = request.args.get("limit", "50")
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= MAX_LIMIT):
        raise Invalid(f"'limit' must be a number from 1 to {MAX_LIMIT}.")
    return int(text)


def _entry(row: AuditLog) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "at": iso(row.at),
        "actor": row.actor,
        "actorId": row.actor_id,
        "action": row.action,
        "subject": row.subject,
        "before": row.before,
        "after": row.after,
        "ip": row.ip,
        "requestId": row.request_id,
    }
