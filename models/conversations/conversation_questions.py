"""What turns ask people, and their answers: the model's questions, permissions, and whether an agent without progress shall go on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import select, update

from models.accounts.key_format import PresentedKey
from models.conversations.conversation import ConversationQuestion
from models.conversations.conversation_access import FoundConversation
from models.conversations.engine_session import Answers
from models.core.db import db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.projects.project_ids import fits
from models.threads import Thread, ThreadMessage, append
from models.threads.turn_resuming import resume_turn, submit_outputs
from models.turns import Turn
from models.turns.turn_verbs import take_to_end

MAX_QUESTIONS, MAX_OPTIONS, MAX_TEXT = 20, 20, 4_000
REJECTED = "The person did not answer. Go on with what you can decide yourself, or say what you need."


class Answered(NamedTuple):
    """A question that was answered, and its turn, which the caller runs after the commit if its state is `running` and `resumed` is true."""

    question: ConversationQuestion
    turn: Turn
    resumed: bool


def new_question(
    conversation_id: str,
    turn_id: str,
    kind: str,
    questions: Sequence[Any],
    *,
    tool_call_id: str | None = None,
) -> ConversationQuestion:
    """Ask something; texts are cut. Flushes."""
    made = ConversationQuestion(
        conversation_id=conversation_id,
        turn_id=turn_id,
        kind=kind,
        tool_call_id=tool_call_id,
        questions=[_question(each) for each in questions[:MAX_QUESTIONS]],
        state="open",
        created_at=now(),
    )
    db.session.add(made)
    db.session.flush()
    return made


def asked_by(call: Any) -> list[dict[str, Any]]:
    """The question that a call of `ask_user` asks."""
    try:
        sent = orjson.loads(call["function"]["arguments"] or "{}")
    except orjson.JSONDecodeError:
        sent = {}
    sent = sent if isinstance(sent, dict) else {}
    options = sent.get("options")
    labels = [{"label": str(each)} for each in options] if isinstance(options, list) else []
    question = sent.get("question")
    return [
        {
            "question": question if isinstance(question, str) else "The agent asks for an answer.",
            "options": labels,
        }
    ]


def answer_question(
    found: FoundConversation, id: str, answers: Any, *, owner: str, key: PresentedKey | None = None
) -> Answered:
    """Answer a question: a list of texts for each part. Once; the turn goes on with the worker `owner` when all that it asked is answered.
    `key` is that of who answers, if they began the turn. Locks the turn, the question and the thread; flushes. Raises NotFound, Invalid, Conflict
    (`question_closed`)."""
    turn, question = _locked(found, id)
    question.answers, question.state, question.answered_at = _checked(question, answers), "answered", now()
    db.session.flush()
    return _go_on(found, turn, question, owner, key)


def reject_question(found: FoundConversation, id: str, *, owner: str) -> Answered:
    """Say no: the model is told that nobody answered, what needed a permission does not happen, an agent without progress ends. Locks and
    raises as `answer_question`."""
    turn, question = _locked(found, id)
    question.state, question.answered_at = "rejected", now()
    db.session.flush()
    if question.kind == "loop_guard":
        resumed = take_to_end(turn, owner)
        return Answered(question, turn, resumed)
    return _go_on(found, turn, question, owner, None)


def close_questions(turn_id: str) -> None:
    """The turn ended: nobody answers what it asked. Flushes."""
    query = update(ConversationQuestion).where(
        ConversationQuestion.turn_id == turn_id, ConversationQuestion.state == "open"
    )
    db.session.execute(query.values(state="expired"))


def answer_text(answers: Answers | None) -> str:
    """Answers as a model reads them."""
    if answers is None:
        return REJECTED
    return "\n".join(", ".join(each) for each in answers) or REJECTED


def _go_on(
    found: FoundConversation,
    turn: Turn,
    question: ConversationQuestion,
    owner: str,
    key: PresentedKey | None,
) -> Answered:
    if question.kind == "permission":
        # the process that runs the turn waits for it
        return Answered(question, turn, False)
    if question.kind == "loop_guard":
        if turn.state != "paused":
            raise _closed()
        thread = db.session.get_one(Thread, turn.subject_id)
        newest = select(ThreadMessage.id).where(ThreadMessage.turn_id == turn.id)
        below = db.session.scalars(newest.order_by(ThreadMessage.seq.desc()).limit(1)).one()
        said = append(
            thread, role="user", content=answer_text(question.answers), parent_id=below, turn_id=turn.id
        )
        turn.request = {**turn.request, "guard": {"seq": said.seq, "credits": turn.credits or 0}}
        resume_turn(turn, owner, key=key)
        return Answered(question, turn, True)
    if turn.state != "requires_action":
        raise _closed()
    asked = select(ConversationQuestion).where(
        ConversationQuestion.turn_id == turn.id, ConversationQuestion.kind == "ask"
    )
    owed = {call["id"] for call in (turn.required_action or {}).get("tool_calls", ())}
    rows = {each.tool_call_id: each for each in db.session.scalars(asked) if each.tool_call_id in owed}
    if any(each.state == "open" for each in rows.values()) or rows.keys() < owed:
        return Answered(question, turn, False)
    outputs = [{"tool_call_id": id, "output": answer_text(row.answers)} for id, row in rows.items()]
    submit_outputs(turn, outputs, owner)
    return Answered(question, turn, True)


def _locked(found: FoundConversation, id: str) -> tuple[Turn, ConversationQuestion]:
    """The turn and its open question, both locked."""
    question = db.session.get(ConversationQuestion, id) if fits(id) else None
    if question is None or question.conversation_id != found.conversation.id:
        raise NotFound("The conversation has no such question.")
    turns = select(Turn).where(Turn.id == question.turn_id).with_for_update()
    turn = db.session.scalars(turns.execution_options(populate_existing=True)).one()
    db.session.refresh(question, with_for_update=True)
    if question.state != "open":
        raise _closed()
    return turn, question


def _closed() -> Conflict:
    return Conflict(
        "This question is answered already, or its turn goes on without it.", code="question_closed"
    )


def _checked(question: ConversationQuestion, answers: Any) -> Answers:
    fits = (
        isinstance(answers, list)
        and len(answers) == len(question.questions)
        and all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in answers)
    )
    if not fits:
        problem = f"'answers' must be {len(question.questions)} lists of texts: one list for each question."
        raise Invalid(problem, fields={"answers": problem})
    texts = [text for each in answers for text in each]
    if len(texts) > MAX_QUESTIONS * MAX_OPTIONS or any(
        len(text) > MAX_TEXT or "\0" in text for text in texts
    ):
        problem = f"An answer has at most {MAX_TEXT:,} characters, and no NUL."
        raise Invalid(problem, fields={"answers": problem})
    return [list(each) for each in answers]


def _question(asked: Any) -> dict[str, Any]:
    asked = asked if isinstance(asked, dict) else {"question": str(asked)}
    made: dict[str, Any] = {"question": _text(asked.get("question"))}
    if asked.get("header"):
        made["header"] = _text(asked["header"])
    options = asked.get("options")
    if isinstance(options, list) and options:
        made["options"] = [
            {"label": _text(each.get("label")), "description": _text(each.get("description"))}
            for each in options[:MAX_OPTIONS]
            if isinstance(each, dict)
        ]
    if asked.get("multiple"):
        made["multiple"] = True
    return made


def _text(value: Any) -> str:
    return str(value or "").replace("\0", "").encode("utf-8", "replace").decode()[:MAX_TEXT]
