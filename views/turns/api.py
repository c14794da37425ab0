"""JSON API of turns: one turn, its events as they come, and stopping it."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast

import orjson
from flask import Blueprint, Flask, Response, current_app, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.core.db import db
from models.gateway import sse
from models.ledger import Account
from models.turns import Turn, TurnEngine, own_turn
from models.turns.event_log import LoggedEvent
from models.turns.turn_verbs import request_stop, take_to_end
from views.gateway.api.model_calls import gateway
from views.web import open_streams
from views.web.error_bodies import MANAGEMENT
from views.web.format import iso
from views.web.guards import require_key
from views.web.open_streams import StreamRoom, stream_room
from views.web.operation import Operation, ResponseModel, header, query

bp = Blueprint("turns_api", __name__)
EVENTS = "text/event-stream"
MAX_SEQ = 2**31 - 1
TOO_MANY = "Too many event streams of the key or the person are open (`too_many_streams`), or too many requests; see Retry-After"


class TurnAnswer(ResponseModel):
    """A turn of a conversation."""

    id: str
    object: str
    thread_id: str
    branch_id: str
    state: str = Field(
        description="queued, running, requires_action, paused, completed, failed, cancelled, interrupted or expired"
    )
    run_id: str | None
    required_action: dict[str, Any] | None = Field(description="The tool calls whose results the client owes")
    error: dict[str, Any] | None
    rounds: int
    budget: int | None = Field(description="Credits that it may spend")
    credits: int | None = Field(description="Credits that it has spent so far")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime | None


def init_app(app: Flask) -> None:
    """Create the process's engine of turns, and the register of their streams. The web worker starts the engine; elsewhere its first turn does."""
    open_streams.init_app(app)
    app.extensions["turns"] = TurnEngine(app.app_context, gateway(app))


def turn_engine() -> TurnEngine:
    """The engine of this process."""
    return cast(TurnEngine, current_app.extensions["turns"])


def turn_json(turn: Turn) -> dict[str, Any]:
    """A turn as the API gives it."""
    error = {"code": turn.error_code, "message": turn.error_message} if turn.error_code else None
    return {
        "id": turn.id,
        "object": "turn",
        "thread_id": turn.subject_id,
        "branch_id": turn.branch_id,
        "state": turn.state,
        "run_id": turn.run_id,
        "required_action": turn.required_action,
        "error": error,
        "rounds": turn.rounds,
        "budget": turn.budget,
        "credits": turn.credits,
        "created_at": iso(turn.created_at),
        "started_at": iso(turn.started_at),
        "ended_at": iso(turn.ended_at),
        "expires_at": iso(turn.expires_at),
    }


def event_stream(turn_id: str, after: int, room: StreamRoom) -> Response:
    """The events of a turn after number `after` as server-sent events, with their numbers as ids. The caller has checked who may see it."""
    watched = turn_engine().log.watch(turn_id, after)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response(room.stream(_frames(watched)), content_type=EVENTS, headers=headers)
    # the connection to PostgreSQL is free while the stream waits
    db.session.rollback()
    return response


def last_event_id() -> int:
    """The number after which a reconnecting client wants events: `Last-Event-ID`, or `after` in the query. Nonsense is 0."""
    value = request.headers.get("Last-Event-ID") or request.args.get("after") or "0"
    return min(int(value), MAX_SEQ) if value.isascii() and value.isdigit() and len(value) < 12 else 0


def _frames(watched: Iterator[LoggedEvent | None]) -> Iterator[bytes]:
    yield sse.comment(b"events")
    for event in watched:
        if event is None:
            yield sse.comment(b"waiting")
            continue
        yield b"id: %d\n%s" % (event.seq, sse.frame(orjson.dumps(event.data), event.type.encode()))


def _own(turn_id: str, *, lock: bool = False) -> Turn:
    """The caller's turn, as all routes of threads find it: the key's user's, paid by the key's account. Raises DomainError (401), NotFound."""
    caller = require_key()
    return own_turn(caller.user.id, Account.of(caller.session).id, turn_id.replace("\0", "\ufffd"), lock=lock)


@bp.get("/api/v1/turns/<turn_id>")
@Operation(
    tag="Turns",
    caller="key",
    scope="threads:read",
    answers={200: ("The turn", TurnAnswer), 404: "There is no such turn"},
    door=MANAGEMENT,
)
def turn(turn_id: str) -> ResponseReturnValue:
    """Return a turn."""
    return turn_json(_own(turn_id))


@bp.get("/api/v1/turns/<turn_id>/events")
@Operation(
    tag="Turns",
    caller="key",
    scope="threads:read",
    parameters=[
        header("Last-Event-ID", "Continue after this event"),
        query("after", "The same, for clients that cannot set the header"),
    ],
    answers={
        200: ("Server-sent events until the last one of the turn", str),
        404: "There is no such turn",
        429: TOO_MANY,
    },
    door=MANAGEMENT,
)
def events(turn_id: str) -> ResponseReturnValue:
    """Stream the events of a turn.

    Each has an `id`; a client that reconnects sends the last one as `Last-Event-ID`. Closing the stream does not stop the turn. Pieces of a message's text are no
    longer there once the whole message is: the event `message.completed` has it.
    """
    turn = _own(turn_id)
    return event_stream(turn.id, last_event_id(), stream_room(turn.user_id))


@bp.post("/api/v1/turns/<turn_id>/stop")
@Operation(
    tag="Turns",
    caller="key",
    scope="threads:write",
    answers={200: ("The turn; a running one ends in a moment", TurnAnswer), 404: "There is no such turn"},
    door=MANAGEMENT,
)
def stop(turn_id: str) -> ResponseReturnValue:
    """Stop a turn. What was produced is kept and charged. Has no effect on one that has ended."""
    found = _own(turn_id, lock=True)
    stop_turn(found)
    return turn_json(found)


def stop_turn(turn: Turn) -> None:
    """Stop a turn whose row is locked, and commit: a running one is asked to end; one that waits is taken by this process, which ends it."""
    engine = turn_engine()
    taken = not request_stop(turn) and take_to_end(turn, engine.owner)
    db.session.commit()
    if taken:
        engine.run(turn.id)
