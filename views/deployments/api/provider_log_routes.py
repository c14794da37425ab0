"""`/v1/infrastructure/deployments/{id}/provider-logs`: what a provider tells of a deployment, read there at that moment."""

from datetime import datetime

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import DomainError
from models.deployments import deployment_running, provider_deploying
from models.deployments.deployment_adapter import DeploymentFailed
from views.deployments.api.deployments_api_blueprint import DEPLOYMENT_ID, NOT_YOURS, TAG, bp
from views.projects.api.projects_api_blueprint import DOOR, project_caller
from views.web.format import iso
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel

READS = "30/minute;1000/day"
"""How often a person may have a provider asked."""


class ProviderLogLine(ResponseModel):
    timestamp: datetime | None
    stream: str = Field(description="`stdout` or `stderr`")
    content: str


class ProviderLog(ResponseModel):
    lines: list[ProviderLogLine]


@bp.get("/infrastructure/deployments/<deployment_id>/provider-logs")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[DEPLOYMENT_ID],
    answers={
        200: ("The last lines, in order, without the values of variables", ProviderLog),
        **NOT_YOURS,
        409: "Its place tells nothing of it (`NO_PROVIDER_LOG`)",
        502: "The provider does not tell (`PROVIDER_FAILED`)",
    },
    door=DOOR,
)
def provider_log(deployment_id: str) -> ResponseReturnValue:
    """Read what the provider of a deployment tells of it.

    From Railway the last 100 lines that the program wrote, from Cloudflare when the version was served.
    """
    _, row = deployment_running.own_deployment(project_caller(), deployment_id)
    try:
        place = provider_deploying.place_logs(row)
    except DeploymentFailed as failed:
        raise DomainError(str(failed), code="no_provider_log", status=409) from None
    db.session.rollback()  # no transaction is open while the provider is asked
    try:
        lines = provider_deploying.read_place_logs(place)
    except DeploymentFailed as failed:
        raise DomainError(str(failed), code="provider_failed", status=502) from None
    return jsonify(
        lines=[{"timestamp": iso(each.at), "stream": each.stream, "content": each.text} for each in lines]
    )
