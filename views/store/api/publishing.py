"""The JSON doors of publishing: validate, publish, withdraw, and what a definition is (contract 2.6)."""

from datetime import datetime
from typing import Annotated, Any

from flask import Blueprint, Response, jsonify, render_template
from flask.typing import ResponseReturnValue
from pydantic import BeforeValidator, Field, WithJsonSchema
from werkzeug.exceptions import RequestEntityTooLarge

from models.accounts.credentials import Credential
from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import DomainError
from models.store import Agent, AgentVersion
from models.store.publishing import publish as publishing_publish
from models.store.publishing import validation, withdrawing
from models.store.publishing.definition import json_schema
from models.store.publishing.publish import PublishRefused
from models.store.publishing.spawning import FullReference
from models.store.publishing.validation import Problem
from views.store.pages.limits import count_change
from views.web import error_bodies
from views.web.body import BadJson, Body, InvalidBody, Missing, UndecodableBody, parse, read, read_json
from views.web.error_bodies import BAD_BODY, BAD_JSON, ApiError, door, retry_header
from views.web.format import iso
from views.web.guards import audit, cookie_credential, cookie_or_key_user, key_credential, limiter, settings
from views.web.operation import Answers, Operation, ResponseModel

bp = Blueprint("store_api", __name__)

MAX_AGENTS = 500
MAX_LOCAL = 10_000
LIMIT = "600/minute"
NO_LIST = "Invalid request: agentDefinitions must be an array of AgentDefinition objects"
STRANGER_BYTES = 1 << 20
"""Definitions are checked for anybody, and older clients carry their token in the body."""


def _texts(value: Any) -> Any:
    return [each for each in value[:MAX_LOCAL] if isinstance(each, str)] if isinstance(value, list) else []


LOCAL = "Agents the caller keeps locally; they count as known"
LocalIds = Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=MAX_LOCAL, fail_fast=True)]
OwnIds = Annotated[list[str], Field(fail_fast=True)]
SentDefinition = Annotated[dict[str, Any], WithJsonSchema({"x-component": "AgentDefinition"})]


class PublishBody(Body):
    data: Annotated[list[SentDefinition], Field(min_length=1, max_length=MAX_AGENTS)]
    allLocalAgentIds: Missing[LocalIds] = Field(None, description=LOCAL)
    authToken: Missing[str] = Field(None, description="A key, where no header can carry it")


class ValidateBody(Body):
    agentDefinitions: Annotated[
        list[Annotated[Any, WithJsonSchema({"x-component": "AgentDefinition"})]], Field(max_length=MAX_AGENTS)
    ]
    allLocalAgentIds: Annotated[OwnIds, BeforeValidator(_texts)] = Field([], description=LOCAL)


class DefinitionProblem(ResponseModel):
    filePath: str = Field(description="The agent's id, or the place in the list")
    message: str


class CheckedDefinitions(ResponseModel):
    success: bool
    configs: list[str] = Field(description="The ids of the definitions that are right")
    validationErrors: list[DefinitionProblem]
    errorCount: int


class PublishedAgent(ResponseModel):
    id: str
    version: str
    displayName: str


class Publication(ResponseModel):
    success: bool
    publisherId: str
    agents: list[PublishedAgent]


class PublishError(ApiError):
    hint: Missing[str] = Field(None, description="What helps")
    validationErrors: Missing[list[dict[str, Any]]] = None


class VersionState(ResponseModel):
    publisherId: str
    id: str
    version: str
    yankedAt: datetime | None
    yankedReason: str | None


class AgentState(ResponseModel):
    publisherId: str
    id: str
    deprecatedAt: datetime | None
    deprecatedReason: str | None
    successor: str | None


def _words(error: Exception) -> ResponseReturnValue | None:
    if isinstance(error, RequestEntityTooLarge):
        return jsonify(error=error.description), 413
    return error_bodies.format_error(error)


def _words_of_validating(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson() if not isinstance(error, UndecodableBody):
            # the contract's answer to what is no JSON
            return jsonify(error="Internal server error"), 500
        case InvalidBody():
            return jsonify(error=f"Invalid request: {_in_words(error)}"), 400
    return _words(error)


def _words_of_publishing(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson():
            return jsonify(error=BAD_BODY, details=BAD_JSON, validationErrors=[]), 400
        case InvalidBody():
            return jsonify(error=BAD_BODY, details=_in_words(error), validationErrors=error.issues), 400
        case PublishRefused(hint=str(hint)):
            body = jsonify(error=error.message, details=error.details, hint=hint)
            return body, error.status, retry_header(error)
    return _words(error)


DOOR = door(_words, too_large=ApiError)
VALIDATING = door(_words_of_validating, body_error=ApiError, too_large=ApiError)
PUBLISHING = door(_words_of_publishing, error=PublishError, body_error=PublishError, too_large=PublishError)


@bp.post("/api/agents/validate")
@limiter.limit(LIMIT)
@Operation(
    tag="Store",
    body=ValidateBody,
    anonymous_bytes=STRANGER_BYTES,
    answers={
        200: ("What is wrong with them", CheckedDefinitions),
        400: "agentDefinitions is no list",
        500: "The body is no JSON",
    },
    door=VALIDATING,
)
def validate() -> ResponseReturnValue:
    """Check agent definitions.

    Nothing is published. 200 also when definitions are wrong: validationErrors says what.
    """
    sent = read_json(allow_nul=True)
    key = _list_key(sent)
    if key is None:
        raise DomainError(NO_LIST)
    local = sent.get("allLocalAgentIds")
    body = parse(ValidateBody, {"agentDefinitions": sent[key], "allLocalAgentIds": local})
    by_id = {_name(each, f"{key}[{at}]"): each for at, each in enumerate(body.agentDefinitions)}
    found = validation.check(by_id, body.allLocalAgentIds)
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
@Operation(
    tag="Store",
    caller="cookie or key",
    body=PublishBody,
    anonymous_bytes=STRANGER_BYTES,
    answers={
        201: ("Published", Publication),
        400: "Body, definition, version or a named agent cannot be used",
        403: "No such publisher of yours, or it is taken down",
        409: "Somebody else published this version at this moment, or the publisher is full",
        413: "The publisher has all the bytes it may have",
        429: "Too much published today; Retry-After says how long",
    },
    door=PUBLISHING,
)
def publish() -> ResponseReturnValue:
    """Publish agents.

    All become new versions, or none does. A version must be greater than the latest; without one it is the next patch
    version. Versions never change. The definitions are checked before the caller is.
    """
    arrived = now()
    body = parse(PublishBody, read_json(allow_nul=True))
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
        raise DomainError("Unauthorized", status=401)
    places = _publish(found, caller, arrived)
    names = [each.displayName for each in found.definitions]
    return jsonify(
        success=True,
        publisherId=places[0].publisher,
        agents=[
            {"id": place.agent, "version": place.version, "displayName": name}
            for place, name in zip(places, names, strict=True)
        ],
    ), 201


def _publish(
    found: validation.ValidationResult, caller: Credential, arrived: datetime
) -> list[FullReference]:
    kind = caller.session.type
    places = publishing_publish.publish(
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


def _in_words(error: InvalidBody) -> str:
    return "; ".join(
        f"{'.'.join(str(key) for key in issue['path'])}: {issue['message']}" for issue in error.issues
    )


# -- withdrawing ---------------------------------------------------------------------------------------------


REASON = Field(description="Why, in a sentence", json_schema_extra={"minLength": 1, "maxLength": 500})


class YankBody(Body):
    reason: str = REASON


class DeprecateBody(Body):
    reason: str = REASON
    successor: str | None = Field(None, description="publisher/agent to use instead")


WITHDRAWING: Answers = {
    403: "A plain member of the publisher's organisation",
    404: "No such publisher of yours, no such agent or version",
    429: "Too many changes today; Retry-After says how long",
}


@bp.post("/api/agents/<publisher>/<agent>/<version>/yank")
@limiter.limit(LIMIT)
@Operation(
    tag="Store",
    caller="cookie or key",
    body=YankBody,
    answers={200: ("Withdrawn", VersionState), **WITHDRAWING},
    door=DOOR,
)
def yank(publisher: str, agent: str, version: str) -> ResponseReturnValue:
    """Withdraw a version.

    `latest` passes over it; by its exact version it can still be fetched.
    """
    user = _changing()
    body = read(YankBody)
    row = withdrawing.yank(user, publisher, agent, version, body.reason, now())
    audit("agent.yanked", f"{publisher}/{agent}@{version}", user=user, after={"reason": row.yanked_reason})
    db.session.commit()
    return _version(row)


@bp.delete("/api/agents/<publisher>/<agent>/<version>/yank")
@limiter.limit(LIMIT)
@Operation(
    tag="Store", caller="cookie or key", answers={200: ("As it was", VersionState), **WITHDRAWING}, door=DOOR
)
def unyank(publisher: str, agent: str, version: str) -> ResponseReturnValue:
    """Bring a version back."""
    user = _changing()
    row = withdrawing.unyank(user, publisher, agent, version)
    audit("agent.unyanked", f"{publisher}/{agent}@{version}", user=user)
    db.session.commit()
    return _version(row)


@bp.post("/api/agents/<publisher>/<agent>/deprecation")
@limiter.limit(LIMIT)
@Operation(
    tag="Store",
    caller="cookie or key",
    body=DeprecateBody,
    answers={200: ("Deprecated", AgentState), **WITHDRAWING},
    door=DOOR,
)
def deprecate(publisher: str, agent: str) -> ResponseReturnValue:
    """Deprecate an agent."""
    user = _changing()
    body = read(DeprecateBody)
    row = withdrawing.deprecate(user, publisher, agent, body.reason, body.successor, now())
    after = {"reason": row.deprecated_reason, "successor": row.successor}
    audit("agent.deprecated", f"{publisher}/{agent}", user=user, after=after)
    db.session.commit()
    return _agent(row)


@bp.delete("/api/agents/<publisher>/<agent>/deprecation")
@limiter.limit(LIMIT)
@Operation(
    tag="Store", caller="cookie or key", answers={200: ("As it was", AgentState), **WITHDRAWING}, door=DOOR
)
def undeprecate(publisher: str, agent: str) -> ResponseReturnValue:
    """Take a deprecation back."""
    user = _changing()
    row = withdrawing.undeprecate(user, publisher, agent)
    audit("agent.undeprecated", f"{publisher}/{agent}", user=user)
    db.session.commit()
    return _agent(row)


def _changing() -> User:
    """Who changes something, counted. Raises DomainError: 401 for a stranger, 429 for too many changes a day."""
    user = cookie_or_key_user()
    if user is None:
        raise DomainError("Unauthorized", status=401)
    count_change(user)
    return user


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
@Operation(tag="Store", answers={200: ("A type file", str)}, door=DOOR)
def definition_types() -> ResponseReturnValue:
    """What a definition is, in TypeScript."""
    return _document(render_template("docs/agent_definition.ts"), "text/plain; charset=utf-8")


@bp.get("/api/docs/agent-definition.json")
@Operation(tag="Store", answers={200: ("JSON Schema 2020-12", dict[str, Any])}, door=DOOR)
def definition_schema() -> ResponseReturnValue:
    """What a definition is, as JSON Schema."""
    answer = jsonify(json_schema())
    answer.headers["Cache-Control"] = DOCUMENT_CACHING
    return answer


DOCUMENT_CACHING = "public, max-age=300, stale-while-revalidate=60"


def _document(text: str, kind: str) -> Response:
    return Response(text, content_type=kind, headers={"Cache-Control": DOCUMENT_CACHING})
