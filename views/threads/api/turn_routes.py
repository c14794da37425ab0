"""JSON routes of the turns of threads: begin and list them, give them the results of tools, resume paused ones."""

from typing import Any

from flask import after_this_request, has_request_context, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field
from werkzeug import Response

from models import threads
from models.accounts.key_format import present
from models.assistants import Assistant, assistant_budget_changed
from models.core.db import db
from models.core.errors import Invalid
from models.threads import TurnRequest
from models.threads.message_content import check_storable
from models.threads.turn_resuming import resume_paused, resume_turn, submit_outputs, turns_of
from models.threads.turn_setup import checked_tools
from models.turns import Turn, own_turn
from models.turns.turn_verbs import OnBusy
from views.threads.api.thread_bodies import STRICT
from views.threads.api.threads_api_blueprint import (
    CURSOR,
    ERRORS,
    LIMIT,
    READ,
    THREAD_ID,
    WRITE,
    bp,
    page_size,
    thread_caller,
)
from views.turns.api import TOO_MANY, TurnAnswer, event_stream, turn_engine, turn_json
from views.web.body import Body, Missing, Objects, read
from views.web.error_bodies import MANAGEMENT
from views.web.guards import api_key, key_caller, limiter
from views.web.keyset import cursor, cursor_text
from views.web.open_streams import StreamRoom, stream_room
from views.web.operation import Operation, ResponseModel, path

TURN_ID = path("turnId", "`id` of the turn, such as `turn_…`")
MAX_CREDITS = 10**12
PARAMS = (
    *("temperature", "top_p", "max_tokens", "max_completion_tokens", "reasoning_effort", "response_format"),
    *("stop", "seed", "frequency_penalty", "presence_penalty", "parallel_tool_calls", "verbosity"),
)
BUSY = (
    "A turn of the branch is in progress (`turn_in_progress`), or the assistant was deleted (`agent_deleted`)"
)


class NewTurnMessage(Body):
    model_config = STRICT

    role: str = Field(pattern="^(user|assistant)$")
    content: str | Objects = Field(description="Text, or parts as those of the thread's messages")


class NewTurnBody(Body):
    """Without `content` and `messages`, `parent_id` is answered once more."""

    model_config = STRICT

    content: Missing[str | Objects] = Field(None, description="A message of the user")
    messages: Missing[list[NewTurnMessage]] = Field(None, min_length=1, max_length=200)
    parent_id: Missing[str] = Field(
        None,
        description="The message that is followed, or answered; by default the newest of the branch that is shown",
    )
    model: Missing[str] = Field(None, min_length=1, max_length=300)
    instructions: Missing[str] = Field(None, max_length=64 << 10, description="System text of this turn only")
    tools: Missing[Objects] = Field(None, description="Functions that you run")
    tool_choice: Missing[str | dict[str, Any]] = None
    params: Missing[dict[str, Any]] = Field(None, description=f"Parameters of the model: {', '.join(PARAMS)}")
    agent_id: Missing[str] = Field(None, description="The assistant that answers; by default the thread's")
    agent_version: Missing[int] = Field(None, ge=1, le=2**31 - 1)
    variables: Missing[dict[str, Any]] = Field(
        None, description="Values of the variables in the assistant's instructions"
    )
    on_busy: Missing[OnBusy] = Field(
        None, description="While another turn of the branch is active; by default reject"
    )
    budget: Missing[int] = Field(None, ge=1, le=MAX_CREDITS, description="Credits that it may spend")
    max_rounds: Missing[int] = Field(
        None, ge=1, le=100, description="Model calls after which the server runs no more tools"
    )
    stream: Missing[bool] = Field(None, description="Answer with the events of the turn")


class ToolOutput(Body):
    model_config = STRICT

    tool_call_id: str
    output: str = Field(description="The result, as text; at most 512 KiB")


class ToolOutputs(Body):
    model_config = STRICT

    tool_outputs: list[ToolOutput] = Field(min_length=1, max_length=200)
    stream: Missing[bool] = Field(None, description="Answer with the events that follow")


class ResumeBody(Body):
    model_config = STRICT

    budget: Missing[int] = Field(
        None, ge=1, le=MAX_CREDITS, description="A new budget of the turn: credits, with what it has spent"
    )


class TurnList(ResponseModel):
    data: list[TurnAnswer]
    next_cursor: str | None


@bp.post("/api/v1/threads/<id>/turns")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Turns",
    caller="key",
    scope=WRITE,
    parameters=[THREAD_ID],
    body=NewTurnBody,
    answers={
        200: ("With `stream`: the events of the turn, as server-sent events", str),
        201: ("The turn, running or queued", TurnAnswer),
        400: "No model is named (`model_missing`)",
        **ERRORS,
        409: BUSY,
        429: TOO_MANY,
    },
    door=MANAGEMENT,
)
def begin(id: str) -> ResponseReturnValue:
    """Ask in a thread: add messages, and have them answered.

    Read the answer from `GET /api/v1/turns/{id}/events`, or with `stream` from this response. Closing it does not stop the turn.
    """
    caller = thread_caller()
    found = caller.thread(id)
    body = read(NewTurnBody)
    token = api_key()
    assert token is not None
    room = stream_room(caller.user_id) if body.stream else None
    turn = threads.ask(
        found,
        _wanted(body),
        messages=_messages(body),
        parent_id=body.parent_id,
        key=present(token),
        owner=turn_engine().owner,
        on_busy=body.on_busy or "reject",
        budget=body.budget,
    )
    db.session.commit()
    return _run(turn, 0, room, status=201)


@bp.get("/api/v1/threads/<id>/turns")
@Operation(
    tag="Turns",
    caller="key",
    scope=READ,
    parameters=[THREAD_ID, CURSOR, LIMIT],
    answers={200: ("Newest first", TurnList), 404: ERRORS[404], 422: "A parameter is wrong"},
    door=MANAGEMENT,
)
def turns(id: str) -> ResponseReturnValue:
    """List the turns of a thread."""
    found, limit = thread_caller().thread(id), page_size()
    rows = turns_of(found, cursor("cursor"), limit + 1)
    page = rows[:limit]
    last = page[-1] if len(rows) > limit else None
    return jsonify(
        data=[turn_json(row) for row in page],
        next_cursor=cursor_text(last.created_at, last.id) if last else None,
    )


@bp.post("/api/v1/turns/<turn_id>/tool_outputs")
@limiter.limit("240/minute", key_func=key_caller)
@Operation(
    tag="Turns",
    caller="key",
    scope=WRITE,
    parameters=[TURN_ID],
    body=ToolOutputs,
    answers={
        200: ("The turn, running again; with `stream` its events", TurnAnswer | str),
        404: "No such turn of yours",
        409: "It waits for no results, or not any more (`turn_not_active`)",
        422: "Not the results of all the tool calls that it waits for",
        429: TOO_MANY,
    },
    door=MANAGEMENT,
)
def tool_outputs(turn_id: str) -> ResponseReturnValue:
    """Give a turn the results of the tools that you run."""
    turn = _own(turn_id)
    body = read(ToolOutputs)
    room = stream_room(turn.user_id) if body.stream else None
    after = turn.last_seq
    submit_outputs(turn, [each.model_dump() for each in body.tool_outputs], turn_engine().owner)
    db.session.commit()
    return _run(turn, after, room)


@bp.post("/api/v1/turns/<turn_id>/resume")
@limiter.limit("240/minute", key_func=key_caller)
@Operation(
    tag="Turns",
    caller="key",
    scope=WRITE,
    parameters=[TURN_ID],
    body=ResumeBody,
    answers={
        200: ("The turn, running again", TurnAnswer),
        404: "No such turn of yours",
        409: "It is not paused (`turn_not_active`)",
        422: "It has spent that budget already",
    },
    door=MANAGEMENT,
)
def resume(turn_id: str) -> ResponseReturnValue:
    """Resume a paused turn, such as one whose budget was used up. If nothing has changed, it pauses again."""
    turn = _own(turn_id)
    body = read(ResumeBody)
    key = present(api_key() or "")
    resume_turn(turn, turn_engine().owner, budget=body.budget, key=key)
    db.session.commit()
    return _run(turn, 0)


def resume_turns(*, thread_id: str | None = None, assistant_id: str | None = None) -> None:
    """Resume the turns that the budget of this thread or assistant had paused. Commits."""
    engine = turn_engine()
    ids = resume_paused(engine.owner, thread_id=thread_id, assistant_id=assistant_id)
    db.session.commit()
    for each in ids:
        engine.run(each)


@assistant_budget_changed.connect
def _budget_changed(assistant: Assistant) -> None:
    """The budget is another one once this request has committed it; a command leaves its paused turns to `resume`."""
    id = assistant.id
    if not has_request_context():
        return

    @after_this_request
    def resume_after(response: Response) -> Response:
        if response.status_code < 400:
            resume_turns(assistant_id=id)
        return response


def _own(turn_id: str) -> Turn:
    caller = thread_caller()
    found = own_turn(caller.user_id, caller.account.id, turn_id.replace("\x00", "\ufffd"), lock=True)
    caller.thread(found.subject_id)
    return found


def _run(turn: Turn, after: int, room: StreamRoom | None = None, *, status: int = 200) -> ResponseReturnValue:
    """Run the turn; it, or, with `room` for them, its events."""
    answer, id = turn_json(turn), turn.id
    if turn.state == "running":
        turn_engine().run(id)
    return event_stream(id, after, room) if room is not None else (answer, status)


def _messages(body: NewTurnBody) -> list[dict[str, Any]]:
    if body.content is not None and body.messages is not None:
        raise _wrong("content", "Send 'content' or 'messages', not both.")
    if body.content is not None:
        found: list[dict[str, Any]] = [{"role": "user", "content": body.content}]
    else:
        found = [each.model_dump() for each in body.messages or ()]
    if any(not each["content"] for each in found):
        raise _wrong("content", "Write a message: it must not be empty.")
    if found and found[-1]["role"] != "user":
        raise _wrong("messages", "The last message is the user's.")
    return found


def _wanted(body: NewTurnBody) -> TurnRequest:
    params = body.params or {}
    if unknown := sorted(params.keys() - set(PARAMS)):
        raise _wrong("params", f"There is no parameter '{unknown[0][:80]}'. Known: {', '.join(PARAMS)}.")
    for field in ("params", "variables", "tools", "tool_choice", "instructions"):
        check_storable(getattr(body, field), field)
    return TurnRequest(
        model=body.model,
        params=params,
        instructions=body.instructions,
        tools=checked_tools(body.tools or []),
        tool_choice=body.tool_choice,
        assistant_id=body.agent_id,
        assistant_version=body.agent_version,
        variables=body.variables or {},
        max_rounds=body.max_rounds,
    )


def _wrong(field: str, problem: str) -> Invalid:
    return Invalid(problem, fields={field: problem})
