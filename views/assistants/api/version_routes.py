"""`/api/v1/assistants/<id>/versions`: list, read and restore versions."""

from flask import jsonify, request
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.assistants import readable_assistant, restore_version, versions_page
from models.assistants.assistant_listing import MAX_PAGE, PAGE
from models.core.db import db
from models.core.errors import Invalid
from views.assistants.api.assistant_bodies import (
    AssistantAnswer,
    VersionAnswer,
    VersionList,
    assistant_json,
    version_json,
    version_row,
)
from views.assistants.api.assistant_caller import (
    ASSISTANT_ID,
    DOOR,
    ERRORS,
    IF_MATCH,
    LIMIT,
    NUMBER,
    ORG,
    STALE,
    assistant_caller,
    expected_version,
    is_number,
    version_number,
)
from views.assistants.api.assistant_routes import bp
from views.web.guards import key_caller, limiter, settings
from views.web.keyset import page_limit
from views.web.operation import Operation, query


@bp.get("/api/v1/assistants/<id>/versions")
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_READ,
    parameters=[
        ASSISTANT_ID,
        ORG,
        query("cursor", "`next_cursor` of the previous page"),
        query("limit", f"At most {MAX_PAGE}; {PAGE} by default"),
    ],
    answers={200: ("Newest first", VersionList), **ERRORS, 422: "A parameter is wrong"},
    door=DOOR,
)
def list_versions(id: str) -> ResponseReturnValue:
    """List the versions of an assistant, without their texts."""
    caller, limit = assistant_caller(), page_limit(PAGE, MAX_PAGE)
    before = request.args.get("cursor")
    if before and not is_number(before):
        raise Invalid("'cursor' must be the next_cursor of a page.")
    rows = versions_page(*caller, id, before=int(before) if before else None, limit=limit + 1)
    more = str(rows[limit - 1].version) if len(rows) > limit else None
    return jsonify(data=[version_row(row) for row in rows[:limit]], next_cursor=more)


@bp.get("/api/v1/assistants/<id>/versions/<number>")
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_READ,
    parameters=[ASSISTANT_ID, NUMBER, ORG],
    answers={200: ("The version", VersionAnswer), **ERRORS},
    door=DOOR,
)
def get_version(id: str, number: str) -> ResponseReturnValue:
    """Get a version of an assistant."""
    caller = assistant_caller()
    return jsonify(version_json(readable_assistant(*caller, id, version_number(number)).version))


@bp.post("/api/v1/assistants/<id>/versions/<number>/restore")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[ASSISTANT_ID, NUMBER, ORG, IF_MATCH],
    answers={
        200: ("The assistant, in its new version", AssistantAnswer),
        **ERRORS,
        **STALE,
        413: "The assistant is larger than the bytes that an account saves a day",
        422: "`If-Match` is wrong",
    },
    door=DOOR,
)
def restore_a_version(id: str, number: str) -> ResponseReturnValue:
    """Make a new version with the content of an earlier one."""
    caller = assistant_caller()
    found = restore_version(*caller, id, version_number(number), settings(), expected=expected_version())
    db.session.commit()
    response = jsonify(assistant_json(found))
    response.headers["ETag"] = f'"{found.version.version}"'
    return response
