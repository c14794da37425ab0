"""`/readyz` for load balancers, `/health` for clients of projects, and `/metrics` for Prometheus."""

import hmac
import ipaddress
from datetime import datetime
from typing import Literal
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue

from models.core.db import now
from models.core.strict_models import Missing
from models.gateway import metrics
from views.gateway.api.model_calls import gateway, json_answer
from views.web import guards
from views.web.error_bodies import door
from views.web.format import iso
from views.web.operation import Operation, ResponseModel

bp = Blueprint("health", __name__)


class ServerAlive(ResponseModel):
    status: Literal["ok"]
    timestamp: datetime


class Readiness(ResponseModel):
    status: str
    database: str
    ledger: Missing[str] = None


@bp.get("/health")
@Operation(tag="Server", answers={200: ("The server is up", ServerAlive)}, door=door())
def alive() -> ResponseReturnValue:
    """Check that the server is up, as clients of projects do.

    Does not check the database; /readyz does.
    """
    return json_answer({"status": "ok", "timestamp": iso(now())})


@bp.get("/readyz")
@Operation(
    tag="Server",
    answers={200: ("Ready", Readiness), 503: ("Not ready, with the reason", Readiness)},
    door=door(),
)
def readyz() -> ResponseReturnValue:
    """Whether the server can accept model calls.

    Checks the database, on the connection pool that admits calls, and that no settlement is pending.
    """
    served = gateway(current_app)
    if not metrics.database_answers(served.pool):
        return json_answer({"status": "unavailable", "database": "unreachable"}, 503)
    if served.spool.closed():
        reason = "settlements are pending; no call is admitted until they complete (flask billing unsettled)"
        return json_answer({"status": "unavailable", "database": "ok", "ledger": reason}, 503)
    return json_answer({"status": "ready", "database": "ok"})


@bp.get("/metrics")
@Operation(tag="Server", answers={200: ("Prometheus text format", str), 401: "Not the operator"}, door=door())
def prometheus() -> ResponseReturnValue:
    """Metrics for Prometheus.

    Requires the metrics token; if none is set, only requests from this machine are allowed.
    """
    if not _may_read_metrics():
        return json_answer({"error": "Unauthorized"}, 401)
    served = gateway(current_app)
    return Response(
        metrics.exposition(served.pool, served.spool.count()),
        content_type="text/plain; version=0.0.4; charset=utf-8",
    )


PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip")
"""Headers set by proxies: a proxied request may come from anywhere, even if the proxy is on this machine."""


def _may_read_metrics() -> bool:
    token = guards.settings().stoa_metrics_token
    if token is not None:
        given = (guards.api_key() or "").encode("utf-8", "replace")
        return hmac.compare_digest(given, token.get_secret_value().encode())
    if any(header in request.headers for header in PROXY_HEADERS):
        return False
    # check the host name too: DNS rebinding sends requests from this machine
    return _is_loopback(request.remote_addr or "") and _is_loopback(urlsplit(request.host_url).hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
