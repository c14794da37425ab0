"""`/v1/infrastructure/workspaces/{id}/traffic`: what the site of a workspace served."""

import datetime as dates

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.deployments.site_traffic import KEPT, traffic_of
from models.projects.project_access import own_workspace
from views.deployments.api.deployments_api_blueprint import INFRASTRUCTURE, NOT_YOURS, bp
from views.projects.api.projects_api_blueprint import DOOR, WORKSPACE_ID, project_caller
from views.web.operation import Operation, ResponseModel, query

DEFAULT, MOST = 7, KEPT.days


class TrafficDayObject(ResponseModel):
    day: dates.date = Field(description="In UTC")
    requests: int
    bytes: int = Field(description="Bytes of the bodies that were sent")
    refused: int = Field(description="Requests beyond the limits, which were answered 429 or 503")


class SiteTrafficAnswer(ResponseModel):
    traffic: list[TrafficDayObject]


@bp.get("/infrastructure/workspaces/<workspace_id>/traffic")
@Operation(
    tag=INFRASTRUCTURE,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[
        WORKSPACE_ID,
        query("days", f"From 1 to {MOST}; {DEFAULT} by default. Others become the nearest of these"),
    ],
    answers={
        200: ("The newest day first; counts arrive within about ten seconds", SiteTrafficAnswer),
        **NOT_YOURS,
    },
    door=DOOR,
)
def site_traffic(workspace_id: str) -> Response:
    """Get the traffic of a workspace's site, by day."""
    _, workspace = own_workspace(project_caller(), workspace_id)
    text = request.args.get("days", "")
    days = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else DEFAULT
    rows = traffic_of(workspace, max(1, min(days, MOST)))
    return jsonify(
        traffic=[
            {"day": row.day.isoformat(), "requests": row.requests, "bytes": row.bytes, "refused": row.refused}
            for row in rows
        ]
    )
