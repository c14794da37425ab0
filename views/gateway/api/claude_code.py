"""What Claude Code asks of a gateway beside model calls: usage, managed settings, telemetry."""

from datetime import datetime
from typing import Any, Literal

from flask import Blueprint, current_app, request
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded
from pydantic import Field
from werkzeug import Response
from werkzeug.exceptions import RequestEntityTooLarge

from models.accounts import scopes
from models.accounts.credentials import Credential
from models.core.errors import DomainError
from models.gateway.dialects import MESSAGES
from models.gateway.dialects.dialect import MissingApiKey
from models.gateway.spend_caps import (
    CappedCaller,
    SpendCap,
    fullest,
    read_caps,
    spent_lately,
)
from models.ledger import Account
from models.ledger.budgets import team_of
from models.orgs.client_settings import settings_for
from views.gateway.api.model_calls import gateway, json_answer, refuse_in
from views.web import guards
from views.web.body import discard
from views.web.error_bodies import AnthropicError, ModelError
from views.web.fast_path import current_context
from views.web.guards import limiter
from views.web.operation import ErrorFormat, Operation, ResponseModel, header

bp = Blueprint("gateway_claude_code", __name__)

MAX_TELEMETRY = 4 << 20


def _error_response(error: Exception) -> ResponseReturnValue | None:
    match error:
        case RateLimitExceeded():
            refused = DomainError("Too many requests. Wait a minute, then try again.", status=429)
        case RequestEntityTooLarge():
            refused = DomainError(str(error.description), status=413)
        case DomainError():
            refused = error
        case _:
            return None
    return refuse_in(current_context(), MESSAGES, refused)


DOOR = ErrorFormat(
    _error_response, AnthropicError, AnthropicError, AnthropicError, ModelError, suspended=True
)


class Spending(ResponseModel):
    """Credits of the account that the person spent, in cents."""

    limit: int | None
    used_credits: int
    utilization: int | None


class ExtraUsage(ResponseModel):
    is_enabled: bool
    monthly_limit: int | None = Field(
        description="The fullest cap in cents, whatever its period; null without one"
    )
    used_credits: int = Field(description="In cents: of that cap, or without one in this month (UTC)")
    utilization: int | None = Field(description="In percent")
    currency: Literal["USD"]
    daily: Spending | None = None
    weekly: Spending | None = None


class CapUsage(ResponseModel):
    kind: Literal["spend"]
    group: str = Field(description="The period: daily, weekly, monthly, …")
    percent: int
    resets_at: str | None
    severity: Literal["normal", "warning", "critical"]
    is_active: bool = Field(description="Whether `extra_usage` describes this cap")


class CallerUsage(ResponseModel):
    extra_usage: ExtraUsage
    limits: list[CapUsage]


class ManagedSettings(ResponseModel):
    uuid: str
    checksum: str = Field(
        description="sha256: and the SHA-256 of the settings with sorted keys and without spaces"
    )
    settings: dict[str, Any]


class TelemetryAccepted(ResponseModel):
    """An empty object: OTLP's full success."""


@bp.get("/api/oauth/usage")
@limiter.limit("120/minute")
@Operation(
    tag="Coding clients",
    caller="key",
    scope=scopes.ANY_INFERENCE,
    answers={200: ("Caps and spending", CallerUsage)},
    door=DOOR,
)
def caller_usage() -> ResponseReturnValue:
    """Get what you have used of your caps, as Claude Code shows it.

    Caps are the budgets that limit your calls and the windows of your plan. One credit is one cent.
    """
    found = _caller()
    if isinstance(found, Response):
        return found
    account = Account.of(found.session)
    team = team_of(account.org_id, found.user.id, found.session.team_id) if account.org_id else None
    caller = CappedCaller(account.id, found.user.id, found.session.session_token, team)
    pool = gateway(current_app).pool
    caps = read_caps(pool, caller)
    active = fullest(caps)
    usage = _of_cap(active) if active else _without_cap(*spent_lately(pool, caller))
    response = json_answer({"extra_usage": usage, "limits": [_row(cap, cap is active) for cap in caps]})
    response.headers["Cache-Control"] = "no-store"
    return response


def _of_cap(cap: SpendCap) -> dict[str, Any]:
    return _extra(cap.limit, cap.spent, cap.percent)


def _without_cap(month: int, day: int, week: int) -> dict[str, Any]:
    def of(spent: int) -> dict[str, Any]:
        return {"limit": None, "used_credits": spent, "utilization": None}

    return _extra(None, month, None) | {"daily": of(day), "weekly": of(week)}


def _extra(limit: int | None, spent: int, percent: int | None) -> dict[str, Any]:
    return {
        "is_enabled": True,
        "monthly_limit": limit,
        "used_credits": spent,
        "utilization": percent,
        "currency": "USD",
    }


def _row(cap: SpendCap, active: bool) -> dict[str, Any]:
    return {
        "kind": "spend",
        "group": cap.group,
        "percent": cap.percent,
        "resets_at": cap.resets_second and _iso(cap.resets_second),
        "severity": "critical" if cap.percent >= 95 else "warning" if cap.percent >= 75 else "normal",
        "is_active": active,
    }


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@bp.get("/managed/settings")
@limiter.limit("120/minute")
@Operation(
    tag="Coding clients",
    caller="key",
    scope=scopes.ANY_INFERENCE,
    parameters=[header("If-None-Match", "The checksum that the client has, quoted")],
    answers={
        200: ("The settings", ManagedSettings),
        304: ("Unchanged", None),
        404: ("No organisation sets any", AnthropicError),
    },
    door=DOOR,
)
def managed_settings() -> ResponseReturnValue:
    """Get the settings of Claude Code that your organisation manages.

    Of the organisation that the key belongs to; for a key of your own, of the only one of yours that has settings.
    """
    found = _caller()
    if isinstance(found, Response):
        return found
    row = settings_for(found.user.id, found.session.org_id)
    if row is None:
        error = DomainError(
            "There are no managed settings for this key.", status=404, code="no_managed_settings"
        )
        return refuse_in(current_context(), MESSAGES, error)
    response = json_answer({"uuid": row.org_id, "checksum": row.checksum, "settings": row.settings})
    response.set_etag(row.checksum)
    response.headers["Cache-Control"] = "private, no-cache"
    if request.if_none_match.contains(row.checksum) and not request.if_none_match.star_tag:
        response.status_code = 304
        response.set_data(b"")
    return response


@bp.post("/v1/metrics")
@bp.post("/v1/logs")
@bp.post("/v1/traces")
@limiter.limit("600/minute")
@Operation(
    tag="Coding clients",
    caller="key",
    scope=scopes.ANY,
    body=dict[str, Any],
    body_kind="application/x-protobuf",
    max_bytes=MAX_TELEMETRY,
    answers={
        200: ("Accepted", TelemetryAccepted),
        413: "The body is larger than 4 MB, or than 64 KiB without a key",
    },
    door=DOOR,
)
def telemetry() -> ResponseReturnValue:
    """Accept telemetry of a client.

    OTLP over HTTP, as protobuf or JSON. It is discarded; a client whose telemetry is refused complains each time.
    """
    discard()
    return json_answer({})


def _caller() -> Credential | Response:
    """The caller, or the refusal of an unknown key."""
    key = guards.api_key()
    found = guards.key_credential(key) if key else None
    if found is not None:
        return found
    error = MissingApiKey() if not key else DomainError("This API key is unknown or expired.", status=401)
    return refuse_in(current_context(), MESSAGES, error)
