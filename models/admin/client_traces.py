"""Traces of anyone's model calls, by run id or client id, for operators (contract 2.12). Callers write to the audit log who looked.

`client_request_id` of a call is the id of its agent run; `client_id` names one session of the Codebuff client.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, case, exists, func, null, or_, select, tuple_
from sqlalchemy.orm import defer

from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.gateway import GatewayCall
from models.ledger.message import Message
from models.runs import AgentRun
from models.runs.transcript import ConversationTurn, text_of, transcript

LISTED = 500
"""Messages of one answer."""
CHAT = 25
"""Messages of one page."""
MAX_BYTES = 32 << 20
"""Stored bytes of the requests and answers of one answer; those of later messages are left out."""

NO_REQUEST = "No messages found for this client request ID"
NO_CLIENT = "No messages found for this client ID"

EventType = Literal["agent_step", "tool_call", "spawned_agent"]


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """A message with its bodies, None where they were not kept or the answer grew too large."""

    message: Message
    request: Any
    response: Any

    @property
    def began(self) -> datetime:
        """When the call began, by its latency."""
        return self.message.finished_at - timedelta(milliseconds=self.message.latency_ms or 0)


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """A model call, one of its tool calls, or a run that another run spawned. A tool call has the time of the answer that asked
    for it."""

    id: str
    type: EventType
    name: str
    start: datetime
    end: datetime
    parent_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_ms(self) -> int:
        """Milliseconds from start to end."""
        return max(0, round((self.end - self.start) / timedelta(milliseconds=1)))


def messages_of_request(client_request_id: str, *, after: str | None = None) -> list[TracedMessage]:
    """The messages of a run, oldest first, after the one with the id `after`; at most `LISTED`. Raises NotFound, Invalid."""
    return _traced(Message.client_request_id == client_request_id, client_request_id, NO_REQUEST, after)


def messages_of_client(client_id: str, *, after: str | None = None) -> list[TracedMessage]:
    """The messages of a client's session, as `messages_of_request`."""
    return _traced(Message.client_id == client_id, client_id, NO_CLIENT, after)


def session_messages(client_request_id: str) -> list[TracedMessage]:
    """The messages of all runs of the session that this run belongs to, or of the run alone. Raises NotFound."""
    of_run = messages_of_request(client_request_id)
    client_id = of_run[0].message.client_id
    return messages_of_client(client_id) if client_id else of_run


def chat_of_run(run_id: str, after: str | None = None) -> tuple[list[TracedMessage], str | None]:
    """A page of the run's messages, oldest first, each with only the last message of its request, and the `after` of the next page.
    Raises Invalid."""
    return _chat(Message.client_request_id == run_id, run_id, after)


def chat_of_client(client_id: str, after: str | None = None) -> tuple[list[TracedMessage], str | None]:
    """A page of the messages of a client's session, as `chat_of_run`."""
    return _chat(Message.client_id == client_id, client_id, after)


def _chat(
    condition: ColumnElement[bool], value: str, after: str | None
) -> tuple[list[TracedMessage], str | None]:
    query = _bodies(condition, Message.last_message, after, CHAT + 1)
    rows: Sequence[Row[Any]] = () if "\0" in value else db.session.execute(query).all()
    found = [
        TracedMessage(row.Message, None if row.body is None else [row.body], row.answer)
        for row in rows[:CHAT]
    ]
    return found, found[-1].message.id if len(rows) > CHAT else None


def _traced(
    condition: ColumnElement[bool], value: str, missing: str, after: str | None
) -> list[TracedMessage]:
    query = _bodies(condition, Message.request, after, LISTED)
    rows: Sequence[Row[Any]] = () if "\0" in value else db.session.execute(query).all()
    if not rows and after is None:
        raise NotFound(missing)
    return [TracedMessage(row.Message, row.body, row.answer) for row in rows]


def _bodies(condition: ColumnElement[bool], body: Any, after: str | None, limit: int) -> Select[Any]:
    order = (Message.finished_at, Message.id)
    rows = select(Message.id, Message.finished_at).where(condition, *_after(after)).order_by(*order)
    page = rows.limit(limit).subquery("page")
    size = func.coalesce(func.pg_column_size(body), 0) + func.pg_column_size(Message.response)
    large = func.sum(size).over(order_by=order) > MAX_BYTES
    return (
        select(
            Message,
            case((large, null()), else_=body).label("body"),
            case((large, null()), else_=Message.response).label("answer"),
        )
        .options(defer(Message.request), defer(Message.response), defer(Message.last_message))
        .join(page, page.c.id == Message.id)
        .order_by(*order)
    )


def _after(after: str | None) -> list[ColumnElement[bool]]:
    if after is None:
        return []
    last = None if "\0" in after else db.session.get(Message, after)
    if last is None:
        raise Invalid("Unknown `after`. Send the `next` of the page before.", status=400)
    return [tuple_(Message.finished_at, Message.id) > (last.finished_at, last.id)]


def run_ids_of_client(client_id: str) -> Sequence[str]:
    """The runs of a client's session, in the order of their first messages; at most `LISTED`."""
    if "\0" in client_id:
        return ()
    first = func.min(Message.finished_at)
    query = (
        select(Message.client_request_id)
        .where(Message.client_id == client_id, Message.client_request_id.is_not(None))
        .group_by(Message.client_request_id)
        .order_by(first)
        .limit(LISTED)
    )
    return [id for id in db.session.scalars(query) if id]


def timeline_of(messages: Sequence[TracedMessage]) -> list[TraceEvent]:
    """Model calls, tool calls and spawned runs of these messages, by start. One query."""
    runs = _runs_of(messages)
    steps = [event for each in messages for event in _step_events(each, runs)]
    spawned = [_spawned(run, messages) for run in runs.values() if run.parent_run_id]
    return sorted((*steps, *spawned), key=lambda event: (event.start, event.type != "spawned_agent"))


def _runs_of(messages: Sequence[TracedMessage]) -> dict[str, AgentRun]:
    ids = {each.message.client_request_id for each in messages if each.message.client_request_id}
    return {run.id: run for run in db.session.scalars(select(AgentRun).where(AgentRun.id.in_(ids)))}


def _step_events(traced: TracedMessage, runs: dict[str, AgentRun]) -> Iterator[TraceEvent]:
    message = traced.message
    run = runs.get(message.client_request_id or "")
    yield TraceEvent(
        message.id,
        "agent_step",
        message.agent_id or message.model,
        traced.began,
        message.finished_at,
        run.id if run and run.parent_run_id else None,
        {
            "model": message.model,
            "client_request_id": message.client_request_id,
            "credits": message.credits,
            "input_tokens": message.input_tokens,
            "output_tokens": message.output_tokens,
        },
    )
    calls = (part for turn in answer_turns(traced) for part in turn.parts if part.kind == "call")
    for number, part in enumerate(calls):
        yield TraceEvent(
            f"{message.id}-tool-{number}",
            "tool_call",
            part.title,
            message.finished_at,
            message.finished_at,
            message.id,
            {"arguments": part.text},
        )


def _spawned(run: AgentRun, messages: Sequence[TracedMessage]) -> TraceEvent:
    ended = [each.message.finished_at for each in messages if each.message.client_request_id == run.id]
    end = run.completed_at or max([run.created_at, *ended])
    return TraceEvent(
        run.id, "spawned_agent", run.agent_id, run.created_at, end, run.parent_run_id, {"status": run.status}
    )


def request_turns(traced: TracedMessage) -> Sequence[ConversationTurn]:
    """The request of a message; empty if it was not kept."""
    return transcript(traced.request, 0, None, None).request or ()


def answer_turns(traced: TracedMessage) -> Sequence[ConversationTurn]:
    """The answer of a message; empty if it was not kept."""
    return transcript(None, 0, traced.response, None).response or ()


def answer_text(traced: TracedMessage) -> str:
    """The text of the answer; empty if it has none or was not kept."""
    return text_of(answer_turns(traced))


def user_prompt(traced: TracedMessage) -> str | None:
    """The text of the last user message of the request, or None."""
    last = next((turn for turn in reversed(request_turns(traced)) if turn.role == "user"), None)
    return (text_of([last]) or None) if last else None


def run_of_anyone(run_id: str) -> AgentRun | None:
    """The run with this id, or None."""
    return None if "\0" in run_id else db.session.get(AgentRun, run_id)


TraceKind = Literal["run", "client", "call"]


def find_trace(id: str) -> tuple[TraceKind, str] | None:
    """What an id names: a run, a client's session, or a call without a run; a call of a run is found as its run."""
    if "\0" in id:
        return None
    if db.session.get(AgentRun, id) is not None or _any(Message.client_request_id == id):
        return "run", id
    if _any(Message.client_id == id):
        return "client", id
    query = select(GatewayCall.run_id).where(or_(GatewayCall.request_id == id, GatewayCall.message_id == id))
    call = db.session.execute(query.limit(1)).one_or_none()
    if call is None:
        return None
    return ("run", call.run_id) if call.run_id else ("call", id)


def _any(condition: ColumnElement[bool]) -> bool:
    return db.session.scalar(select(exists().where(condition))) or False
