"""`/v1/runners/work`: what a runner asks, with its key. Each request about a work names its lease, and prolongs it."""

import time
from datetime import datetime
from threading import Event
from typing import Annotated, Any

from flask import Response, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid
from models.runners import work_queue
from models.runners.account_runner import checked_labels
from models.runners.runner_tables import RunnerWork
from models.runners.work_calls import work_token
from models.runners.work_queue import LEASE
from views.projects.api.projects_api_blueprint import DOOR, WRONG
from views.runners.api.runners_api_blueprint import (
    CALLS,
    GONE,
    NO_RUNNER,
    WORK_ID,
    Texts,
    bp,
    calling_runner,
    work_news,
)
from views.web.body import Body, Int32, Missing, read
from views.web.format import iso
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel

MAX_WAIT = 20
"""Seconds that a request waits for work or an action."""
LOOK_SECONDS = 5.0
"""How often a request that waits looks without news: leases of others end, and news may be lost."""
MAX_REPLY = 12 << 20
MAX_OUTPUT = 1 << 20
MAX_WORDS = 200


class PollBody(Body):
    wait_seconds: Missing[Int32] = Field(
        None, description=f"How long to wait for work, at most {MAX_WAIT}; 0 by default"
    )
    version: Missing[str] = Field(None, description="Of the runner's program")
    platform: Missing[str] = Field(None, description="The system that it runs on")
    isolation: Missing[str] = Field(None, description="What confines its commands, in a few words")
    labels: Missing[Texts] = Field(None, description="Its labels from now on")


class LeaseBody(Body):
    lease: Int32 = Field(description="The number of the lease, from the poll")


class ActionReply(Body):
    seq: Int32 = Field(description="The number of the action")
    reply: dict[str, Any] = Field(description="What it found, or `error` with `code` and `message`")


class ActionsBody(LeaseBody):
    replies: Missing[Annotated[list[ActionReply], Field(fail_fast=True)]] = Field(
        None, description="To actions, in their order"
    )
    wait_seconds: Missing[Int32] = Field(
        None, description=f"How long to wait for an action, at most {MAX_WAIT}"
    )


class EventsBody(LeaseBody):
    seq: Int32 = Field(description="The action whose command runs")
    part: Int32 = Field(description="The number of the part, from 0: one that came before is left out")
    output: str = Field(description="What the command wrote since the part before; may be empty")


class ResultBody(LeaseBody):
    error: Missing[str] = Field(None, description="Why the work could not be done; without it, it is done")


class WorkObject(ResponseModel):
    id: str
    kind: str = Field(description="`workplace`: restore a tree, and perform the actions that come")
    lease: int = Field(description="The number of the lease, which each request about the work names")
    lease_seconds: int = Field(description="How long the lease lasts without a request")
    labels: list[str]
    request: dict[str, Any] = Field(
        description="`manifest_hash` of the tree, null for an empty one, and `limits`"
    )
    model_token: str | None = Field(
        description="Opens the model doors of this work while it is leased, and nothing else; null if it has none"
    )
    created_at: datetime


class LeasedWork(ResponseModel):
    work: WorkObject


class HeldWork(ResponseModel):
    state: str
    stop: bool = Field(description="End the work, and send its result")
    stop_seq: int = Field(description="End the commands of actions up to this number")
    lease_until: datetime | None


class ActionObject(ResponseModel):
    seq: int
    verb: str = Field(description="`list`, `read`, `write`, `delete`, `search`, `run` or `changes`")
    arguments: dict[str, Any]


class Actions(ResponseModel):
    actions: list[ActionObject]
    stop: bool
    stop_seq: int


class WorkResult(ResponseModel):
    state: str


@bp.post("/work/poll")
@limiter.limit("300/minute", key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.RUNNERS_WORK,
    body=PollBody,
    answers={
        200: ("A work, leased for a few seconds: acknowledge it", LeasedWork),
        204: ("None", None),
        **NO_RUNNER,
        **WRONG,
    },
    door=DOOR,
)
def poll_work() -> ResponseReturnValue:
    """Wait for work.

    Answers as soon as there is a work for a runner with its labels, or with 204 when the time is over.
    """
    runner = calling_runner()
    body = read(PollBody)
    told = {name: _words(getattr(body, name)) for name in ("version", "platform", "isolation")}
    work_queue.see_runner(runner, **{name: value for name, value in told.items() if value is not None})
    if body.labels is not None:
        runner.labels = checked_labels(body.labels)
    end = time.monotonic() + _wait(body.wait_seconds)
    with work_news().watch(runner.account_id) as news:
        while True:
            news.clear()
            row = work_queue.take_work(runner)
            answer = jsonify(work=_work(row)) if row is not None else None
            db.session.commit()
            if answer is not None:
                return answer
            if not _wait_for(news, end):
                return "", 204
            runner = calling_runner()


@bp.post("/work/<work_id>/ack")
@limiter.limit(CALLS, key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.RUNNERS_WORK,
    parameters=[WORK_ID],
    body=LeaseBody,
    answers={200: ("It is yours", HeldWork), **GONE, **WRONG},
    door=DOOR,
)
def acknowledge_work(work_id: str) -> ResponseReturnValue:
    """Begin a work. Without it the work goes to another runner after a few seconds."""
    runner = calling_runner()
    row = work_queue.held_work(runner, work_id, read(LeaseBody).lease)
    work_queue.begin_work(row)
    return _held(row)


@bp.post("/work/<work_id>/heartbeat")
@limiter.limit(CALLS, key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.RUNNERS_WORK,
    parameters=[WORK_ID],
    body=LeaseBody,
    answers={200: ("The lease is prolonged", HeldWork), **GONE, **WRONG},
    door=DOOR,
)
def prolong_lease(work_id: str) -> ResponseReturnValue:
    """Keep the lease of a work, and hear whether it is to stop."""
    runner = calling_runner()
    return _held(work_queue.held_work(runner, work_id, read(LeaseBody).lease))


@bp.post("/work/<work_id>/events")
@limiter.limit(CALLS, key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.RUNNERS_WORK,
    parameters=[WORK_ID],
    body=EventsBody,
    max_bytes=4 * MAX_OUTPUT,
    answers={200: ("It is kept", HeldWork), **GONE, **WRONG},
    door=DOOR,
)
def send_output(work_id: str) -> ResponseReturnValue:
    """Send what the command of an action wrote, in parts. An empty part is a heartbeat."""
    runner = calling_runner()
    body = read(EventsBody)
    if len(body.output) > MAX_OUTPUT:
        raise Invalid(f"'output' has more than {MAX_OUTPUT:,} characters. Send it in parts.")
    row = work_queue.held_work(runner, work_id, body.lease)
    if body.output:
        work_queue.add_output(row, body.seq, body.part, body.output)
    return _held(row)


@bp.post("/work/<work_id>/actions")
@limiter.limit(CALLS, key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.RUNNERS_WORK,
    parameters=[WORK_ID],
    body=ActionsBody,
    max_bytes=MAX_REPLY,
    answers={200: ("Those without a reply", Actions), **GONE, **WRONG},
    door=DOOR,
)
def exchange_actions(work_id: str) -> ResponseReturnValue:
    """Send replies to actions, and wait for the next ones.

    A reply that was sent before is left as it is, so the request may be repeated.
    """
    runner = calling_runner()
    body = read(ActionsBody)
    end = time.monotonic() + _wait(body.wait_seconds)
    replies = body.replies or []
    with work_news().watch(work_id) as news:
        while True:
            news.clear()
            row = work_queue.held_work(runner, work_id, body.lease)
            while replies:
                answered = replies.pop(0)
                work_queue.answer_action(row, answered.seq, answered.reply)
            found = work_queue.pending_actions(row)
            answer = jsonify(
                actions=[{"seq": seq, "verb": verb, "arguments": given} for seq, verb, given in found],
                stop=row.stop_asked,
                stop_seq=row.stop_seq,
            )
            db.session.commit()
            if found or row.stop_asked or not _wait_for_news(work_id, news, end):
                return answer
            runner = calling_runner()


@bp.post("/work/<work_id>/result")
@limiter.limit(CALLS, key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.RUNNERS_WORK,
    parameters=[WORK_ID],
    body=ResultBody,
    answers={200: ("It has ended", WorkResult), **GONE, **WRONG},
    door=DOOR,
)
def send_result(work_id: str) -> ResponseReturnValue:
    """End a work. Repeating it does nothing."""
    runner = calling_runner()
    body = read(ResultBody)
    row = work_queue.finish_work(runner, work_id, body.lease, error=_words(body.error, work_queue.MAX_ERROR))
    db.session.commit()
    return jsonify(state=row.state)


def _wait_for_news(work_id: str, news: Event, end: float) -> bool:
    """Wait until something is asked of the work, or it has ended, without a transaction meanwhile. False at the end of the time."""
    while _wait_for(news, end):
        news.clear()
        found = work_queue.has_news(work_id)
        db.session.commit()  # a rollback would read the key again, which may be gone
        if found:
            return True
    return False


def _wait_for(news: Event, end: float) -> bool:
    """Wait for news, a few seconds at most. False at the end of the time."""
    left = end - time.monotonic()
    if left <= 0:
        return False
    news.wait(min(left, LOOK_SECONDS))
    return True


def _held(row: RunnerWork) -> Response:
    response = jsonify(
        state=row.state,
        stop=row.stop_asked,
        stop_seq=row.stop_seq,
        lease_until=row.lease_until and iso(row.lease_until),
    )
    db.session.commit()
    return response


def _work(row: RunnerWork) -> dict[str, Any]:
    token = work_token(row)
    return {
        "id": row.id,
        "kind": row.kind,
        "lease": row.attempts,
        "lease_seconds": int(LEASE.total_seconds()),
        "labels": row.labels,
        "request": row.request,
        "model_token": token,
        "created_at": iso(row.created_at),
    }


def _wait(seconds: int | None) -> int:
    return max(0, min(seconds or 0, MAX_WAIT))


def _words(text: str | None, most: int = MAX_WORDS) -> str | None:
    """A short text in one line; None if there is none."""
    return " ".join(text.split())[:most] if text else None
