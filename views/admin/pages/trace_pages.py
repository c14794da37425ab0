"""`/admin/traces`: find anyone's run or client session by id, and read it. The audit log keeps who looked at which."""

from collections.abc import Sequence
from typing import Any

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from models.admin.account_review import reviewed_account, view_is_due
from models.admin.account_search import LONGEST_TEXT
from models.admin.client_traces import (
    TracedMessage,
    answer_turns,
    chat_of_client,
    chat_of_run,
    find_trace,
    request_turns,
    run_ids_of_client,
    run_of_anyone,
)
from models.core.db import db, now
from models.core.errors import NotFound
from models.runs.trace import trace_of
from views.admin.pages.admin_blueprint import bp, operating_user
from views.admin.pages.admin_overview import WHOLE_KEY
from views.runs.pages.run_pages import run_context
from views.web.guards import OWN_KEY, admin_required, audit
from views.web.htmx import render


@bp.get("/traces")
@admin_required
def traces() -> ResponseReturnValue:
    """Find a trace. Query: `q`, the id of a run, of a client's session or of a call."""
    text = request.args.get("q", "").replace("\0", "").strip()
    error = None
    if len(text) >= WHOLE_KEY and OWN_KEY.fullmatch(text):
        error, text = "Never enter a whole key. Find its account by its last eight characters.", ""
    elif len(text) > LONGEST_TEXT:
        error, text = f"Enter at most {LONGEST_TEXT} characters.", ""
    match find_trace(text) if text else None:
        case ("run", id):
            return redirect(url_for("admin.run_trace", run_id=id))
        case ("client", id):
            return redirect(url_for("admin.client_trace", client_id=id))
        case ("call", id):
            return redirect(url_for("admin.overview", q=id))
    return render("admin/traces.html", query=text, error=error, status=422 if error else 200)


@bp.get("/traces/runs/<run_id>")
@admin_required
def run_trace(run_id: str) -> ResponseReturnValue:
    """A run of anyone: its trace, and the messages of its calls. Query: `after` (of the messages). Runs without a record have their
    messages alone. Raises NotFound."""
    run = run_of_anyone(run_id)
    chat, following = chat_of_run(run_id, request.args.get("after"))
    if run is None and not chat:
        raise NotFound("There is no run with this id, and no call names it.")
    _log_view(run_id)
    more = url_for("admin.run_trace", run_id=run_id, after=following) if following else None
    context = _chat_context(chat, more)
    if run is not None:
        context |= run_context(trace_of(run.account_id or "", run.id, tail=False), None) | {"public": True}
    owner = run.account_id if run else _payer(chat)
    return render(
        "admin/run_trace.html",
        partial="admin/_chat.html" if request.args.get("after") else None,
        trace_id=run_id,
        recorded=run is not None,
        owner=reviewed_account(owner) if owner else None,
        client_id=next((each.message.client_id for each in chat if each.message.client_id), None),
        parent_id=run.parent_run_id if run else None,
        **context,
    )


@bp.get("/traces/clients/<client_id>")
@admin_required
def client_trace(client_id: str) -> ResponseReturnValue:
    """A session of a client: its runs, and the messages of all of them. Query: `after` (of the messages). Raises NotFound."""
    chat, following = chat_of_client(client_id, request.args.get("after"))
    if not chat and not request.args.get("after"):
        raise NotFound("No call names this client.")
    _log_view(client_id)
    more = url_for("admin.client_trace", client_id=client_id, after=following) if following else None
    context = _chat_context(chat, more)
    owner = _payer(chat)
    return render(
        "admin/client_trace.html",
        partial="admin/_chat.html" if request.args.get("after") else None,
        trace_id=client_id,
        owner=reviewed_account(owner) if owner else None,
        run_ids=run_ids_of_client(client_id),
        **context,
    )


def _chat_context(chat: Sequence[TracedMessage], more: str | None) -> dict[str, Any]:
    turns = [(each.message, request_turns(each), answer_turns(each)) for each in chat]
    return {"chat": turns, "more": more, "later": bool(request.args.get("after"))}


def _payer(chat: Sequence[TracedMessage]) -> str | None:
    return (chat[0].message.org_id or chat[0].message.user_id) if chat else None


def _log_view(subject: str) -> None:
    viewer = operating_user()
    if view_is_due(subject, viewer.id, now(), "trace.viewed"):
        audit("trace.viewed", subject, user=viewer)
        db.session.commit()
