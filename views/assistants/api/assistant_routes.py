"""`/api/v1/assistants`: create, read, change, duplicate, delete and restore (crafely contract 4.4)."""

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.assistants import (
    SavedAssistant,
    assistants_page,
    create_assistant,
    delete_assistant,
    duplicate_assistant,
    readable_assistant,
    restore_assistant,
    update_assistant,
)
from models.assistants.assistant_listing import MAX_PAGE, PAGE
from models.core.db import db
from views.assistants.api.assistant_bodies import (
    AssistantAnswer,
    AssistantChanges,
    AssistantList,
    DuplicateName,
    NewAssistant,
    assistant_json,
)
from views.assistants.api.assistant_caller import (
    ASSISTANT_ID,
    DOOR,
    ERRORS,
    IF_MATCH,
    LIMIT,
    ORG,
    STALE,
    assistant_caller,
    expected_version,
    flag,
)
from views.web.body import parse, read, read_json
from views.web.guards import key_caller, limiter, settings
from views.web.keyset import cursor, cursor_text, page_limit
from views.web.operation import Operation, query

bp = Blueprint("assistants_api", __name__)

WRONG = "A field is unknown, missing or wrong; the message names it"
TOO_MANY = "The limit of assistants of the account, or of their bytes a day, is reached"


@bp.get("/api/v1/assistants")
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_READ,
    parameters=[
        query("q", "Part of the name or description"),
        ORG,
        query("include_deleted", "`true`: deleted ones too"),
        query("cursor", "`next_cursor` of the previous page"),
        query("limit", f"At most {MAX_PAGE}; {PAGE} by default"),
    ],
    answers={200: ("Newest first", AssistantList), **ERRORS, 422: "A parameter is wrong"},
    door=DOOR,
)
def list_assistants() -> ResponseReturnValue:
    """List the assistants of the account."""
    caller, limit = assistant_caller(), page_limit(PAGE, MAX_PAGE)
    rows = assistants_page(
        *caller,
        search=request.args.get("q", ""),
        deleted=flag("include_deleted"),
        before=cursor("cursor"),
        limit=limit + 1,
    )
    page = rows[:limit]
    last = page[-1].assistant if len(rows) > limit else None
    return jsonify(
        data=[assistant_json(row, listed=True) for row in page],
        next_cursor=cursor_text(last.created_at, last.id) if last else None,
    )


@bp.post("/api/v1/assistants")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[ORG],
    body=NewAssistant,
    answers={
        201: ("The assistant", AssistantAnswer),
        **ERRORS,
        409: TOO_MANY,
        413: "The assistant is larger than the bytes that an account saves a day",
        422: WRONG,
    },
    door=DOOR,
)
def create_an_assistant() -> ResponseReturnValue:
    """Create an assistant."""
    caller = assistant_caller()
    body = read(NewAssistant)
    if body.org_id is not None:
        caller = assistant_caller(body.org_id)
    found = create_assistant(*caller, body.fields(), settings(), budget=body.budget)
    db.session.commit()
    return _answer(found), 201


@bp.get("/api/v1/assistants/<id>")
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_READ,
    parameters=[ASSISTANT_ID, ORG, query("include_deleted", "`true`: also if it is deleted")],
    answers={200: ("The assistant", AssistantAnswer), **ERRORS, 422: "A parameter is wrong"},
    door=DOOR,
)
def get_assistant(id: str) -> ResponseReturnValue:
    """Get an assistant.

    The header ETag has its version.
    """
    return _answer(readable_assistant(*assistant_caller(), id, deleted=flag("include_deleted")))


@bp.patch("/api/v1/assistants/<id>")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[ASSISTANT_ID, ORG, IF_MATCH],
    body=AssistantChanges,
    answers={
        200: ("The assistant, in its new version", AssistantAnswer),
        **ERRORS,
        **STALE,
        413: "The assistant is larger than the bytes that an account saves a day",
        422: WRONG,
    },
    door=DOOR,
)
def change_assistant(id: str) -> ResponseReturnValue:
    """Change an assistant: makes a new version.

    A change of the budget alone makes none.
    """
    caller = assistant_caller()
    readable_assistant(*caller, id)  # whose it is comes before what is sent
    body = read(AssistantChanges)
    budget = body.budget if "budget" in body.model_fields_set else False
    found = update_assistant(
        *caller, id, body.fields(), settings(), expected=expected_version(), budget=budget
    )
    db.session.commit()
    return _answer(found)


@bp.delete("/api/v1/assistants/<id>")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[ASSISTANT_ID, ORG],
    answers={200: ("The assistant, with `deleted_at`", AssistantAnswer), **ERRORS},
    door=DOOR,
)
def delete_an_assistant(id: str) -> ResponseReturnValue:
    """Delete an assistant.

    It can be restored for STOA_ASSISTANT_DAYS (30) days. Its threads stay readable; a new turn answers 409 `agent_deleted`.
    """
    found = delete_assistant(*assistant_caller(), id)
    db.session.commit()
    return _answer(found)


@bp.post("/api/v1/assistants/<id>/restore")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[ASSISTANT_ID, ORG],
    answers={
        200: ("The assistant", AssistantAnswer),
        **ERRORS,
        409: "It is not deleted (`not_deleted`), or the limit of assistants is reached",
    },
    door=DOOR,
)
def restore_an_assistant(id: str) -> ResponseReturnValue:
    """Restore a deleted assistant."""
    found = restore_assistant(*assistant_caller(), id, settings())
    db.session.commit()
    return _answer(found)


@bp.post("/api/v1/assistants/<id>/duplicate")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[ASSISTANT_ID, ORG],
    body=DuplicateName,
    answers={
        201: ("The copy", AssistantAnswer),
        **ERRORS,
        409: TOO_MANY,
        413: "The assistant is larger than the bytes that an account saves a day",
        422: WRONG,
    },
    door=DOOR,
)
def duplicate_an_assistant(id: str) -> ResponseReturnValue:
    """Copy an assistant's current version into a new assistant."""
    caller = assistant_caller()
    readable_assistant(*caller, id)
    body = parse(DuplicateName, read_json() if request.content_length else {})
    found = duplicate_assistant(*caller, id, settings(), body.name)
    db.session.commit()
    return _answer(found), 201


def _answer(found: SavedAssistant) -> Response:
    response = jsonify(assistant_json(found))
    response.headers["ETag"] = f'"{found.version.version}"'
    return response
