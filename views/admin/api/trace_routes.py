"""Operators' JSON routes of traces: the messages of a run, its session's timeline, a client's sessions (contract 2.12).

They return prompts and answers of anyone. The audit log keeps who looked at which.
"""

from datetime import datetime
from typing import Any

from flask import jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.admin.client_traces import (
    LISTED,
    EventType,
    TracedMessage,
    TraceEvent,
    answer_text,
    messages_of_client,
    messages_of_request,
    session_messages,
    timeline_of,
    user_prompt,
)
from views.admin.api.admin_api_blueprint import DOOR, NOT_ADMIN, bp, failing_with, log_view
from views.web.body import Missing
from views.web.format import iso
from views.web.guards import admin_required
from views.web.operation import Answers, Operation, ResponseModel, path, query

NEXT = Field(None, description="The `after` of the next page, if there is one")
AFTER = query("after", "The `next` of the page before")
REQUEST_ID = path("clientRequestId", "The id of an agent run")


class TraceMessage(ResponseModel):
    id: str
    client_request_id: str | None
    user_id: str | None
    model: str
    request: Any = Field(description="Null if it was not kept")
    response: Any = Field(description="Null if it was not kept")
    finished_at: datetime
    latency_ms: int | None
    credits: int
    input_tokens: int
    output_tokens: int
    org_id: str | None
    repo_url: str | None


class TraceMessages(ResponseModel):
    messages: list[TraceMessage]
    next: Missing[str] = NEXT


class TimelineEvent(ResponseModel):
    id: str
    type: EventType
    name: str = Field(description="The agent, or else the model, or the tool")
    startTime: datetime
    endTime: datetime
    duration: int = Field(description="Milliseconds")
    parentId: Missing[str] = None
    metadata: dict[str, Any]


class Timeline(ResponseModel):
    events: list[TimelineEvent]


class SessionMessage(ResponseModel):
    id: str
    client_request_id: str | None
    timestamp: datetime
    user_prompt: Missing[str] = None
    assistant_response: str
    model: str
    credits_used: int


class DateRange(ResponseModel):
    start: datetime
    end: datetime


class ClientSession(ResponseModel):
    client_id: str
    messages: list[SessionMessage]
    total_credits: int = Field(description="Of these messages")
    date_range: DateRange
    next: Missing[str] = NEXT


def _answers(shape: Any, name: str, failure: str) -> Answers:
    return {
        200: (f"At most {LISTED} messages, oldest first", shape),
        400: "Unknown `after`",
        404: f"No message has this {name}",
        500: failure,
        **NOT_ADMIN,
    }


@bp.get("/api/admin/traces/<client_request_id>/messages")
@Operation(
    tag="Operators",
    caller="cookie",
    parameters=[REQUEST_ID, AFTER],
    answers=_answers(TraceMessages, "client request id", "Failed to fetch trace messages"),
    door=DOOR,
)
@admin_required
def trace_messages(client_request_id: str) -> ResponseReturnValue:
    """Return the messages of an agent run, with request and response.

    Together at most 32 MB as stored; later messages are without bodies.
    """
    with failing_with("Failed to fetch trace messages"):
        found = messages_of_request(client_request_id, after=request.args.get("after"))
        body = {"messages": [_message(each) for each in found], **_next(found)}
        log_view("trace.viewed", client_request_id)
    return jsonify(body)


@bp.get("/api/admin/traces/<client_request_id>/timeline")
@Operation(
    tag="Operators",
    caller="cookie",
    parameters=[REQUEST_ID],
    answers=_answers(Timeline, "client request id", "Failed to build timeline"),
    door=DOOR,
)
@admin_required
def trace_timeline(client_request_id: str) -> ResponseReturnValue:
    """Return the model calls, tool calls and spawned agents of a run's whole session."""
    with failing_with("Failed to build timeline"):
        events = [_event(each) for each in timeline_of(session_messages(client_request_id))]
        log_view("trace.viewed", client_request_id)
    return jsonify(events=events)


@bp.get("/api/admin/traces/client/<client_id>/sessions")
@Operation(
    tag="Operators",
    caller="cookie",
    parameters=[path("clientId", "The id of a session of the client"), AFTER],
    answers=_answers(ClientSession, "client id", "Failed to fetch client session"),
    door=DOOR,
)
@admin_required
def client_session(client_id: str) -> ResponseReturnValue:
    """Return the prompts and answers of a client's session."""
    with failing_with("Failed to fetch client session"):
        found = messages_of_client(client_id, after=request.args.get("after"))
        times = [each.message.finished_at for each in found]
        body = {
            "client_id": client_id,
            "messages": [_session_message(each) for each in found],
            "total_credits": sum(each.message.credits for each in found),
            "date_range": {"start": iso(min(times, default=None)), "end": iso(max(times, default=None))},
            **_next(found),
        }
        log_view("trace.viewed", client_id)
    return jsonify(body)


def _next(found: list[TracedMessage]) -> dict[str, str]:
    return {"next": found[-1].message.id} if len(found) == LISTED else {}


def _message(each: TracedMessage) -> dict[str, Any]:
    message = each.message
    return {
        "id": message.id,
        "client_request_id": message.client_request_id,
        "user_id": message.user_id,
        "model": message.model,
        "request": each.request,
        "response": each.response,
        "finished_at": iso(message.finished_at),
        "latency_ms": message.latency_ms,
        "credits": message.credits,
        "input_tokens": message.input_tokens,
        "output_tokens": message.output_tokens,
        "org_id": message.org_id,
        "repo_url": message.repo_url,
    }


def _event(event: TraceEvent) -> dict[str, Any]:
    parent = {"parentId": event.parent_id} if event.parent_id else {}
    return {
        "id": event.id,
        "type": event.type,
        "name": event.name,
        "startTime": iso(event.start),
        "endTime": iso(event.end),
        "duration": event.duration_ms,
        **parent,
        "metadata": event.metadata,
    }


def _session_message(each: TracedMessage) -> dict[str, Any]:
    message, prompt = each.message, user_prompt(each)
    return {
        "id": message.id,
        "client_request_id": message.client_request_id,
        "timestamp": iso(message.finished_at),
        **({"user_prompt": prompt} if prompt else {}),
        "assistant_response": answer_text(each),
        "model": message.model,
        "credits_used": message.credits,
    }
