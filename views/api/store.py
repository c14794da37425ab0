"""The JSON doors of publishing: validate, publish, withdraw, and what a definition is (contract 2.6)."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from flask import Blueprint, Response, jsonify, render_template
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded
from pydantic import Field
from werkzeug.exceptions import RequestEntityTooLarge

from models.accounts.credentials import Credential
from models.accounts.users import User
from models.db import db, now
from models.errors import DomainError
from models.store import Agent, AgentVersion, publishing, validation, withdrawing
from models.store.definition import json_schema
from models.store.publishing import Refused
from models.store.spawning import Place
from models.store.validation import Problem
from views.api.body import BadBody, BadJson, Body, Missing, Unusable, parse, read, read_json
from views.api.refusals import refusal, waiting
from views.format import iso
from views.guards import (
    audit,
    cookie_credential,
    cookie_or_key_user,
    key_credential,
    limiter,
    settings,
)
from views.store.limits import count_change

bp = Blueprint("store_api", __name__)

MAX_AGENTS = 500
MAX_LOCAL = 10_000
LIMIT = "600/minute"
NO_LIST = "Invalid request: agentDefinitions must be an array of AgentDefinition objects"
NO_JSON = "Invalid JSON in request body"

LocalIds = Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=MAX_LOCAL, fail_fast=True)]


class PublishBody(Body):
    data: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_AGENTS)]
    allLocalAgentIds: Missing[LocalIds] = None
    authToken: Missing[str] = None


class ValidateBody(Body):
    agentDefinitions: Annotated[list[Any], Field(max_length=MAX_AGENTS)]


@bp.errorhandler(RateLimitExceeded)
def _too_many(error: RateLimitExceeded) -> ResponseReturnValue:
    return jsonify(error="Too many requests. Wait a minute, then try again."), 429


@bp.errorhandler(RequestEntityTooLarge)
def _too_large(error: RequestEntityTooLarge) -> ResponseReturnValue:
    return jsonify(error=error.description), 413


@bp.post("/api/agents/validate")
@limiter.limit(LIMIT)
def validate() -> ResponseReturnValue:
    """What is wrong with definitions, each by its id. 200 also when something is (appendix B 6)."""
    try:
        sent = read_json(allow_nul=True)
    except Unusable:
        return jsonify(error=NO_JSON), 400
    except BadJson:
        # the contract's answer to what is no JSON
        return jsonify(error="Internal server error"), 500
    key = _list_key(sent)
    if key is None:
        return jsonify(error=NO_LIST), 400
    try:
        body = parse(ValidateBody, {"agentDefinitions": sent[key]})
    except BadBody as error:
        return jsonify(error=f"Invalid request: {_words(error)}"), 400
    by_id = {_name(each, f"{key}[{at}]"): each for at, each in enumerate(body.agentDefinitions)}
    local = sent.get("allLocalAgentIds")
    own = [each for each in local[:MAX_LOCAL] if isinstance(each, str)] if isinstance(local, list) else []
    found = validation.check(by_id, own)
    return jsonify(
        success=True,
        configs=[each.id for each in found.definitions],
        validationErrors=_problems(found.problems),
        errorCount=len(found.problems),
    )


def _list_key(sent: Any) -> str | None:
    if isinstance(sent, dict):
        for key in ("agentDefinitions", "agentConfigs"):
            if isinstance(sent.get(key), list):
                return key
    return None


def _name(raw: Any, place: str) -> str:
    named = raw.get("id") if isinstance(raw, dict) else None
    return named if isinstance(named, str) and named else place


@bp.post("/api/agents/publish")
@limiter.limit(LIMIT)
def publish() -> ResponseReturnValue:
    """Publish the definitions as new versions, all or none. They are checked before the caller is (appendix B 5)."""
    arrived = now()
    try:
        body = parse(PublishBody, read_json(allow_nul=True))
    except BadJson:
        return jsonify(error="Invalid request body", details=NO_JSON, validationErrors=[]), 400
    except BadBody as error:
        return jsonify(
            error="Invalid request body", details=_words(error), validationErrors=error.issues
        ), 400
    sent = {f"data[{at}]": each for at, each in enumerate(body.data)}
    found = validation.check(sent, body.allLocalAgentIds or ())
    if found.problems:
        return jsonify(
            error="Agent config validation failed",
            details="\n".join(each.message for each in found.problems),
            validationErrors=_problems(found.problems),
        ), 400
    caller = (
        cookie_credential()
        or key_credential()
        or (key_credential(body.authToken) if body.authToken else None)
    )
    if caller is None:
        return jsonify(error="Unauthorized"), 401
    try:
        places = _publish(found, caller, arrived)
    except Refused as error:
        db.session.rollback()
        more = {"hint": error.hint} if error.hint else {}
        return jsonify(error=error.message, details=error.details, **more), error.status, waiting(error)
    names = [each.displayName for each in found.definitions]
    return jsonify(
        success=True,
        publisherId=places[0].publisher,
        agents=[
            {"id": place.agent, "version": place.version, "displayName": name}
            for place, name in zip(places, names, strict=True)
        ],
    ), 201


def _publish(found: validation.Checked, caller: Credential, arrived: datetime) -> list[Place]:
    kind = caller.session.type
    places = publishing.publish(
        found.definitions,
        by=caller.user,
        credential=kind,
        arrived=arrived,
        limits=settings(),
    )
    for place in places:
        audit("agent.published", str(place), user=caller.user, after={"credential": kind})
    db.session.commit()
    return places


def _problems(problems: list[Problem]) -> list[dict[str, str]]:
    return [{"filePath": each.file_path, "message": each.message} for each in problems]


def _words(error: BadBody) -> str:
    return "; ".join(
        f"{'.'.join(str(key) for key in issue['path'])}: {issue['message']}" for issue in error.issues
    )


# -- withdrawing ---------------------------------------------------------------------------------------------


class YankBody(Body):
    reason: str


class DeprecateBody(Body):
    reason: str
    successor: str | None = None


@bp.post("/api/agents/<publisher>/<agent>/<version>/yank")
@limiter.limit(LIMIT)
def yank(publisher: str, agent: str, version: str) -> ResponseReturnValue:
    """Withdraw a version, with a reason: `latest` passes over it, its exact version stays."""

    def change(user: User) -> ResponseReturnValue:
        body = read(YankBody)
        row = withdrawing.yank(user, publisher, agent, version, body.reason, now())
        audit(
            "agent.yanked",
            f"{publisher}/{agent}@{version}",
            user=user,
            after={"reason": row.yanked_reason},
        )
        return _version(row)

    return _changed(change)


@bp.delete("/api/agents/<publisher>/<agent>/<version>/yank")
@limiter.limit(LIMIT)
def unyank(publisher: str, agent: str, version: str) -> ResponseReturnValue:
    """Bring a withdrawn version back."""

    def change(user: User) -> ResponseReturnValue:
        row = withdrawing.unyank(user, publisher, agent, version)
        audit("agent.unyanked", f"{publisher}/{agent}@{version}", user=user)
        return _version(row)

    return _changed(change)


@bp.post("/api/agents/<publisher>/<agent>/deprecation")
@limiter.limit(LIMIT)
def deprecate(publisher: str, agent: str) -> ResponseReturnValue:
    """Say that an agent should not be used any more, why, and which one should."""

    def change(user: User) -> ResponseReturnValue:
        body = read(DeprecateBody)
        row = withdrawing.deprecate(user, publisher, agent, body.reason, body.successor, now())
        audit(
            "agent.deprecated",
            f"{publisher}/{agent}",
            user=user,
            after={"reason": row.deprecated_reason, "successor": row.successor},
        )
        return _agent(row)

    return _changed(change)


@bp.delete("/api/agents/<publisher>/<agent>/deprecation")
@limiter.limit(LIMIT)
def undeprecate(publisher: str, agent: str) -> ResponseReturnValue:
    """Take a deprecation back."""

    def change(user: User) -> ResponseReturnValue:
        row = withdrawing.undeprecate(user, publisher, agent)
        audit("agent.undeprecated", f"{publisher}/{agent}", user=user)
        return _agent(row)

    return _changed(change)


def _changed(change: Callable[[User], ResponseReturnValue]) -> ResponseReturnValue:
    user = cookie_or_key_user()
    if user is None:
        return jsonify(error="Unauthorized"), 401
    try:
        count_change(user)
        answer = change(user)
    except BadJson:
        return jsonify(error=NO_JSON), 400
    except BadBody as error:
        return jsonify(error="Invalid request body", details=error.tree), 400
    except DomainError as error:
        db.session.rollback()
        return refusal(error)
    db.session.commit()
    return answer


def _version(row: AgentVersion) -> ResponseReturnValue:
    return jsonify(
        publisherId=row.publisher_id,
        id=row.agent_id,
        version=row.version,
        yankedAt=iso(row.yanked_at) if row.yanked_at else None,
        yankedReason=row.yanked_reason,
    )


def _agent(row: Agent) -> ResponseReturnValue:
    return jsonify(
        publisherId=row.publisher_id,
        id=row.id,
        deprecatedAt=iso(row.deprecated_at) if row.deprecated_at else None,
        deprecatedReason=row.deprecated_reason,
        successor=row.successor,
    )


# -- what a definition is ------------------------------------------------------------------------------------


@bp.get("/api/docs/agent-definition")
def definition_types() -> ResponseReturnValue:
    """The TypeScript file that describes definitions."""
    return _document(render_template("docs/agent_definition.ts"), "text/plain; charset=utf-8")


@bp.get("/api/docs/agent-definition.json")
def definition_schema() -> ResponseReturnValue:
    """The JSON Schema of definitions."""
    answer = jsonify(json_schema())
    answer.headers["Cache-Control"] = DOCUMENT_CACHING
    return answer


DOCUMENT_CACHING = "public, max-age=300, stale-while-revalidate=60"


def _document(text: str, kind: str) -> Response:
    return Response(text, content_type=kind, headers={"Cache-Control": DOCUMENT_CACHING})
