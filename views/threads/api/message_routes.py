"""JSON routes of the messages of a thread."""

from typing import Any

from flask import jsonify, request
from flask.typing import ResponseReturnValue

from models import threads
from models.core.db import db
from models.core.errors import Invalid
from models.threads import message_json
from views.threads.api.thread_bodies import MessageAnswer, MessageList, NewMessage
from views.threads.api.threads_api_blueprint import (
    ERRORS,
    LIMIT,
    READ,
    THREAD_ID,
    WRITE,
    bp,
    page_size,
    thread_caller,
)
from views.web.body import read
from views.web.error_bodies import MANAGEMENT
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, path, query

NOT_FOUND = "No such thread of yours, or no such message in it"


@bp.get("/api/v1/threads/<id>/messages")
@Operation(
    tag="Threads",
    caller="key",
    scope=READ,
    parameters=[
        THREAD_ID,
        query("before", "Those above this message, newest first"),
        query("after", "Those newer than this message, oldest first"),
        query(
            "branch",
            "The branch of this message, down to the newest message below it; by default the one that is shown",
        ),
        LIMIT,
    ],
    answers={
        200: ("A page of the branch, newest first; with `after` oldest first", MessageList),
        404: NOT_FOUND,
        422: "A parameter is wrong",
    },
    door=MANAGEMENT,
)
def messages(id: str) -> ResponseReturnValue:
    """List the messages of a branch of the thread."""
    found, limit, args = thread_caller().thread(id), page_size(), request.args
    before, after, branch = args.get("before"), args.get("after"), args.get("branch")
    if before is not None and after is not None:
        raise Invalid("Send 'before' or 'after', not both.")
    head_id = threads.newest_below(found, branch) if branch is not None else None
    rows = threads.path(found, head_id, before=before, after=after, limit=limit + 1)
    page = rows[:limit]
    siblings = threads.siblings(found, page)
    data = [{**message_json(row), "siblings": siblings[row.id]._asdict()} for row in page]
    return jsonify(data=data, next_cursor=page[-1].id if len(rows) > limit else None)


@bp.get("/api/v1/threads/<id>/messages/<message_id>")
@Operation(
    tag="Threads",
    caller="key",
    scope=READ,
    parameters=[THREAD_ID, path("messageId", "`id` of the message, such as `msg_…`")],
    answers={200: ("The message", MessageAnswer), 404: NOT_FOUND},
    door=MANAGEMENT,
)
def message(id: str, message_id: str) -> ResponseReturnValue:
    """Get a message."""
    return jsonify(message_json(threads.message_of(thread_caller().thread(id), message_id)))


@bp.post("/api/v1/threads/<id>/messages")
@limiter.limit("600/minute", key_func=key_caller)
@Operation(
    tag="Threads",
    caller="key",
    scope=WRITE,
    parameters=[THREAD_ID],
    body=NewMessage,
    answers={
        201: ("The message", MessageAnswer),
        404: NOT_FOUND,
        409: "A turn is in progress there (`turn_in_progress`), or the thread is full (`thread_full`)",
        422: ERRORS[422],
    },
    door=MANAGEMENT,
)
def add_message(id: str) -> ResponseReturnValue:
    """Add a message, without a model call.

    With a `parent_id` that has an answer already, it begins a branch, which the thread shows from then on.
    """
    found = thread_caller().thread(id)
    body = read(NewMessage)
    if body.role == "tool" and not body.tool_call_id:
        problem = "A tool's message needs the id of the call that it answers."
        raise Invalid(problem, fields={"tool_call_id": problem})
    fields: dict[str, Any] = body.model_dump(include=body.model_fields_set)
    added = threads.add_message(found, **fields)
    db.session.commit()
    return jsonify(message_json(added)), 201
