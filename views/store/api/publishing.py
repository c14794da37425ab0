"""JSON API of publishing: validate, publish, yank, deprecate, and the definition schema (contract 2.6)."""

from datetime import datetime
from typing import Annotated, Any

from flask import Blueprint, Response, jsonify, render_template
from flask.typing import ResponseReturnValue
from pydantic import BeforeValidator, Field, WithJsonSchema
from werkzeug.exceptions import RequestEntityTooLarge

from models.accounts import scopes
from models.accounts.credentials import Credential
from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import DomainError, Forbidden
from models.store import Agent, AgentVersion, publishers
from models.store.publishing import publish as publishing_publish
from models.store.publishing import typescript_reader, validation, withdrawing
from models.store.publishing.definition_schema import json_schema
from models.store.publishing.publish import PublishRefused
from models.store.publishing.spawning import FullReference
from models.store.publishing.typescript_reader import TypeScriptProblem
from models.store.publishing.validation import Problem
from views.store.pages.limits import count_change
from views.web import error_bodies
from views.web.body import BadJson, Body, InvalidBody, Missing, UndecodableBody, parse, read, read_json
from views.web.error_bodies import BAD_BODY, BAD_JSON, ApiError, door, retry_header
from views.web.format import iso
from views.web.guards import (
    audit,
    cookie_credential,
    cookie_or_key_user,
    cookie_user,
    key_credential,
    limiter,
    settings,
)
from views.web.operation import Answers, Operation, ResponseModel

bp = Blueprint("store_api", __name__)

MAX_AGENTS = 500
MAX_LOCAL = 10_000
LIMIT = "600/minute"
NO_LIST = "Invalid request: agentDefinitions must be an array of AgentDefinition objects"
STRANGER_BYTES = 1 << 20
"""Body limit (bytes) without credentials in a header: validation is public, and older clients send the token in the body."""


def _texts(value: Any) -> Any:
    return [each for each in value[:MAX_LOCAL] if isinstance(each, str)] if isinstance(value, list) else []


LOCAL = "Ids of the caller's local agents; they count as known"
LocalIds = Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=MAX_LOCAL, fail_fast=True)]
OwnIds = Annotated[list[str], Field(fail_fast=True)]
SentDefinition = Annotated[dict[str, Any], WithJsonSchema({"x-component": "AgentDefinition"})]


class PublishBody(Body):
    data: Annotated[list[SentDefinition], Field(min_length=1, max_length=MAX_AGENTS)]
    allLocalAgentIds: Missing[LocalIds] = Field(None, description=LOCAL)
    authToken: Missing[str] = Field(None, description="An API key, if it cannot be sent in a header")


class ValidateBody(Body):
    agentDefinitions: Annotated[
        list[Annotated[Any, WithJsonSchema({"x-component": "AgentDefinition"})]], Field(max_length=MAX_AGENTS)
    ]
    allLocalAgentIds: Annotated[OwnIds, BeforeValidator(_texts)] = Field([], description=LOCAL)


class SourceBody(Body):
    source: str = Field(description="A TypeScript module whose default export is the definition")


class ReadDefinition(ResponseModel):
    definition: Any = Field(description="The default export as JSON; not validated")


class SourceError(ApiError):
    line: Missing[int] = Field(None, description="From 1")
    column: Missing[int] = Field(None, description="From 1, in characters")


class DefinitionProblem(ResponseModel):
    filePath: str = Field(description="The agent's id, or its position in the list")
    message: str


class CheckedDefinitions(ResponseModel):
    success: bool
    configs: list[str] = Field(description="Ids of the valid definitions")
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
    hint: Missing[str] = Field(None, description="How to fix it")
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


def _validate_error(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson() if not isinstance(error, UndecodableBody):
            # the contract answers invalid JSON with 500
            return jsonify(error="Internal server error"), 500
        case InvalidBody():
            return jsonify(error=f"Invalid request: {_issues_text(error)}"), 400
    return _words(error)


def _publish_error(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson():
            return jsonify(error=BAD_BODY, details=BAD_JSON, validationErrors=[]), 400
        case InvalidBody():
            return jsonify(error=BAD_BODY, details=_issues_text(error), validationErrors=error.issues), 400
        case PublishRefused(hint=str(hint)):
            body = jsonify(error=error.message, details=error.details, hint=hint)
            return body, error.status, retry_header(error)
    return _words(error)


def _source_error(error: Exception) -> ResponseReturnValue | None:
    match error:
        case BadJson():
            return jsonify(error=BAD_JSON), 400
        case InvalidBody():
            return jsonify(error=_issues_text(error)), 400
    return _words(error)


DOOR = door(_words, too_large=ApiError)
READING = door(_source_error, error=SourceError, body_error=SourceError, too_large=ApiError)
VALIDATING = door(_validate_error, body_error=ApiError, too_large=ApiError)
PUBLISHING = door(_publish_error, error=PublishError, body_error=PublishError, too_large=PublishError)


@bp.post("/api/agents/validate")
@limiter.limit(LIMIT)
@Operation(
    tag="Publishing",
    body=ValidateBody,
    anonymous_bytes=STRANGER_BYTES,
    answers={
        200: ("The result", CheckedDefinitions),
        400: "agentDefinitions is not a list",
        500: "The body is not JSON",
    },
    door=VALIDATING,
)
def validate() -> ResponseReturnValue:
    """Check agent definitions.

    Publishes nothing. Invalid definitions also answer 200, with validationErrors.
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


@bp.post("/api/agents/definitions")
@limiter.limit("120/minute")
@Operation(
    tag="Publishing",
    body=SourceBody,
    anonymous_bytes=STRANGER_BYTES,
    answers={200: ("The definition", ReadDefinition), 400: "Not such a module; says the line and column"},
    door=READING,
)
def read_definition() -> ResponseReturnValue:
    """Read a TypeScript definition.

    Takes the module's default export without running it: objects, arrays, strings, templates without `${}`, numbers, booleans and
    constants of the same file. `handleSteps` becomes JavaScript source. Publishes nothing.
    """
    try:
        definition = typescript_reader.read(read(SourceBody).source)
    except TypeScriptProblem as problem:
        return jsonify(error=str(problem), line=problem.line, column=problem.column), 400
    return jsonify(definition=definition)


@bp.post("/api/agents/publish")
@limiter.limit(LIMIT)
@Operation(
    tag="Publishing",
    caller="cookie or key",
    scope=scopes.AGENTS_PUBLISH,
    body=PublishBody,
    anonymous_bytes=STRANGER_BYTES,
    answers={
        201: ("Published", Publication),
        400: "Invalid body, definition, version or referenced agent",
        403: "Not your publisher, or taken down",
        409: "The version was published concurrently, or the publisher's limit of agents is reached",
        413: "The publisher's limit of bytes is reached",
        429: "Daily publishing limit reached; see Retry-After",
    },
    door=PUBLISHING,
)
def publish() -> ResponseReturnValue:
    """Publish agents.

    Publishes all definitions or none. A version must be greater than the latest; it defaults to the next patch version.
    Versions are immutable. Definitions are validated before authentication.
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
    published = _publish(found, caller, arrived)
    names = [each.displayName for each in found.definitions]
    return jsonify(
        success=True,
        publisherId=published[0].publisher,
        agents=[
            {"id": reference.agent, "version": reference.version, "displayName": name}
            for reference, name in zip(published, names, strict=True)
        ],
    ), 201


def _publish(
    found: validation.ValidationResult, caller: Credential, arrived: datetime
) -> list[FullReference]:
    kind = caller.session.type
    published = publishing_publish.publish(
        found.definitions,
        by=caller.user,
        credential=kind,
        arrived=arrived,
        limits=settings(),
    )
    for reference in published:
        _refuse_foreign(reference.publisher, caller.session.org_id)
        audit("agent.published", str(reference), user=caller.user, after={"credential": kind})
    db.session.commit()
    return published


def _problems(problems: list[Problem]) -> list[dict[str, str]]:
    return [{"filePath": each.file_path, "message": each.message} for each in problems]


def _issues_text(error: InvalidBody) -> str:
    return "; ".join(
        f"{'.'.join(str(key) for key in issue['path'])}: {issue['message']}" for issue in error.issues
    )


# -- yank and deprecate --------------------------------------------------------------------------------------


REASON = Field(description="Why, in a sentence", json_schema_extra={"minLength": 1, "maxLength": 500})


class YankBody(Body):
    reason: str = REASON


class DeprecateBody(Body):
    reason: str = REASON
    successor: str | None = Field(None, description="The publisher/agent to use instead")


WITHDRAWING: Answers = {
    403: "You are neither owner nor admin of the publisher's organisation",
    404: "Publisher not yours, or agent or version not found",
    429: "Too many changes today; see Retry-After",
}


@bp.post("/api/agents/<publisher>/<agent>/<version>/yank")
@limiter.limit(LIMIT)
@Operation(
    tag="Publishing",
    caller="cookie or key",
    scope=scopes.AGENTS_PUBLISH,
    body=YankBody,
    answers={200: ("Yanked", VersionState), **WITHDRAWING},
    door=DOOR,
)
def yank(publisher: str, agent: str, version: str) -> ResponseReturnValue:
    """Yank a version.

    `latest` skips it; its exact version stays available.
    """
    user = _changing_user(publisher)
    body = read(YankBody)
    row = withdrawing.yank(user, publisher, agent, version, body.reason, now())
    audit("agent.yanked", f"{publisher}/{agent}@{version}", user=user, after={"reason": row.yanked_reason})
    db.session.commit()
    return _version(row)


@bp.delete("/api/agents/<publisher>/<agent>/<version>/yank")
@limiter.limit(LIMIT)
@Operation(
    tag="Publishing",
    caller="cookie or key",
    scope=scopes.AGENTS_PUBLISH,
    answers={200: ("Restored", VersionState), **WITHDRAWING},
    door=DOOR,
)
def unyank(publisher: str, agent: str, version: str) -> ResponseReturnValue:
    """Restore a yanked version."""
    user = _changing_user(publisher)
    row = withdrawing.unyank(user, publisher, agent, version)
    audit("agent.unyanked", f"{publisher}/{agent}@{version}", user=user)
    db.session.commit()
    return _version(row)


@bp.post("/api/agents/<publisher>/<agent>/deprecation")
@limiter.limit(LIMIT)
@Operation(
    tag="Publishing",
    caller="cookie or key",
    scope=scopes.AGENTS_PUBLISH,
    body=DeprecateBody,
    answers={200: ("Deprecated", AgentState), **WITHDRAWING},
    door=DOOR,
)
def deprecate(publisher: str, agent: str) -> ResponseReturnValue:
    """Deprecate an agent."""
    user = _changing_user(publisher)
    body = read(DeprecateBody)
    row = withdrawing.deprecate(user, publisher, agent, body.reason, body.successor, now())
    after = {"reason": row.deprecated_reason, "successor": row.successor}
    audit("agent.deprecated", f"{publisher}/{agent}", user=user, after=after)
    db.session.commit()
    return _agent(row)


@bp.delete("/api/agents/<publisher>/<agent>/deprecation")
@limiter.limit(LIMIT)
@Operation(
    tag="Publishing",
    caller="cookie or key",
    scope=scopes.AGENTS_PUBLISH,
    answers={200: ("Restored", AgentState), **WITHDRAWING},
    door=DOOR,
)
def undeprecate(publisher: str, agent: str) -> ResponseReturnValue:
    """Undo a deprecation."""
    user = _changing_user(publisher)
    row = withdrawing.undeprecate(user, publisher, agent)
    audit("agent.undeprecated", f"{publisher}/{agent}", user=user)
    db.session.commit()
    return _agent(row)


def _changing_user(publisher_id: str) -> User:
    """The authenticated user, with this change counted. Raises DomainError (401), Forbidden (`_refuse_foreign`),
    WriteLimitExceeded (429)."""
    user = cookie_or_key_user()
    if user is None:
        raise DomainError("Unauthorized", status=401)
    key = None if cookie_user() else key_credential()
    _refuse_foreign(publisher_id, key.session.org_id if key else None)
    count_change(user)
    return user


def _refuse_foreign(publisher_id: str, org_id: str | None) -> None:
    """Raise Forbidden if a key of organisation `org_id` changes a publisher of somebody else: whoever made the key before it was
    handed over knows it."""
    publisher = publishers.find(publisher_id) if org_id else None
    if publisher and publisher.org_id != org_id:
        raise Forbidden("An organisation's key changes publishers of the organisation only.")


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


# -- definition schema ----------------------------------------------------------------------------------------


@bp.get("/api/docs/agent-definition")
@Operation(tag="Publishing", answers={200: ("TypeScript", str)}, door=DOOR)
def definition_types() -> ResponseReturnValue:
    """Get the definition format as TypeScript types."""
    return _document(render_template("docs/agent_definition.ts"), "text/plain; charset=utf-8")


@bp.get("/api/docs/agent-definition.json")
@Operation(tag="Publishing", answers={200: ("JSON Schema 2020-12", dict[str, Any])}, door=DOOR)
def definition_schema() -> ResponseReturnValue:
    """Get the definition format as JSON Schema."""
    answer = jsonify(json_schema())
    answer.headers["Cache-Control"] = DOCUMENT_CACHING
    return answer


DOCUMENT_CACHING = "public, max-age=300, stale-while-revalidate=60"


def _document(text: str, kind: str) -> Response:
    return Response(text, content_type=kind, headers={"Cache-Control": DOCUMENT_CACHING})
