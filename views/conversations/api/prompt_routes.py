"""What is said in a conversation: prompts and messages, questions and answers, stop and resume (fastest contract 3.12)."""

from flask import Response, jsonify, request

from models.accounts import scopes
from models.conversations import own_conversation, say
from models.conversations.conversation_messages import answers_with_parts, messages_page, open_questions
from models.conversations.conversation_questions import Answered, answer_question, reject_question
from models.conversations.conversation_wire import STATUS, answer_id, question_json
from models.conversations.turn_control import resume_conversation, stop_conversation
from models.core.db import db
from views.conversations.api.conversation_bodies import (
    DoneAnswer,
    MessageBegun,
    NewPrompt,
    QuestionAnswers,
    QuestionList,
    ResumedAnswer,
    ResumeTurn,
    StoppedAnswer,
    TalkMessages,
    TalkParts,
)
from views.conversations.api.conversations_api_blueprint import (
    BUSY,
    CHANGES,
    CONVERSATION_ID,
    DOOR,
    TAG,
    WRONG,
    YOURS,
    bp,
    own,
    presented,
)
from views.projects.api.projects_api_blueprint import clamped_limit, project_caller
from views.turns.api import turn_engine
from views.web.body import parse, read, read_json
from views.web.guards import key_caller, limiter
from views.web.operation import Answers, Operation, header, path, query

PAGE, MAX_PAGE = 50, 200
QUESTION_ID = path("questionId", "The id of the question")
CLOSED: Answers = {409: "It is answered already, or its turn has ended (`QUESTION_CLOSED`)"}


@bp.get("/conversations/<conversation_id>/messages")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[
        CONVERSATION_ID,
        query("limit", f"At most {MAX_PAGE}; {PAGE} by default"),
        query("before", "The id of a message: those before it"),
    ],
    answers={200: ("The last ones, the oldest first", TalkMessages), **YOURS, 400: "A parameter is wrong"},
    door=DOOR,
)
def messages(conversation_id: str) -> Response:
    """List the messages of a conversation: prompts, and an answer for each."""
    found = own(conversation_id)
    before = request.args.get("before") or None
    return jsonify(messages=messages_page(found, clamped_limit(PAGE, MAX_PAGE), before))


@bp.post("/conversations/<conversation_id>/messages")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[
        CONVERSATION_ID,
        header("Idempotency-Key", "The same prompt sent again begins no second turn"),
    ],
    body=NewPrompt,
    answers={
        200: ("The answer, which is written from now on", MessageBegun),
        **YOURS,
        **WRONG,
        409: f"With `on_busy` `reject`: {BUSY}. Or the level does not work here (`LEVEL_UNAVAILABLE`)",
        501: "This server has no such engine (`NOT_IMPLEMENTED`)",
    },
    door=DOOR,
)
def prompt(conversation_id: str) -> Response:
    """Say what to do: a turn begins, or waits behind the one in progress.

    Watch it at `GET /v1/conversations/{id}/events`.
    """
    caller = project_caller()
    found = own_conversation(caller, conversation_id, "edit_projects")
    body = read(NewPrompt)
    engine = turn_engine()
    turn = say(
        caller,
        found,
        body.prompt or "",
        key=presented(),
        owner=engine.owner,
        on_busy=body.on_busy or "queue",
        budget=body.budget,
        model=body.model,
        max_rounds=body.max_rounds,
        idempotency_key=request.headers.get("Idempotency-Key", "").replace("\0", "") or None,
    )
    begins = turn.state == "running" and turn.lease_owner == engine.owner and turn.last_seq == 0
    id, status = turn.id, STATUS.get(turn.state, "failed")
    answer = jsonify(messageId=answer_id(turn), turnId=id, status=status)
    db.session.commit()
    if begins:
        engine.run(id)
    return answer


@bp.get("/conversations/<conversation_id>/opencode-messages")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[CONVERSATION_ID],
    answers={200: ("The newest answers by id, with reasoning, texts and tools", TalkParts), **YOURS},
    door=DOOR,
)
def parts(conversation_id: str) -> Response:
    """Get the parts of the answers of a conversation."""
    return jsonify(messages=answers_with_parts(own(conversation_id)))


@bp.get("/conversations/<conversation_id>/questions")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[CONVERSATION_ID],
    answers={200: ("The questions that wait for an answer", QuestionList), **YOURS},
    door=DOOR,
)
def questions(conversation_id: str) -> Response:
    """List what the agent asks."""
    return jsonify(questions=[question_json(each) for each in open_questions(own(conversation_id))])


@bp.post("/conversations/<conversation_id>/opencode-questions/<question_id>/reply")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[CONVERSATION_ID, QUESTION_ID],
    body=QuestionAnswers,
    answers={200: ("The turn goes on", DoneAnswer), **YOURS, **WRONG, **CLOSED},
    door=DOOR,
)
def reply(conversation_id: str, question_id: str) -> Response:
    """Answer a question of the agent."""
    caller = project_caller()
    found = own_conversation(caller, conversation_id, "edit_projects")
    body = read(QuestionAnswers)
    return _answered(answer_question(found, question_id, body.answers, owner=turn_engine().owner))


@bp.post("/conversations/<conversation_id>/opencode-questions/<question_id>/reject")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[CONVERSATION_ID, QUESTION_ID],
    answers={200: ("The turn goes on without an answer, or ends", DoneAnswer), **YOURS, **CLOSED},
    door=DOOR,
)
def reject(conversation_id: str, question_id: str) -> Response:
    """Leave a question of the agent unanswered, or refuse a permission."""
    found = own(conversation_id, "edit_projects")
    return _answered(reject_question(found, question_id, owner=turn_engine().owner))


@bp.post("/conversations/<conversation_id>/stop")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[CONVERSATION_ID],
    answers={200: ("The turn ends in a moment; what it did is kept and charged", StoppedAnswer), **YOURS},
    door=DOOR,
)
def stop(conversation_id: str) -> Response:
    """Stop the turn in progress, and drop the prompts that wait."""
    engine = turn_engine()
    stopped = stop_conversation(own(conversation_id, "edit_projects"), engine.owner)
    id = stopped.turn.id if stopped else None
    leased = stopped is not None and stopped.leased
    db.session.commit()
    if leased and id is not None:
        engine.run(id)
    return jsonify(success=True, turnId=id)


@bp.post("/conversations/<conversation_id>/resume")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[CONVERSATION_ID],
    body=ResumeTurn,
    answers={
        200: ("The turn goes on", ResumedAnswer),
        **YOURS,
        **WRONG,
        409: "No turn is paused (`TURN_NOT_ACTIVE`), or it waits for an answer (`QUESTION_OPEN`)",
    },
    door=DOOR,
)
def resume(conversation_id: str) -> Response:
    """Resume a turn that was paused because a budget was used up. If nothing has changed, it pauses again."""
    caller = project_caller()
    found = own_conversation(caller, conversation_id, "edit_projects")
    body = parse(ResumeTurn, read_json() if request.content_length else {})
    engine = turn_engine()
    turn = resume_conversation(found, engine.owner, budget=body.budget)
    if turn.user_id == caller.user_id:
        turn.key_id, turn.key_secret = presented()
    id = turn.id
    db.session.commit()
    engine.run(id)
    return jsonify(success=True, turnId=id)


def _answered(answered: Answered) -> Response:
    id, resumed = answered.turn.id, answered.resumed
    db.session.commit()
    if resumed:
        turn_engine().run(id)
    return jsonify(success=True)
