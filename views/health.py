"""What machines ask about this process: `/readyz` for a balancer, `/metrics` for Prometheus."""

import hmac
import ipaddress

from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue

from models.gateway import metrics
from views import guards
from views.gateway import gateway, json_answer

bp = Blueprint("health", __name__)


@bp.get("/readyz")
def readyz() -> ResponseReturnValue:
    """Whether calls can be served: the database is asked, on the connections that admit calls."""
    if not metrics.database_answers(gateway(current_app).pool):
        return json_answer({"status": "unavailable", "database": "unreachable"}, 503)
    return json_answer({"status": "ready", "database": "ok"})


@bp.get("/metrics")
def figures() -> ResponseReturnValue:
    """Prometheus' text format. For who has the operator's token; without one, for this machine and its own network."""
    if not _may_read():
        return json_answer({"error": "Unauthorized"}, 401)
    return Response(
        metrics.exposition(gateway(current_app).pool),
        content_type="text/plain; version=0.0.4; charset=utf-8",
    )


def _may_read() -> bool:
    token = guards.settings().stoa_metrics_token
    if token is not None:
        given = (guards.api_key() or "").encode("utf-8", "replace")
        return hmac.compare_digest(given, token.get_secret_value().encode())
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return request.remote_addr is None
    return address.is_loopback or address.is_private
