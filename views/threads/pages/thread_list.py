"""The list of one's own threads, the search in them, and the composer of a new one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.errors import Invalid
from models.threads.thread_listing import ListedThread, ThreadFilter, threads_page
from views.threads.pages.composer import composer_context
from views.threads.pages.thread_blueprint import thread_page
from views.web.htmx import render, wants_fragment
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import signed_in, viewed_account

PAGE = 30


@dataclass(frozen=True)
class ThreadRows:
    """A page of threads. `words` are searched, `error` says what is wrong with them; `current` is the id of the open thread."""

    rows: Sequence[ListedThread]
    words: str = ""
    error: str = ""
    deleted: bool = False
    next_href: str | None = None
    after: bool = False
    current: str | None = None


@thread_page("")
def thread_list() -> ResponseReturnValue:
    """List the viewer's threads, newest activity first. Query: `q`, `deleted`, `before`. With htmx: the list, or after a cursor the next rows."""
    found = listed_threads()
    if wants_fragment():
        partial = "threads/_more_rows.html" if found.after else "threads/_list.html"
        return render(
            "threads/threads.html", partial=partial, status=422 if found.error else 200, listing=found
        )
    return render(
        "threads/threads.html",
        partial="threads/_list.html",
        status=422 if found.error else 200,
        listing=found,
        shown=None,
        begins=False,
        **composer_context(None),
    )


@thread_page("/new")
def new_thread() -> ResponseReturnValue:
    """Begin a thread. Query: `model`, `assistant` to begin with, `text` of the message."""
    return render(
        "threads/threads.html", listing=listed_threads(), shown=None, begins=True, **composer_context(None)
    )


def listed_threads(current: str | None = None) -> ThreadRows:
    """The threads that the query asks for."""
    words = request.args.get("q", "").replace("\0", "").strip() if current is None else ""
    deleted = request.args.get("deleted") == "1" and current is None
    before = cursor() if current is None else None
    filter = ThreadFilter(signed_in().id, viewed_account().id, words=words, deleted=deleted)
    try:
        rows = threads_page(filter, before, PAGE + 1)
    except Invalid as error:
        return ThreadRows([], words[:300], error.message, deleted)
    next_href = None
    if len(rows) > PAGE:
        last = rows[PAGE - 1].thread
        query: dict[str, Any] = {"q": words or None, "deleted": "1" if deleted else None}
        next_href = url_for("threads.thread_list", before=cursor_text(last.active_at, last.id), **query)
    return ThreadRows(rows[:PAGE], words, "", deleted, next_href, before is not None, current)
