"""JSON routes of links to threads: make, list, revoke, and read and copy what a link shows."""

from typing import Any

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.threads import Thread, thread_json
from models.threads.thread_share import (
    ThreadShare,
    copy_shared,
    own_shares,
    revoke_thread_share,
    share_thread,
    shared_page,
    shared_thread,
    shares_of,
)
from views.threads.api.thread_bodies import (
    OwnShareList,
    ShareAnswer,
    ShareBody,
    SharedThread,
    ShareList,
    ThreadAnswer,
)
from views.threads.api.threads_api_blueprint import (
    CURSOR,
    ERRORS,
    LIMIT,
    THREAD_ID,
    WRITE,
    bp,
    page_size,
    thread_caller,
)
from views.web.body import read
from views.web.error_bodies import MANAGEMENT
from views.web.format import iso
from views.web.guards import audit, caller_address, key_caller, key_user, limiter, settings
from views.web.keyset import cursor, cursor_text
from views.web.operation import Operation, path, query

SHARE_ID = path("shareId", "`id` of the link")
TOKEN = path("token", "The last part of the link's address")
NO_LINK = "The link does not work: it is unknown, expired or revoked"


@bp.post("/api/v1/threads/<id>/shares")
@limiter.limit("30/minute", key_func=key_caller)
@Operation(
    tag="Links to threads",
    caller="key",
    scope=WRITE,
    parameters=[THREAD_ID],
    body=ShareBody,
    answers={
        201: ("The link", ShareAnswer),
        404: "No such thread of yours, or no such message in it",
        409: "The thread has 20 links that work",
        422: "A field is wrong, or the thread is empty",
    },
    door=MANAGEMENT,
)
def share(id: str) -> ResponseReturnValue:
    """Make a link that shows the thread to whoever has it.

    It shows the branch up to a message, with models and citations; not what it cost, and nothing that is added later.
    """
    found = thread_caller().thread(id)
    body = read(ShareBody)
    made = share_thread(found, body.lifetime, body.message_id, with_documents=bool(body.with_documents))
    audit("thread.shared", found.id, user=key_user(), after={"share": made.id})
    db.session.commit()
    return _private(_share(made)), 201


@bp.get("/api/v1/threads/<id>/shares")
@Operation(
    tag="Links to threads",
    caller="key",
    scope=WRITE,
    parameters=[THREAD_ID],
    answers={200: ("Newest first", ShareList), 404: ERRORS[404]},
    door=MANAGEMENT,
)
def shares(id: str) -> ResponseReturnValue:
    """List the links to a thread that work.

    A key must be able to write threads, because the links open them to others.
    """
    return _private({"data": [_share(each) for each in shares_of(thread_caller().thread(id))]})


@bp.get("/api/v1/thread-shares")
@Operation(
    tag="Links to threads",
    caller="key",
    scope=WRITE,
    parameters=[CURSOR, LIMIT],
    answers={200: ("Newest first", OwnShareList), 422: "A parameter is wrong"},
    door=MANAGEMENT,
)
def all_shares() -> ResponseReturnValue:
    """List your links to threads, with those that have ended."""
    caller, limit, moment = thread_caller(), page_size(), now()
    rows = own_shares(caller.user_id, caller.account.id, cursor("cursor"), limit + 1)
    page = rows[:limit]
    last = page[-1][0] if len(rows) > limit else None
    data = [
        {**_share(each), "thread_name": thread.name, "active": each.works(moment)} for each, thread in page
    ]
    return _private({"data": data, "next_cursor": cursor_text(last.created_at, last.id) if last else None})


@bp.delete("/api/v1/threads/<id>/shares/<share_id>")
@limiter.limit("60/minute", key_func=key_caller)
@Operation(
    tag="Links to threads",
    caller="key",
    scope=WRITE,
    parameters=[THREAD_ID, SHARE_ID],
    answers={
        200: ("The revoked link", ShareAnswer),
        404: "No such thread of yours, or no such link that works",
    },
    door=MANAGEMENT,
)
def revoke(id: str, share_id: str) -> ResponseReturnValue:
    """Revoke a link: it does not work from now on."""
    found = thread_caller().thread(id)
    ended = revoke_thread_share(found, share_id)
    audit("thread.share_revoked", found.id, user=key_user(), after={"share": ended.id})
    db.session.commit()
    return _private(_share(ended))


@bp.get("/api/v1/shared-threads/<token>")
@limiter.limit("120/minute", key_func=caller_address)
@Operation(
    tag="Links to threads",
    parameters=[TOKEN, query("before", "Those above this message"), LIMIT],
    answers={200: ("A page of what the link shows", SharedThread), 404: NO_LINK, 422: "A parameter is wrong"},
    door=MANAGEMENT,
)
def shared(token: str) -> ResponseReturnValue:
    """Read a thread by a link, without signing in."""
    before, limit = request.args.get("before"), page_size()
    link, thread = shared_thread(token, count=before is None)
    data, following = shared_page(link, thread, before=before, limit=limit)
    db.session.commit()
    answer = {"name": thread.name, "expires_at": iso(link.expires_at), "with_documents": link.with_documents}
    return _private({**answer, "data": data, "next_cursor": following})


@bp.post("/api/v1/shared-threads/<token>/copy")
@limiter.limit("10/minute", key_func=key_caller)
@Operation(
    tag="Links to threads",
    caller="key",
    scope=WRITE,
    parameters=[TOKEN],
    answers={
        201: ("Your thread", ThreadAnswer),
        404: NO_LINK,
        409: "It is too long to be copied, or your account has no room for its documents",
    },
    door=MANAGEMENT,
)
def copy(token: str) -> ResponseReturnValue:
    """Copy what a link shows into a thread of your own, to go on with."""
    caller = thread_caller()
    made: Thread = copy_shared(token, caller.user_id, caller.account)
    db.session.commit()
    return jsonify(thread_json(made)), 201


def _share(share: ThreadShare) -> dict[str, Any]:
    return {
        "id": share.id,
        "thread_id": share.thread_id,
        "message_id": share.head_id,
        "url": f"{settings().base_url}/shared/threads/{share.token}",
        "views": share.views,
        "with_documents": share.with_documents,
        "created_at": iso(share.created_at),
        "expires_at": iso(share.expires_at),
        "revoked_at": iso(share.revoked_at),
    }


def _private(body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    return response
