"""Forms of a conversation: saying something, answering what it asks, stopping, and resuming a turn that paused."""

from flask import request
from flask.typing import ResponseReturnValue

from models.accounts.key_format import PresentedKey
from models.conversations import ConversationQuestion, FoundConversation, say
from models.conversations.conversation_messages import open_questions
from models.conversations.conversation_questions import answer_question, reject_question
from models.conversations.conversation_reading import turn_in
from models.core.db import db
from models.core.errors import DomainError, Invalid, NotFound
from models.threads.turn_resuming import resume_turn
from models.turns import Turn
from views.conversations.pages.conversation_blueprint import (
    conversation_form,
    viewed_conversation,
)
from views.conversations.pages.conversation_page import conversation_href, show_conversation
from views.projects.pages.project_blueprint import entered, viewer
from views.threads.pages.thread_forms import credits_of
from views.turns.api import stop_turn, turn_engine
from views.web.guards import session_key
from views.web.htmx import see_other, wants_fragment
from views.web.org_guards import check_spending, signed_in

CORRECTABLE = (400, 402, 409, 413, 422, 501)
"""Errors after which the page shows again what was entered."""


@conversation_form("/<conversation_id>/messages")
def send_prompt(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """Say something. While an answer is written it waits, or stops that answer (`on_busy`: queue or interrupt). 422 with what was entered if it
    cannot be sent. Raises NotFound, Forbidden."""
    check_spending()
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    text = entered("content").strip()
    try:
        if not text:
            raise Invalid("Say what to do.", fields={"content": "Say what to do."})
        turn = say(
            viewer(),
            found,
            text,
            key=session_key(),
            owner=turn_engine().owner,
            on_busy="interrupt" if entered("on_busy") == "interrupt" else "queue",
            model=entered("model").strip() or None,
        )
    except DomainError as error:
        return _refused(project_id, conversation_id, error)
    db.session.commit()
    _run(turn)
    return _again(found)


@conversation_form("/<conversation_id>/stop", "300/minute")
def stop_answer(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """Stop the turn `turn`: what was changed and written is kept and charged; a prompt that waits is taken back. Raises NotFound, Forbidden."""
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    stop_turn(turn_in(found.conversation, entered("turn"), lock=True))
    if wants_fragment() and not entered("show"):
        return "", 204
    return _again(found)


@conversation_form("/<conversation_id>/resumption")
def resume(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """Let the paused turn `turn` go on, with a new `budget` in credits if one is entered. 422 for one that it has spent. Raises NotFound, Forbidden."""
    check_spending()
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    turn = turn_in(found.conversation, entered("turn"), lock=True)
    try:
        resume_turn(turn, turn_engine().owner, budget=credits_of("budget"), key=_own_key(turn))
    except DomainError as error:
        return _refused(project_id, conversation_id, error)
    db.session.commit()
    _run(turn)
    return _again(found)


@conversation_form("/<conversation_id>/questions/<question_id>")
def answer(project_id: str, conversation_id: str, question_id: str) -> ResponseReturnValue:
    """Answer what a turn asks: for each part the choices `answer-1` and the words `words-1`, and so on; or `reject` it. 422 without an answer.
    Raises NotFound, Forbidden."""
    check_spending()
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    question = _question(found, question_id)
    turn = turn_in(found.conversation, question.turn_id)
    engine = turn_engine()
    try:
        if entered("reject"):
            done = reject_question(found, question_id, owner=engine.owner)
        else:
            done = answer_question(
                found, question_id, _answers(question), owner=engine.owner, key=_own_key(turn)
            )
    except DomainError as error:
        return _refused(project_id, conversation_id, error)
    db.session.commit()
    if done.resumed:
        _run(done.turn)
    return _again(found)


def _question(found: FoundConversation, id: str) -> ConversationQuestion:
    question = next((each for each in open_questions(found) if each.id == id), None)
    if question is None:
        raise NotFound("There is no such question, or it is answered already.")
    return question


def _answers(question: ConversationQuestion) -> list[list[str]]:
    """The answers that were entered, a list for each part. Raises Invalid."""
    found = []
    for number, _ in enumerate(question.questions, 1):
        chosen = [each.replace("\0", "") for each in request.form.getlist(f"answer-{number}") if each]
        words = entered(f"words-{number}").strip()
        found.append([*chosen, *([words] if words else [])])
    if not all(found):
        raise Invalid(
            "Choose an answer, or write one.", fields={"answers": "Choose an answer, or write one."}
        )
    return found


def _own_key(turn: Turn) -> PresentedKey | None:
    """The session of whoever is signed in, if the turn is theirs: nobody else's key pays for it."""
    return session_key() if turn.user_id == signed_in().id else None


def _refused(project_id: str, conversation_id: str, error: DomainError) -> ResponseReturnValue:
    if error.status not in CORRECTABLE:
        raise error
    db.session.rollback()
    found = viewed_conversation(project_id, conversation_id)
    fields = dict(error.fields) if isinstance(error, Invalid) and error.fields else {}
    known = {name: text for name, text in fields.items() if name in ("content", "model", "answers")}
    return show_conversation(
        found,
        status=422,
        values={name: entered(name) for name in ("content", "model") if name in request.form},
        errors=known,
        refused="" if known else error.message,
    )


def _run(turn: Turn) -> None:
    if turn.state == "running":
        turn_engine().run(turn.id)


def _again(found: FoundConversation) -> ResponseReturnValue:
    """The conversation after a form: its fragment for htmx, else a redirect to its page."""
    if wants_fragment():
        return show_conversation(found)
    return see_other(conversation_href(found))
