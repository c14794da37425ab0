"""Chat completions with a thread, an assistant or both, for the doors of chat completions: the turn's events as chunks, or one whole answer."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson
from flask import Flask
from pydantic import Field
from werkzeug import Response

from models import threads
from models.accounts import credentials
from models.accounts.api_keys import check_use
from models.accounts.key_format import PresentedKey, present
from models.core.db import db, now
from models.core.errors import Conflict, DomainError, Invalid
from models.core.strict_models import Body, InvalidBody, Missing, Objects, parse
from models.gateway import sse
from models.gateway.dialects import CHAT
from models.gateway.dialects.dialect import ErrorContext
from models.gateway.idempotency import HEADER as IDEMPOTENCY_KEY
from models.ledger import Account
from models.threads import TurnRequest
from models.threads.assistant_call import begin_call
from models.threads.message_content import check_storable
from models.threads.turn_as_chat import TurnAsChat
from models.threads.turn_resuming import submit_outputs, turn_owing
from models.threads.turn_setup import checked_tools
from models.turns import Turn, TurnEngine
from models.turns.event_log import LoggedEvent
from models.turns.turn_verbs import OnBusy, request_stop
from views.gateway.api.model_calls import gateway, json_answer, refuse_in, remember, stream_response
from views.web.fast_path import RequestContext

OWN_KEYS = frozenset(
    {
        "thread_id",
        "agent_id",
        "agent_version",
        "variables",
        "on_busy",
        "budget",
        "max_rounds",
        "messages",
        "model",
        "tools",
        "tool_choice",
        "stream",
        "stream_options",
        "n",
        "client_request_id",
        "codebuff_metadata",
    }
)
SYSTEM_ROLES = ("system", "developer")
MAX_NEW = 200
Watched = Iterator[LoggedEvent | None]


class RememberedBody(Body):
    """What a chat completion with a thread or an assistant has besides the parameters of the model."""

    thread_id: Missing[str] = None
    agent_id: Missing[str] = None
    agent_version: Missing[int] = Field(None, ge=1, le=2**31 - 1)
    variables: Missing[dict[str, Any]] = None
    on_busy: Missing[OnBusy] = None
    budget: Missing[int] = Field(None, ge=1, le=10**12)
    max_rounds: Missing[int] = Field(None, ge=1, le=100)
    messages: Objects = Field(min_length=1)
    model: Missing[str] = Field(None, min_length=1, max_length=300)
    stream: Missing[bool] = None
    n: Missing[int] = None


class _Started(NamedTuple):
    turn: Turn
    after: int
    """The number of the turn's newest event before."""


def init_app(app: Flask) -> None:
    """Answer the chat completions that name a thread or an assistant."""
    remember(app, answer)


def answer(context: RequestContext, key: str, body: dict[str, Any]) -> Response:
    """Begin or continue the turn, and answer with it."""
    try:
        with context.app.app_context():
            return _answer(context, key, body)
    except InvalidBody as error:
        place = ".".join(map(str, error.issues[0]["path"])) if error.issues else ""
        return refuse_in(context, CHAT, Invalid(f"{place}: {error}" if place else str(error), status=400))
    except Exception as error:
        return refuse_in(context, CHAT, error)


def _answer(context: RequestContext, key: str, raw: dict[str, Any]) -> Response:
    address = context.request.remote_addr
    gateway(context.app).admitter.authenticate(key, context.id, CHAT, address)
    found = credentials.find(key, now())
    if found is None:
        raise DomainError("This API key is unknown or expired.", status=401, code="invalid_api_key")
    body = parse(RememberedBody, {name: value for name, value in raw.items() if value is not None})
    check_use(found.key, CHAT.scope, address)
    if body.thread_id is not None:
        check_use(found.key, "threads:write", address)
    if context.request.headers.get(IDEMPOTENCY_KEY) is not None:
        problem = "'Idempotency-Key' cannot be used with 'thread_id' or 'agent_id'. Leave it out."
        raise DomainError(problem, code="idempotency_not_supported")
    if body.n not in (None, 1):
        raise DomainError("'n' must be 1 with 'thread_id' or 'agent_id'.")
    account_id = Account.of(found.session).id
    engine: TurnEngine = context.app.extensions["turns"]
    wanted = _wanted(body, raw, context.request.headers.get("x-stoa-org"))
    started = _start(found.user.id, account_id, body, wanted, present(key), engine)
    db.session.commit()
    turn_id, running = started.turn.id, started.turn.state == "running"
    extra = {"turn_id": turn_id, "thread_id": body.thread_id} if body.thread_id is not None else {}
    watched = engine.log.watch_now(turn_id, started.after, begins=started.after == 0)
    if running:
        engine.run(turn_id, leased=started.turn)
    db.session.rollback()
    chat = TurnAsChat(f"chatcmpl-{context.id}", body.model or "", extra)
    ends = body.thread_id is None
    if body.stream:
        return _streamed(context, chat, watched, turn_id if ends else None)
    return _whole(context, chat, watched)


# -- the turn ------------------------------------------------------------------------------------------------


def _start(
    user_id: str,
    account_id: str,
    body: RememberedBody,
    wanted: TurnRequest,
    key: PresentedKey,
    engine: TurnEngine,
) -> _Started:
    messages = [each for each in body.messages if each.get("role") not in SYSTEM_ROLES]
    if body.thread_id is None:
        turn = begin_call(
            user_id, account_id, wanted, messages, key=key, owner=engine.owner, budget=body.budget
        )
        return _Started(turn, 0)
    thread = threads.own_thread(user_id, account_id, body.thread_id)
    if any(each.get("role") == "tool" for each in messages):
        return _continue(thread, messages, engine)
    if not messages or messages[-1].get("role") != "user":
        raise Invalid("Send the new messages of the thread; the last one is the user's.", status=400)
    if len(messages) > MAX_NEW:
        raise Invalid(f"Send at most {MAX_NEW} new messages; the thread has the others.", status=400)
    turn = threads.ask(
        thread,
        wanted,
        messages=[_new_message(each) for each in messages],
        key=key,
        owner=engine.owner,
        on_busy=body.on_busy or "queue",
        budget=body.budget,
        behind_waiting=body.on_busy is not None,
    )
    return _Started(turn, 0)


def _continue(thread: threads.Thread, messages: list[dict[str, Any]], engine: TurnEngine) -> _Started:
    """Answer the tool calls that a turn of the thread waits for."""
    outputs = [_output(each) for each in messages]
    turn = turn_owing(thread, [each["tool_call_id"] for each in outputs])
    if turn is None:
        raise Conflict("No turn of this thread waits for these results.", code="turn_not_active")
    after = turn.last_seq
    submit_outputs(turn, outputs, engine.owner)
    return _Started(turn, after)


def _output(message: Mapping[str, Any]) -> dict[str, str]:
    id, content = message.get("tool_call_id"), message.get("content")
    if message.get("role") != "tool" or not isinstance(id, str):
        raise Invalid("Send the results of tools alone: messages with the role tool.", status=400)
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise Invalid("The content of a tool message is text.", status=400)
    return {"tool_call_id": id, "output": content}


def _new_message(message: Mapping[str, Any]) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant") or not isinstance(content, str | list):
        raise Invalid("A new message has the role user or assistant, and content.", status=400)
    if not content:
        raise Invalid("A new message must not be empty.", status=400)
    return {"role": role, "content": content}


def _wanted(body: RememberedBody, raw: Mapping[str, Any], org: str | None) -> TurnRequest:
    system = [_text(each) for each in body.messages if each.get("role") in SYSTEM_ROLES]
    params = {key: value for key, value in raw.items() if key not in OWN_KEYS and value is not None}
    choice = raw.get("tool_choice")
    check_storable([params, choice, raw.get("tools"), body.variables, body.messages], "request")
    return TurnRequest(
        model=body.model,
        params=params,
        instructions="\n\n".join(system) or None,
        tools=checked_tools(raw["tools"]) if raw.get("tools") is not None else (),
        tool_choice=choice,
        assistant_id=body.agent_id,
        assistant_version=body.agent_version,
        variables=body.variables or {},
        max_rounds=body.max_rounds,
        org_id=org or None,
    )


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise Invalid("The content of a system message is text.", status=400)
    return content


# -- the answer ----------------------------------------------------------------------------------------------


def _whole(context: RequestContext, chat: TurnAsChat, watched: Watched) -> Response:
    for event in watched:
        if event is not None:
            list(chat.chunks(event))
        if chat.over:
            break
    if (refusal := _refusal(context, chat)) is not None:
        return refusal
    return json_answer(chat.completion())


def _streamed(context: RequestContext, chat: TurnAsChat, watched: Watched, ends: str | None) -> Response:
    """A stream once there is something to stream; what fails before has a status of its own."""
    first: list[bytes] = []
    for event in watched:
        if event is None:
            break
        first += map(_frame, chat.chunks(event))
        if first or chat.over:
            break
    if not first and (refusal := _refusal(context, chat)) is not None:
        return refusal
    return stream_response(_blocks(context, chat, watched, first, ends))


def _blocks(
    context: RequestContext, chat: TurnAsChat, watched: Watched, first: list[bytes], ends: str | None
) -> Iterator[bytes]:
    try:
        yield from first or [sse.comment(b"waiting")]
        for event in () if chat.over else watched:
            if event is None:
                yield sse.comment(b"waiting")
                continue
            for chunk in chat.chunks(event):
                yield _frame(chunk)
            if chat.over:
                break
        if chat.failure is not None:
            about = ErrorContext(context.id, context.request.headers, context.settings)
            body = CHAT.error(_error(chat), about).body
            yield sse.frame(orjson.dumps(body))
        yield sse.DONE
    finally:
        if ends is not None and not chat.over:
            _stop(context, ends)


def _stop(context: RequestContext, turn_id: str) -> None:
    """The client of a call that is not kept has left."""
    with context.app.app_context():
        turn = db.session.get(Turn, turn_id)
        if turn is not None and request_stop(turn):
            db.session.commit()


def _frame(chunk: Mapping[str, Any]) -> bytes:
    return sse.frame(orjson.dumps(chunk))


def _refusal(context: RequestContext, chat: TurnAsChat) -> Response | None:
    return None if chat.failure is None else refuse_in(context, CHAT, _error(chat))


def _error(chat: TurnAsChat) -> DomainError:
    assert chat.failure is not None
    return DomainError(chat.failure.message, status=chat.failure.status, code=chat.failure.code)
