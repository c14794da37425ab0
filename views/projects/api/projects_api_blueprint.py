"""The blueprint of the JSON API of projects, who calls it, and how its errors look (fastest contract 2.1)."""

from typing import Any

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from flask_limiter import RateLimitExceeded
from pydantic import Field
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge, UnsupportedMediaType

from models.core.db import db
from models.core.errors import DomainError, Invalid, NotFound
from models.core.strict_models import InvalidBody
from models.ledger import Account
from models.orgs import member_org
from models.projects import ProjectCaller, Workspace
from models.projects.snapshots.part_sending import OtherPart
from models.projects.sync.sync_refusals import SyncRefused
from models.projects.workspaces.head_moves import Mover, StaleWorkspace
from models.projects.workspaces.operation_undo import UndecidedUndo
from views.web.body import BadJson
from views.web.error_bodies import retry_header
from views.web.guards import require_key
from views.web.operation import Answers, ErrorFormat, ResponseModel, header, path, query

bp = Blueprint("projects_api", __name__, url_prefix="/v1")

CHANGES = "1200/minute"
"""How many changes a person may make."""
CODES = {"invalid": "VALIDATION_ERROR", "invalid_api_key": "UNAUTHORIZED"}
"""Codes of the contract, where they differ from our own in upper case."""
ORG = query("org_id", "Id or slug of an organisation: its account; by default that of the key")
PROJECT_ID = path("projectId", "The id of the project")
WORKSPACE_ID = path("workspaceId", "The id of the workspace")
IF_MATCH = header("If-Match", 'The version that you have read, such as `"3"`; without it any is changed')
NOT_YOURS: Answers = {
    403: "Your role in the organisation does not allow it",
    404: "You have no such project, workspace or snapshot",
}
WRONG: Answers = {
    400: "The body is not JSON (`INVALID_JSON`)",
    422: "A field is missing or wrong (`VALIDATION_ERROR`)",
}
STALE: Answers = {
    409: "The workspace moved meanwhile (`VERSION_CONFLICT`): `details.version` is its version now"
}


class ProjectErrorDetail(ResponseModel):
    code: str = Field(description="Machine-readable code in upper case")
    message: str = Field(description="What is wrong, and what to do")
    details: Any = None


class ProjectError(ResponseModel):
    error: ProjectErrorDetail


def project_caller() -> ProjectCaller:
    """Who calls. Raises DomainError (401)."""
    found = require_key()
    return ProjectCaller(found.user.id, Account.of(found.session), found.session)


def chosen_account(caller: ProjectCaller, org_key: str | None = None) -> Account:
    """The account of the organisation `org_key`, else `?org_id=`, else of the key. Raises NotFound."""
    org_key = org_key or request.args.get("org_id")
    if not org_key:
        return caller.account
    org, _ = member_org(caller.user_id, org_key.replace("\0", ""))
    if caller.session.org_id not in (None, org.id):
        raise NotFound("Organization not found")
    return Account(org_id=org.id)


def cli_mover(caller: ProjectCaller) -> Mover:
    """A move by whoever calls with a key."""
    return Mover(caller.user_id, "cli")


def clamped_limit(default: int, most: int) -> int:
    """The query parameter `limit`, at most `most`. Raises Invalid."""
    text = request.args.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0):
        raise Invalid(f"'limit' must be a number from 1 to {most}.")
    return min(int(text), most)


def with_version(response: Response, workspace: Workspace) -> Response:
    """The response with the workspace's version as ETag."""
    response.headers["ETag"] = f'"{workspace.version}"'
    return response


def error_body(status: int, code: str, message: str, details: Any = None) -> Response:
    """An error in the envelope of the contract."""
    more = {} if details is None else {"details": details}
    response = jsonify(error={"code": code, "message": message, **more})
    response.status_code = status
    return response


def format_project_error(error: Exception) -> ResponseReturnValue | None:
    """An error in the envelope of the contract; None for the server's default."""
    db.session.rollback()
    match error:
        case BadJson():
            return error_body(400, "INVALID_JSON", f"The request body is not valid JSON: {error}.")
        case InvalidBody():
            first = error.issues[0]
            where = ".".join(str(key) for key in first["path"])
            message = f"'{where}': {first['message']}" if where else f"The body: {first['message']}"
            return error_body(422, "VALIDATION_ERROR", message, error.issues)
        case StaleWorkspace():
            response = error_body(409, "VERSION_CONFLICT", error.message, {"version": error.current})
            response.headers["ETag"] = f'"{error.current}"'
            return response
        case SyncRefused():
            return error_body(error.status, error.code.upper(), error.message, error.facts)
        case OtherPart():
            return error_body(409, "OTHER_PART", error.message, {"received": error.received})
        case UndecidedUndo():
            return error_body(409, "UNDO_CONFLICT", error.message, {"conflicts": error.paths})
        case DomainError():
            fields = error.fields if isinstance(error, Invalid) and error.fields else error.details
            code = CODES.get(error.code, error.code.upper())
            response = error_body(error.status, code, error.message, fields)
            response.headers.update(retry_header(error))
            return response
        case RateLimitExceeded():
            return error_body(429, "RATE_LIMITED", "Too many requests. Wait a minute, then try again.")
        case RequestEntityTooLarge():
            message = error.description or "The request body is too large."
            return error_body(413, "PAYLOAD_TOO_LARGE", message)
        case UnsupportedMediaType():
            response = error_body(415, "UNSUPPORTED_ENCODING", error.description or "Unsupported encoding.")
            if accepted := getattr(error, "accept", None):
                response.headers["Accept-Encoding"] = accepted
            return response
        case MethodNotAllowed():
            return None
        case HTTPException(code=500):
            return error_body(
                500, "INTERNAL_ERROR", "Internal server error. Try again; if it persists, tell the operator."
            )
        case HTTPException(code=int() as status):
            return error_body(status, error.name.upper().replace(" ", "_"), error.description or error.name)
    return None


DOOR = ErrorFormat(
    format_project_error, ProjectError, ProjectError, ProjectError, ProjectError, suspended=True
)
