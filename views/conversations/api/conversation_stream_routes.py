"""The events of a conversation as they come: server-sent events, and the WebSocket of the contract (3.12)."""

from collections.abc import Callable, Iterator
from typing import cast

import orjson
from flask import Flask, Response, current_app, request
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.accounts.sessions import Session
from models.conversations import own_conversation
from models.conversations.conversation_stream import ConversationNews, ConversationStream, WireEvent
from models.core.db import db
from models.core.errors import DomainError
from models.gateway import sse
from models.projects import ProjectCaller
from views.conversations.api.conversations_api_blueprint import CONVERSATION_ID, DOOR, TAG, YOURS, bp
from views.projects.api.projects_api_blueprint import project_caller
from views.turns.api import EVENTS, TOO_MANY, turn_engine
from views.web.open_streams import stream_room
from views.web.operation import Operation, header, query

AFTER = [
    header("Last-Event-ID", "Continue after this event"),
    query("after", "The same, for clients that cannot set the header"),
]


def init_app(app: Flask) -> None:
    """Create what wakes the watchers of this process."""
    app.extensions["conversation_news"] = ConversationNews(app.extensions["turns"])


@bp.get("/conversations/<conversation_id>/events")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[CONVERSATION_ID, *AFTER],
    answers={200: ("Server-sent events, until you leave", str), **YOURS, 429: TOO_MANY},
    door=DOOR,
)
def events(conversation_id: str) -> ResponseReturnValue:
    """Stream the events of a conversation, of one turn after the other.

    Without `Last-Event-ID` from the beginning of the turn in progress. Pieces of a text that is whole are no longer told: `message_complete` has it.
    """
    caller = project_caller()
    stream = conversation_stream(caller, conversation_id)
    room = stream_room(caller.user_id)
    frames = _frames(stream.events(last_event()))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response(room.stream(frames), content_type=EVENTS, headers=headers)
    # the connection to PostgreSQL is free while the stream waits
    db.session.rollback()
    return response


def conversation_stream(caller: ProjectCaller, conversation_id: str) -> ConversationStream:
    """The events of the caller's conversation, as long as they may see it. Raises NotFound, Forbidden."""
    found = own_conversation(caller, conversation_id)
    news = cast(ConversationNews, current_app.extensions["conversation_news"])
    return ConversationStream(turn_engine(), news, found.thread.id, still_allowed(caller, conversation_id))


def still_allowed(caller: ProjectCaller, conversation_id: str) -> Callable[[], bool]:
    """Whether the key or browser is still signed in, and may see the conversation."""
    session_token = caller.session.session_token

    def allowed() -> bool:
        session = db.session.get(Session, session_token)
        if session is None:
            return False
        try:
            own_conversation(ProjectCaller(caller.user_id, caller.account, session), conversation_id)
        except DomainError:
            return False
        return True

    return allowed


def last_event() -> str:
    """The id of the event after which the client goes on."""
    return (request.headers.get("Last-Event-ID") or request.args.get("after") or "")[:100]


def event_data(event: WireEvent) -> bytes:
    """The event as one JSON object, with its name as `type`."""
    return orjson.dumps({"type": event.name, **event.data})


def _frames(events: Iterator[WireEvent | None]) -> Iterator[bytes]:
    yield sse.comment(b"events")
    for event in events:
        if event is None:
            yield sse.comment(b"waiting")
            continue
        yield b"id: %s\n%s" % (event.id.encode(), sse.frame(event_data(event), event.name.encode()))
