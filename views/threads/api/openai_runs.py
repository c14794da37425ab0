"""Runs of threads and their steps: OpenAI's Assistants API on turns."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, current_app
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.db import db
from models.gateway import sse
from models.gateway.chat_format import BadCall
from models.threads import Thread
from models.threads.assistants_api_objects import thread_object
from models.threads.assistants_api_queries import (
    RunRequest,
    begin_run,
    change_run_metadata,
    message_fields,
    run_json,
    run_turn,
    runs_list,
    step_json,
    steps_list,
    written_by,
)
from models.threads.run_events import Named, RunEvents
from models.threads.turn_resuming import submit_outputs
from models.turns import Turn, TurnNotActive, is_over
from views.threads.api.openai_assistants import refuse_resources, tools_of
from views.threads.api.openai_format import (
    OPENAI_DOOR,
    PAGE_BOTH_WAYS,
    READ,
    REFUSED,
    WRITE,
    ListedObjects,
    Objects,
    OpenAICaller,
    OpenAIObject,
    listed,
    openai_caller,
    page,
    payer_org,
    read_body,
)
from views.threads.api.openai_threads import MAX_MESSAGES, MetadataBody, ThreadBody, new_thread, own
from views.turns.api import stop_turn, turn_engine
from views.web.body import Body, parse
from views.web.guards import key_caller, limiter
from views.web.open_streams import StreamRoom, stream_room
from views.web.operation import Operation

bp = Blueprint("openai_runs", __name__, url_prefix="/v1/threads")
DELETED = "The assistant was deleted (`agent_deleted`), or the thread is full"
_PARAMS = (
    *("temperature", "top_p", "max_completion_tokens", "parallel_tool_calls", "response_format"),
    "reasoning_effort",
)


class RunBody(Body):
    assistant_id: str
    model: str | None = Field(None, max_length=200)
    instructions: str | None = Field(None, max_length=256_000, description="In the place of the assistant's")
    additional_instructions: str | None = Field(None, max_length=256_000)
    additional_messages: Objects | None = None
    tools: Objects | None = Field(None, description="In the place of the assistant's")
    tool_choice: str | dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    reasoning_effort: str | None = None
    max_completion_tokens: int | None = Field(None, ge=1, le=10**7)
    max_prompt_tokens: int | None = Field(None, description="Refused: give the thread a budget")
    parallel_tool_calls: bool | None = None
    response_format: str | dict[str, Any] | None = None
    truncation_strategy: dict[str, Any] | None = Field(None, description="`auto` only")
    stream: bool | None = None


class ThreadRunBody(RunBody):
    thread: dict[str, Any] | None = Field(None, description="As the body of POST /v1/threads")
    tool_resources: dict[str, Any] | None = Field(None, description="Refused, unless empty")


class RunOutputs(Body):
    tool_outputs: Objects = Field(description="`tool_call_id` and `output` of each call")
    stream: bool | None = None


RUN_ANSWERS: Mapping[Any, Any] = {
    200: ("The run; with `stream` its events", OpenAIObject | str),
    409: DELETED,
    **REFUSED,
}


@bp.post("/runs")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Assistants API runs",
    caller="key",
    scope=WRITE,
    body=ThreadRunBody,
    answers=RUN_ANSWERS,
    door=OPENAI_DOOR,
)
def create_thread_and_run() -> ResponseReturnValue:
    """Create a thread and run an assistant on it."""
    caller = openai_caller()
    body = read_body(ThreadRunBody)
    thread = new_thread(caller, _thread_body(body))
    return _begin(caller, thread, body, made=True)


@bp.post("/<thread_id>/runs")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Assistants API runs",
    caller="key",
    scope=WRITE,
    body=RunBody,
    answers=RUN_ANSWERS,
    door=OPENAI_DOOR,
)
def create_run(thread_id: str) -> ResponseReturnValue:
    """Run an assistant on a thread.

    The thread has one active run. A client that leaves does not end it.
    """
    thread = own(thread_id)
    return _begin(openai_caller(), thread, read_body(RunBody), made=False)


@bp.get("/<thread_id>/runs")
@Operation(
    tag="Assistants API runs",
    caller="key",
    scope=READ,
    parameters=PAGE_BOTH_WAYS,
    answers={200: ("A page of the runs", ListedObjects), **REFUSED},
    door=OPENAI_DOOR,
)
def runs(thread_id: str) -> ResponseReturnValue:
    """List the runs of a thread."""
    found = runs_list(own(thread_id), page())
    return listed(found.data, more=found.more)


@bp.get("/<thread_id>/runs/<run_id>")
@Operation(
    tag="Assistants API runs",
    caller="key",
    scope=READ,
    answers={200: ("The run", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def run(thread_id: str, run_id: str) -> ResponseReturnValue:
    """Get a run."""
    return run_json(run_turn(own(thread_id), run_id))


@bp.post("/<thread_id>/runs/<run_id>")
@limiter.limit("240/minute", key_func=key_caller)
@Operation(
    tag="Assistants API runs",
    caller="key",
    scope=WRITE,
    body=MetadataBody,
    answers={200: ("The run", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def update_run(thread_id: str, run_id: str) -> ResponseReturnValue:
    """Change the metadata of a run."""
    turn = run_turn(own(thread_id), run_id, lock=True)
    body = read_body(MetadataBody)
    if body.metadata is not None:
        change_run_metadata(turn, body.metadata)
        db.session.commit()
    return run_json(turn)


@bp.post("/<thread_id>/runs/<run_id>/cancel")
@limiter.limit("240/minute", key_func=key_caller)
@Operation(
    tag="Assistants API runs",
    caller="key",
    scope=WRITE,
    answers={200: ("The run; it ends in a moment", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def cancel_run(thread_id: str, run_id: str) -> ResponseReturnValue:
    """Cancel a run. What was written is kept and charged."""
    turn = run_turn(own(thread_id), run_id, lock=True)
    if is_over(turn):
        raise BadCall(f"Cannot cancel run with status '{run_json(turn)['status']}'.")
    stop_turn(turn)
    return run_json(turn)


@bp.post("/<thread_id>/runs/<run_id>/submit_tool_outputs")
@limiter.limit("240/minute", key_func=key_caller)
@Operation(
    tag="Assistants API runs",
    caller="key",
    scope=WRITE,
    body=RunOutputs,
    answers=RUN_ANSWERS,
    door=OPENAI_DOOR,
)
def submit_tool_outputs(thread_id: str, run_id: str) -> ResponseReturnValue:
    """Give a run the outputs of the functions that it asked for, of all of them at once."""
    turn = run_turn(own(thread_id), run_id, lock=True)
    body = read_body(RunOutputs)
    last, engine = turn.last_seq, turn_engine()
    written = written_by([turn]).get(turn.id, [])
    room = stream_room(turn.user_id) if body.stream else None
    try:
        submit_outputs(turn, body.tool_outputs, engine.owner)
    except TurnNotActive as error:
        raise BadCall(error.message) from None
    db.session.commit()
    return _answer(turn, room, engine_after=last, resumed=written)


@bp.get("/<thread_id>/runs/<run_id>/steps")
@Operation(
    tag="Assistants API runs",
    caller="key",
    scope=READ,
    parameters=PAGE_BOTH_WAYS,
    answers={200: ("A page of the steps", ListedObjects), **REFUSED},
    door=OPENAI_DOOR,
)
def steps(thread_id: str, run_id: str) -> ResponseReturnValue:
    """List the steps of a run: messages, and calls of tools."""
    found = steps_list(run_turn(own(thread_id), run_id), page())
    return listed(found.data, more=found.more)


@bp.get("/<thread_id>/runs/<run_id>/steps/<step_id>")
@Operation(
    tag="Assistants API runs",
    caller="key",
    scope=READ,
    answers={200: ("The step", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def step(thread_id: str, run_id: str, step_id: str) -> ResponseReturnValue:
    """Get a step of a run."""
    return step_json(run_turn(own(thread_id), run_id), step_id)


# -- beginning -----------------------------------------------------------------------------------------------


def _thread_body(body: ThreadRunBody) -> ThreadBody:
    refuse_resources(body.tool_resources)
    return parse(ThreadBody, body.thread or {})


def _begin(caller: OpenAICaller, thread: Thread, body: RunBody, *, made: bool) -> ResponseReturnValue:
    engine, room = turn_engine(), stream_room(caller.user_id) if body.stream else None
    turn = begin_run(thread, caller.account, _asked(thread, body), caller.key, engine.owner)
    db.session.commit()
    return _answer(turn, room, created=thread_object(thread) if made else None)


def _asked(thread: Thread, body: RunBody) -> RunRequest:
    """Raises BadCall for what is not carried here."""
    if body.max_prompt_tokens is not None:
        raise BadCall(
            "'max_prompt_tokens' is not served here: give the thread a budget.", param="max_prompt_tokens"
        )
    if body.truncation_strategy is not None and body.truncation_strategy.get("type") != "auto":
        raise BadCall(
            "'truncation_strategy' must be auto: the newest messages that fit are sent.",
            param="truncation_strategy",
        )
    given = body.additional_messages or []
    if len(given) > MAX_MESSAGES:
        raise BadCall(f"'additional_messages' has more than {MAX_MESSAGES}.", param="additional_messages")
    params = {name: value for name in _PARAMS if (value := getattr(body, name)) is not None}
    if isinstance(params.get("response_format"), str) and params.pop("response_format") != "auto":
        raise BadCall("'response_format' must be 'auto' or an object.", param="response_format")
    choice = body.tool_choice
    return RunRequest(
        body.assistant_id,
        model=body.model or None,
        instructions=body.instructions,
        additional_instructions=body.additional_instructions,
        messages=[
            message_fields(thread, each, f"additional_messages[{number}]")
            for number, each in enumerate(given)
        ],
        tools=None if body.tools is None else tools_of(body.tools),
        tool_choice={"type": "function", "function": {"name": "file_search"}}
        if isinstance(choice, dict) and choice.get("type") == "file_search"
        else choice,
        params=params,
        metadata=body.metadata or {},
        org_id=payer_org(),
    )


# -- answers -------------------------------------------------------------------------------------------------


def _answer(
    turn: Turn,
    room: StreamRoom | None,
    *,
    engine_after: int = 0,
    created: Mapping[str, Any] | None = None,
    resumed: list[dict[str, Any]] | None = None,
) -> ResponseReturnValue:
    """Run the turn; the run, or, with `room` for them, its events from now on."""
    engine, run = turn_engine(), run_json(turn)
    id, running = turn.id, turn.state == "running"
    if room is None:
        if running:
            engine.run(id)
        return run
    events = RunEvents(partial(_read_run, _app().app_context, id))
    begin = [("thread.created", created)] if created is not None else []
    if resumed is None:
        begin += list(events.start())
    else:
        _resume(events, resumed)
        begin += [("thread.run.queued", {**run, "status": "queued"}), ("thread.run.in_progress", run)]
    watched = engine.log.watch(id, engine_after)
    if running:
        engine.run(id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    frames = room.stream(_frames(begin, events, watched))
    response = Response(frames, content_type="text/event-stream", headers=headers)
    # the connection to PostgreSQL is free while the stream waits
    db.session.rollback()
    return response


def _resume(events: RunEvents, written: list[dict[str, Any]]) -> None:
    asking = [message for message in written if message["role"] == "assistant" and message["tool_calls"]]
    known = {
        message["tool_call_id"]: "\n".join(part["text"] for part in message["content"])
        for message in written
        if message["role"] == "tool"
    }
    if asking:
        events.resume(asking[-1], known)


def _app() -> Flask:
    """The application itself: the stream goes on when the request's context is gone."""
    return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]


def _read_run(context: Any, id: str) -> tuple[Turn, dict[str, Any]]:
    with context():
        turn = db.session.get_one(Turn, id)
        run = run_json(turn)
        db.session.expunge(turn)
        return turn, run


def _frames(begin: list[Named], events: RunEvents, watched: Iterator[Any]) -> Iterator[bytes]:
    for each in begin:
        yield _frame(each)
    for event in watched:
        if event is None:
            yield sse.comment(b"waiting")
            continue
        for each in events.translate(event):
            yield _frame(each)
        if events.over:
            break
    yield b"event: done\n" + sse.DONE


def _frame(event: Named) -> bytes:
    return sse.frame(orjson.dumps(event[1]), event[0].encode())
