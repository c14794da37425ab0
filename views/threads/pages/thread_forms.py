"""Forms of a thread: sending and editing messages, answering again, choosing a branch, stopping, and deleting."""

from collections.abc import Mapping, Sequence

from flask import g, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.threads import (
    Thread,
    TurnRequest,
    ask,
    create_thread,
    delete_thread,
    message_of,
    restore_thread,
    select_branch,
)
from models.threads.turn_resuming import resume_turn
from models.turns import Turn
from views.threads.pages.composer import composer_context
from views.threads.pages.composer_variables import PROBLEM, entered_variables
from views.threads.pages.thread_blueprint import thread_form, thread_page, viewed_thread
from views.threads.pages.thread_files import Upload, attached, file_parts, uploaded
from views.threads.pages.thread_list import listed_threads
from views.threads.pages.thread_page import show_thread, viewed_turn
from views.turns.api import stop_turn, turn_engine
from views.web.guards import session_key
from views.web.htmx import render, see_other, toast, wants_fragment
from views.web.org_guards import check_spending, signed_in, viewed_account

MAX_DIGITS = 15
MAX_NAME = 60
"""Characters of the first message that become the thread's name."""


@thread_form("")
def begin_thread() -> ResponseReturnValue:
    """Begin a thread with its first message, and `files` that it may read. 422 with what was entered if it cannot be sent. Raises Forbidden."""
    check_spending()
    text, found = entered("content").strip(), None
    try:
        wanted, uploads = _wanted(text), uploaded()
        found = create_thread(
            signed_in().id,
            viewed_account(),
            name=_name_of(text),
            model=wanted.model,
            assistant_id=wanted.assistant_id,
        )
        turn = _asked(found, wanted, text, uploads)
    except DomainError as error:
        _drop(found)
        fields = _fields_of(error)
        context = composer_context(None, values=request.form, errors=fields or {"content": error.message})
        return render(
            "threads/threads.html", status=422, listing=listed_threads(), shown=None, begins=True, **context
        )
    _run(turn)
    return see_other(url_for("threads.thread", thread_id=found.id))


@thread_form("/<thread_id>/messages")
def send_message(thread_id: str) -> ResponseReturnValue:
    """Send a message below the newest one that is shown, or `parent`, an edited one beside its other versions (`edits`). While an answer is written it
    waits, or stops that answer (`on_busy`: queue or interrupt). 422 with what was entered if it cannot be sent. Raises NotFound and Forbidden."""
    check_spending()
    found = viewed_thread(thread_id)
    text = entered("content").strip()
    parent_id: str | None = entered("parent") or None
    edits = entered("edits")
    if edits:
        parent_id = message_of(found, edits).parent_id
    try:
        wanted, uploads = _wanted(text, found), uploaded()
        turn = _asked(
            found, wanted, text, uploads, parent_id=parent_id, first=bool(edits) and parent_id is None
        )
    except DomainError as error:
        return _refused(found, error)
    _run(turn)
    return shown_again(found)


@thread_form("/<thread_id>/answers")
def answer_again(thread_id: str) -> ResponseReturnValue:
    """Answer the message `parent` again, with `model` and `assistant` if they are given. Raises NotFound and Forbidden."""
    check_spending()
    found = viewed_thread(thread_id)
    try:
        wanted = _chosen(found)
        parent = message_of(found, entered("parent"))
        turn = ask(found, wanted, parent_id=parent.id, key=session_key(), owner=turn_engine().owner)
        db.session.commit()
    except DomainError as error:
        return _refused(found, error)
    _run(turn)
    return shown_again(found)


@thread_form("/<thread_id>/branch", "300/minute")
def choose_branch(thread_id: str) -> ResponseReturnValue:
    """Show the branch of the message `message` from now on. Raises NotFound."""
    found = viewed_thread(thread_id)
    select_branch(found, entered("message"))
    db.session.commit()
    return shown_again(found)


@thread_form("/<thread_id>/stop", "300/minute")
def stop_answer(thread_id: str) -> ResponseReturnValue:
    """Stop the turn `turn`: what was written is kept and charged; a message that waits is taken back. One that has ended stays as it is. Raises NotFound."""
    found = viewed_thread(thread_id, deleted=True)
    stop_turn(viewed_turn(found, entered("turn"), lock=True))
    if wants_fragment() and not entered("show"):
        return "", 204
    return shown_again(found)


@thread_form("/<thread_id>/resumption")
def resume(thread_id: str) -> ResponseReturnValue:
    """Let the paused turn `turn` go on, with a new `budget` in credits if one is entered. 422 for one that it has spent. Raises NotFound and Forbidden."""
    check_spending()
    found = viewed_thread(thread_id)
    turn = viewed_turn(found, entered("turn"), lock=True)
    try:
        resume_turn(turn, turn_engine().owner, budget=credits_of("budget"), key=session_key())
        db.session.commit()
    except DomainError as error:
        return _refused(found, error)
    _run(turn)
    return shown_again(found)


@thread_page("/<thread_id>/deletion")
def ask_deletion(thread_id: str) -> ResponseReturnValue:
    """Ask whether to delete a thread. Raises NotFound."""
    found = viewed_thread(thread_id)
    return render("threads/deletion.html", partial="threads/_deletion.html", thread=found)


@thread_form("/<thread_id>/deletion", "60/minute")
def delete(thread_id: str) -> ResponseReturnValue:
    """Delete a thread; it can be restored for a while. Raises NotFound."""
    found = viewed_thread(thread_id)
    delete_thread(found)
    db.session.commit()
    toast(f"“{found.name[:80]}” is deleted. Restore it from the deleted threads.")
    return see_other(url_for("threads.thread_list"))


@thread_form("/<thread_id>/restoration", "60/minute")
def restore(thread_id: str) -> ResponseReturnValue:
    """Restore a deleted thread. Raises NotFound."""
    found = viewed_thread(thread_id, deleted=True)
    if found.deleted_at is not None:
        restore_thread(found)
        db.session.commit()
        toast("The thread is back.")
    return see_other(url_for("threads.thread", thread_id=found.id))


def entered(name: str) -> str:
    """A field of the form, without NUL."""
    return request.form.get(name, "").replace("\0", "")


def shown_again(found: Thread) -> ResponseReturnValue:
    """The thread after a form: its fragment for htmx, else a redirect to its page."""
    if wants_fragment():
        return show_thread(found)
    return see_other(url_for("threads.thread", thread_id=found.id))


def credits_of(name: str) -> int | None:
    """Whole credits that were entered, from 0; None for an empty field. Raises Invalid."""
    text = entered(name).replace(",", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS:
        return int(text)
    problem = "Enter whole credits, such as 2,000, or nothing."
    raise Invalid(problem, fields={name: problem})


def _refused(found: Thread, error: DomainError) -> ResponseReturnValue:
    if error.status not in (400, 402, 409, 413, 415, 422):
        raise error
    db.session.rollback()
    known = _fields_of(error)
    refused = "" if known else error.message
    return show_thread(found, status=422, values=request.form, errors=known, refused=refused)


def _fields_of(error: DomainError) -> dict[str, str]:
    """What is wrong with which field of the composer."""
    if error.code == "model_missing":
        return {"model": "Choose a model."}
    fields: Mapping[str, str] = error.fields if isinstance(error, Invalid) else {}
    return {
        name: text
        for name, text in fields.items()
        if name in ("content", "model") or name.startswith(PROBLEM)
    }


def _drop(found: Thread | None) -> None:
    """Undo a thread whose first message could not be sent; its files go with it."""
    db.session.rollback()
    if found is not None and (kept := db.session.get(Thread, found.id)) is not None:
        delete_thread(kept)
        db.session.commit()


def _asked(
    found: Thread,
    wanted: TurnRequest,
    text: str,
    uploads: Sequence[Upload],
    *,
    parent_id: str | None = None,
    first: bool = False,
) -> Turn:
    """Store the files and ask. Commits."""
    files = file_parts(attached(found, uploads)) if uploads else []
    said = [{"type": "text", "text": text.replace("\r\n", "\n")}]
    turn = ask(
        found,
        wanted,
        messages=[{"role": "user", "content": [*files, *said]}],
        parent_id=parent_id,
        first=first,
        key=session_key(),
        owner=turn_engine().owner,
        on_busy="interrupt" if request.form.get("on_busy") == "interrupt" else "queue",
    )
    db.session.commit()
    return turn


def _wanted(text: str, found: Thread | None = None) -> TurnRequest:
    """What the form asks for. Raises Invalid."""
    if not text:
        raise Invalid("The message is not complete.", fields={"content": "Enter a message."})
    return _chosen(found)


def _chosen(found: Thread | None) -> TurnRequest:
    """The model, the assistant and its variables that the form names."""
    assistant_id = entered("assistant") or None
    return TurnRequest(
        model=entered("model").strip() or None,
        assistant_id=assistant_id,
        variables=entered_variables(found, assistant_id or (found.assistant_id if found else None)),
        org_id=_payer(),
    )


def _payer() -> str | None:
    return g.org.id if "org" in g else None


def _run(turn: Turn) -> None:
    if turn.state == "running":
        turn_engine().run(turn.id)


def _name_of(text: str) -> str:
    first = " ".join(text.split("\n", 1)[0].split())
    if len(first) <= MAX_NAME:
        return first or "New thread"
    return f"{first[:MAX_NAME].rsplit(' ', 1)[0].rstrip(',.;:')} …"
