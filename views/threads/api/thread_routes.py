"""JSON routes of threads: create, list, search, read, change, delete, restore, export."""

from typing import Any

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from models import threads
from models.assistants import readable_assistant
from models.core.db import db
from models.core.errors import Invalid
from models.threads import Thread, thread_json
from models.threads.exported_threads import export_json, export_markdown
from models.threads.thread_listing import ListedThread, ThreadFilter, threads_page
from models.threads.thread_settings import ThreadSettings
from views.threads.api.thread_bodies import (
    NewAssistantThread,
    NewThread,
    ThreadAnswer,
    ThreadChanges,
    ThreadFile,
    ThreadList,
    ThreadSettingsBody,
)
from views.threads.api.threads_api_blueprint import (
    CURSOR,
    ERRORS,
    LIMIT,
    READ,
    THREAD_ID,
    WRITE,
    bp,
    flag,
    page_size,
    thread_caller,
)
from views.threads.api.turn_routes import resume_turns
from views.web.body import read
from views.web.error_bodies import MANAGEMENT
from views.web.guards import key_caller, limiter
from views.web.keyset import cursor, cursor_text
from views.web.operation import Operation, path, query

ASSISTANT_ID = path("assistantId", "`id` of the assistant, such as `agnt_…`")


@bp.post("/api/v1/threads")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Threads",
    caller="key",
    scope=WRITE,
    body=NewThread,
    answers={201: ("The thread", ThreadAnswer), **ERRORS, 409: "Another thread has this storage_id"},
    door=MANAGEMENT,
)
def create() -> ResponseReturnValue:
    """Create a thread, of the key's user and paid by the key's account."""
    caller = thread_caller()
    body = read(NewThread)
    thread = threads.create_thread(caller.user_id, caller.account, **_settings(body))
    return _saved(thread, 201)


@bp.get("/api/v1/threads")
@Operation(
    tag="Threads",
    caller="key",
    scope=READ,
    parameters=[
        query(
            "q",
            'Words in the name or the messages, at most 200 characters: all of them; "quoted": in this order',
        ),
        query("agent_id", "Those of this assistant"),
        query("storage_id", "The one with this id of your own choice"),
        query("deleted", "`true`: the deleted ones, which can be restored"),
        CURSOR,
        LIMIT,
    ],
    answers={200: ("Newest activity first", ThreadList), 422: "A parameter is wrong"},
    door=MANAGEMENT,
)
def listed() -> ResponseReturnValue:
    """List or search the threads of the key's user."""
    return _page(request.args.get("agent_id"))


@bp.get("/api/v1/assistants/<assistant_id>/threads")
@Operation(
    tag="Threads",
    caller="key",
    scope=READ,
    parameters=[ASSISTANT_ID, CURSOR, LIMIT],
    answers={200: ("Newest activity first", ThreadList), 404: "No such assistant", 422: ERRORS[422]},
    door=MANAGEMENT,
)
def listed_of_assistant(assistant_id: str) -> ResponseReturnValue:
    """List your threads with an assistant."""
    caller = thread_caller()
    readable_assistant(caller.user_id, caller.account, assistant_id, deleted=True)
    return _page(assistant_id)


@bp.post("/api/v1/assistants/<assistant_id>/threads")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Threads",
    caller="key",
    scope=WRITE,
    parameters=[ASSISTANT_ID],
    body=NewAssistantThread,
    answers={201: ("The thread", ThreadAnswer), **ERRORS, 409: "Another thread has this storage_id"},
    door=MANAGEMENT,
)
def create_with_assistant(assistant_id: str) -> ResponseReturnValue:
    """Create a thread with an assistant."""
    caller = thread_caller()
    readable_assistant(caller.user_id, caller.account, assistant_id)
    settings = _settings(read(NewAssistantThread)) | {"assistant_id": assistant_id}
    return _saved(threads.create_thread(caller.user_id, caller.account, **settings), 201)


@bp.get("/api/v1/threads/<id>")
@Operation(
    tag="Threads",
    caller="key",
    scope=READ,
    parameters=[THREAD_ID],
    answers={200: ("The thread", ThreadAnswer), 404: ERRORS[404]},
    door=MANAGEMENT,
)
def thread(id: str) -> ResponseReturnValue:
    """Get a thread, without its messages."""
    return jsonify(thread_json(thread_caller().thread(id)))


@bp.patch("/api/v1/threads/<id>")
@limiter.limit("240/minute", key_func=key_caller)
@Operation(
    tag="Threads",
    caller="key",
    scope=WRITE,
    parameters=[THREAD_ID],
    body=ThreadChanges,
    answers={200: ("The thread", ThreadAnswer), **ERRORS},
    door=MANAGEMENT,
)
def change(id: str) -> ResponseReturnValue:
    """Change a thread: its name, instructions, model, assistant, metadata, budget, or which branch it shows.

    Turns that its budget had paused resume when it changes.
    """
    found = thread_caller().thread(id)
    body = read(ThreadChanges)
    settings = _settings(body)
    if settings:
        found = threads.change_thread(found, **settings)
    if body.head_id is not None:
        threads.select_branch(found, body.head_id)
    answer = _saved(found)
    if "budget" in settings:
        resume_turns(thread_id=id)
    return answer


@bp.delete("/api/v1/threads/<id>")
@limiter.limit("240/minute", key_func=key_caller)
@Operation(
    tag="Threads",
    caller="key",
    scope=WRITE,
    parameters=[THREAD_ID],
    answers={200: ("The deleted thread", ThreadAnswer), 404: ERRORS[404]},
    door=MANAGEMENT,
)
def delete(id: str) -> ResponseReturnValue:
    """Delete a thread.

    It can be restored until it is deleted for good, by default 30 days later. Its links stop working.
    """
    return _saved(threads.delete_thread(thread_caller().thread(id)))


@bp.post("/api/v1/threads/<id>/restore")
@limiter.limit("240/minute", key_func=key_caller)
@Operation(
    tag="Threads",
    caller="key",
    scope=WRITE,
    parameters=[THREAD_ID],
    answers={200: ("The thread", ThreadAnswer), 404: ERRORS[404], 409: "It is not deleted"},
    door=MANAGEMENT,
)
def restore(id: str) -> ResponseReturnValue:
    """Restore a deleted thread."""
    return _saved(threads.restore_thread(thread_caller().thread(id, deleted=True)))


@bp.get("/api/v1/threads/<id>/export")
@limiter.limit("30/minute", key_func=key_caller)
@Operation(
    tag="Threads",
    caller="key",
    scope=READ,
    parameters=[
        THREAD_ID,
        query("format", "`json`: all branches (default); `md`: the branch that is shown, as Markdown"),
        query("branch", "With `md`: the branch of this message instead"),
    ],
    answers={200: ("The file, streamed", ThreadFile | str), 404: ERRORS[404], 422: "A parameter is wrong"},
    door=MANAGEMENT,
)
def export(id: str) -> ResponseReturnValue:
    """Download a thread."""
    found = thread_caller().thread(id)
    kind, branch = request.args.get("format", "json"), request.args.get("branch")
    if kind not in ("json", "md"):
        raise Invalid("'format' must be json or md.")
    if kind == "json":
        response = Response(export_json(found), mimetype="application/json")
    else:
        head_id = threads.newest_below(found, branch) if branch is not None else None
        response = Response(export_markdown(found, head_id), mimetype="text/markdown")
    db.session.commit()  # the stream holds no connection
    response.headers["Content-Disposition"] = f'attachment; filename="{found.id}.{kind}"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _page(assistant_id: str | None) -> ResponseReturnValue:
    caller = thread_caller()
    limit = page_size()
    filter = ThreadFilter(
        caller.user_id,
        caller.account.id,
        request.args.get("q", ""),
        assistant_id,
        request.args.get("storage_id"),
        flag("deleted"),
    )
    rows = threads_page(filter, cursor("cursor"), limit + 1)
    page = rows[:limit]
    last = page[-1].thread if len(rows) > limit else None
    return jsonify(
        data=[_listed(row) for row in page],
        next_cursor=cursor_text(last.active_at, last.id) if last else None,
    )


def _listed(row: ListedThread) -> dict[str, Any]:
    answer = thread_json(row.thread)
    if row.found:
        answer["found"] = {"message_id": row.found.message_id, "snippet": row.found.pieces}
    return answer


def _settings(body: ThreadSettingsBody) -> ThreadSettings:
    """What the body sets of a thread."""
    sent: dict[str, Any] = body.model_dump(include=body.model_fields_set - {"head_id"})
    if "agent_id" in sent:
        sent["assistant_id"] = sent.pop("agent_id")
    return sent  # type: ignore[return-value]


def _saved(thread: Thread, status: int = 200) -> ResponseReturnValue:
    db.session.commit()
    return jsonify(thread_json(thread)), status
