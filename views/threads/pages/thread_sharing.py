"""Links that show a branch of a thread: making, listing and revoking them, and the page that they open."""

from collections.abc import Sequence
from typing import Any

from flask import Response, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.runs.run_share import LIFETIMES
from models.store.catalogue.markdown_blocks import MarkdownBlock, blocks_of_page
from models.threads import Thread
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
from views.runs.pages.run_pages import LIFETIME_NAMES
from views.threads.pages.shown_messages import ShownMessage, ShownSource, ShownTool, sources_of
from views.threads.pages.thread_blueprint import bp, thread_form, thread_page, viewed_thread
from views.threads.pages.thread_forms import entered
from views.web.guards import caller_address, current_account, limiter, login_required
from views.web.htmx import render, see_other, toast, wants_fragment
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import org_caller, signed_in, viewed_account

MESSAGES, LINKS = 100, 50
"""Of a page."""


@thread_page("/<thread_id>/share")
def share_form(thread_id: str) -> ResponseReturnValue:
    """Make a link to a thread, and see those that work. Raises NotFound."""
    return _share_page(viewed_thread(thread_id))


@thread_form("/<thread_id>/share", "30/minute")
def share(thread_id: str) -> ResponseReturnValue:
    """Make a link to what the thread shows now, that works for `lifetime`. 422 for an empty thread, and too many links. Raises NotFound."""
    found = viewed_thread(thread_id)
    try:
        made = share_thread(found, entered("lifetime"))
        db.session.commit()
    except (Invalid, Conflict) as error:
        db.session.rollback()
        return _share_page(found, error=error.message, status=422)
    if wants_fragment():
        return _share_page(found, made=made)
    return see_other(url_for("threads.share_form", thread_id=found.id))


@thread_form("/<thread_id>/shares/<share_id>/revocation", "60/minute")
def revoke_link(thread_id: str, share_id: str) -> ResponseReturnValue:
    """Revoke a link: its page is 404 from now on. Raises NotFound."""
    found = viewed_thread(thread_id)
    revoke_thread_share(found, share_id)
    db.session.commit()
    if wants_fragment() and not entered("back"):
        return _share_page(found)
    toast("The link is revoked.")
    back = (
        url_for("threads.link_list") if entered("back") else url_for("threads.share_form", thread_id=found.id)
    )
    return see_other(back)


@thread_page("/links")
def link_list() -> ResponseReturnValue:
    """List the viewer's links to threads, newest first, those that work no longer too. Query: `before`."""
    rows = own_shares(signed_in().id, viewed_account().id, cursor(), LINKS + 1)
    last = rows[LINKS - 1][0] if len(rows) > LINKS else None
    next_href = last and url_for("threads.link_list", before=cursor_text(last.created_at, last.id))
    return render("threads/links.html", rows=rows[:LINKS], next_href=next_href, moment=now())


@bp.get("/shared/threads/<token>")
@limiter.limit("120/minute", key_func=caller_address)
def shared(token: str) -> ResponseReturnValue:
    """Show a shared thread to anybody who has the link. Query: `before`, a message. Raises NotFound for a link that does not work."""
    before = request.args.get("before") or None
    link, found = shared_thread(token, count=before is None)
    page, earlier = shared_page(link, found, before=before, limit=MESSAGES)
    response = render(
        "threads/shared.html",
        share=link,
        name=found.name,
        token=token,
        messages=_shown_page(page[::-1]),
        earlier_href=earlier and url_for("threads.shared", token=token, before=earlier),
        newest_href=before and url_for("threads.shared", token=token),
    )
    db.session.commit()
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/shared/threads/<token>/copies")
@login_required
@limiter.limit("20/minute", key_func=org_caller)
def copy(token: str) -> ResponseReturnValue:
    """Copy a shared thread into one of the viewer's own, to go on with. Raises NotFound for a link that does not work, Conflict for a very long one."""
    made = copy_shared(token, signed_in().id, current_account())
    db.session.commit()
    toast("This is your copy. Write below to go on.")
    return see_other(url_for("threads.thread", thread_id=made.id))


def _share_page(
    found: Thread, *, made: ThreadShare | None = None, error: str = "", status: int = 200
) -> Response:
    return render(
        "threads/share.html",
        partial="threads/_share.html",
        status=status,
        thread=found,
        shares=shares_of(found),
        made=made,
        error=error,
        lifetimes=[(key, LIFETIME_NAMES[key].capitalize()) for key in LIFETIMES],
    )


def _shown_page(messages: Sequence[dict[str, Any]]) -> list[ShownMessage]:
    """The messages of a link, oldest first."""
    texts = [
        "\n".join(part["text"] for part in each["content"] if part["type"] == "text") for each in messages
    ]
    sources = [sources_of([{"valid": True, **cited} for cited in each["citations"]]) for each in messages]
    answers = [place for place, each in enumerate(messages) if each["role"] == "assistant"]
    marked = [(texts[place], {id: each.number for id, each in sources[place].items()}) for place in answers]
    blocks = dict(zip(answers, blocks_of_page(marked), strict=True))
    return [
        _shown(each, texts[place], blocks.get(place, ()), list(sources[place].values()))
        for place, each in enumerate(messages)
    ]


def _shown(
    message: dict[str, Any], text: str, blocks: Sequence[MarkdownBlock], sources: Sequence[ShownSource]
) -> ShownMessage:
    return ShownMessage(
        id=message["id"],
        role=message["role"],
        blocks=blocks,
        text=text,
        state=message["state"],
        model=message["model"],
        tools=[ShownTool(name, "", "") for name in message["tools"]],
        files=[(part["name"], None) for part in message["content"] if part["type"] == "file"],
        pictures=[part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"],
        sources=sources,
    )
