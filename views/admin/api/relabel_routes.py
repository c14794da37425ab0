"""Operators' JSON routes of relabels: what other models answer to a person's stored requests (contract 2.12)."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from flask import current_app, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.admin.relabels import (
    CLIENT_ID,
    RelabelledTrace,
    RelabelRequest,
    relabelled_traces,
    requests_to_relabel,
    store_relabel,
)
from models.core.db import db
from models.core.errors import DomainError
from views.admin.api.admin_api_blueprint import DOOR, NOT_ADMIN, bp, failing_with, log_view
from views.admin.pages.admin_blueprint import operating_user
from views.gateway.api.internal_calls import CallFailed, CallNotPossible, complete_chat
from views.gateway.api.model_calls import gateway
from views.web.body import Body, Missing, read
from views.web.format import iso
from views.web.guards import admin_required, api_key, audit, key_credential, limiter, settings
from views.web.operation import Operation, ResponseModel, query

DEFAULT, MOST, LISTED = 10, 50, 50
USER_ID = query("userId", "The person whose calls are meant", required=True)
FAILED = "Failed to relabel traces"


class RelabelBody(Body):
    limit: Missing[Annotated[int, Field(ge=1, le=MOST)]] = Field(
        None, description=f"Latest calls; default: {DEFAULT}"
    )


class RelabelRow(ResponseModel):
    timestamp: datetime
    query: str = Field(description="The last prompt")
    outputs: dict[str, str] = Field(description="Answers by model, the call's own first")


class Relabels(ResponseModel):
    data: list[RelabelRow]


class NewRelabels(ResponseModel):
    success: Literal[True]
    message: str
    data: list[RelabelRow]


class KeyRequired(ResponseModel):
    error: str
    details: str
    hint: str


@dataclass
class RelabelProgress:
    """What was done so far. `refusal` ended it."""

    made: int = 0
    failures: list[str] = field(default_factory=list)
    refusal: CallNotPossible | None = None


@bp.get("/api/admin/relabel-for-user")
@Operation(
    tag="Operators",
    caller="cookie",
    parameters=[USER_ID],
    answers={
        200: (f"The person's latest {LISTED} calls with kept messages", Relabels),
        400: "userId is missing",
        500: "Failed to fetch traces and relabels",
        **NOT_ADMIN,
    },
    door=DOOR,
)
@admin_required
def relabels() -> ResponseReturnValue:
    """Return a person's latest prompts with the answers of each model."""
    user_id = _user_id()
    with failing_with("Failed to fetch traces and relabels"):
        data = [_row(each) for each in relabelled_traces(user_id, LISTED)]
        if data:
            log_view("relabels.viewed", user_id)
    return jsonify(data=data)


@bp.post("/api/admin/relabel-for-user")
@Operation(
    tag="Operators",
    caller="cookie",
    scope=scopes.CHAT,
    parameters=[USER_ID],
    body=RelabelBody,
    answers={
        200: ("The calls with the new answers", NewRelabels),
        400: "userId is missing, or the limit is out of bounds",
        401: ("No API key of yours beside the cookie", KeyRequired),
        500: "No model answered any of them",
        503: "No model is set for relabelling, or it is not served",
        "default": "The call was refused, as on POST /v1/chat/completions",
        **NOT_ADMIN,
    },
    door=DOOR,
)
@admin_required
@limiter.limit("10 per minute")
def relabel() -> ResponseReturnValue:
    """Send a person's latest requests to the models of STOA_RELABEL_MODELS, and keep the answers.

    Needs an API key of the operator in `Authorization` beside the cookie: its account pays for the calls. An answer replaces
    an earlier one of the same model.
    """
    user_id = _user_id()
    key = api_key()
    found = key_credential() if key else None
    if key is None or found is None or found.user.id != operating_user().id:
        return jsonify(
            error="API key required",
            details="The key is missing, unknown, expired, or not yours.",
            hint="Send one of your own API keys as Authorization: Bearer. Its account pays for the calls.",
        ), 401
    empty = not request.content_length and "Transfer-Encoding" not in request.headers
    sent = RelabelBody() if empty else read(RelabelBody)
    models = _models()
    with failing_with(FAILED):
        requests = requests_to_relabel(user_id, sent.limit or DEFAULT)
        db.session.commit()  # no transaction during the calls
        progress = _relabel(requests, models, key)
        after = {"models": models, "answers": progress.made, "failed": len(progress.failures)}
        audit("trace.relabelled", user_id, user=operating_user(), after=after)
        db.session.commit()
        if progress.refusal:
            raise progress.refusal
        if progress.failures and not progress.made:
            raise DomainError(FAILED, status=500, details=progress.failures[0])
        ids = [each.message_id for each in requests]
        data = [_row(each) for each in relabelled_traces(user_id, MOST, ids)]
    return jsonify(success=True, message="Traces relabeled successfully", data=data)


def _user_id() -> str:
    user_id = request.args.get("userId", "")
    if not user_id or "\0" in user_id:
        raise DomainError("Missing required parameter: userId")
    return user_id


def _models() -> list[str]:
    """The models that relabel. Raises DomainError (503)."""
    models = settings().stoa_relabel_models
    if not models:
        details = "Set STOA_RELABEL_MODELS to names of GET /v1/models, separated by commas."
        raise DomainError("No model is set for relabelling", status=503, details=details)
    for model in models:
        try:
            gateway(current_app).routes.find(model)
        except DomainError as error:
            details = f"{model} of STOA_RELABEL_MODELS: {error.message}"
            raise DomainError("A model for relabelling is not served", status=503, details=details) from None
    return list(models)


def _relabel(requests: list[RelabelRequest], models: list[str], key: str) -> RelabelProgress:
    """Call each model with each request, and commit each answer."""
    progress, by = RelabelProgress(), operating_user().id
    for each in requests:
        for model in models:
            db.session.commit()
            try:
                answer = complete_chat(key, each.for_model(model), client_id=CLIENT_ID)
            except CallNotPossible as refusal:
                progress.refusal = refusal
                return progress
            except CallFailed as failure:
                progress.failures.append(failure.message)
                continue
            store_relabel(each.message_id, model, answer.text, request_id=answer.request_id, by=by)
            db.session.commit()
            progress.made += 1
    return progress


def _row(each: RelabelledTrace) -> dict[str, Any]:
    return {"timestamp": iso(each.timestamp), "query": each.query, "outputs": each.outputs}
